"""Instance masks as COCO's run-length encodings, which take little memory in images of any size."""

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco_mask

RunLengths = dict  # size: [height, width], counts: bytes


def encode_at(mask: np.ndarray, y: int, x: int, height: int, width: int) -> RunLengths:
    """The encoding of a mask that lies within a larger image.

    Args:
        mask: `[h, w]` bool, with its upper left corner at (y, x).
        y: row of the corner.
        x: column of the corner.
        height: of the image.
        width: of the image.
    """
    columns = np.flatnonzero(mask.any(axis=0))
    if not columns.size:
        return coco_mask.frPyObjects(dict(size=[height, width], counts=[height * width]), height, width)
    first, last = columns[0], columns[-1] + 1
    # Runs go down the columns: only those that the mask is in have to be inspected.
    strip = np.zeros((last - first, height), bool)
    strip[:, y:y + mask.shape[0]] = mask[:, first:last].T
    strip = strip.ravel()
    ends = np.flatnonzero(strip[1:] != strip[:-1]) + 1
    ends = np.concatenate([[0] if strip[0] else [], ends, [strip.size] if strip[-1] else []]) + (x + first) * height
    counts = np.diff(ends, prepend=0, append=height * width).astype(int).tolist()
    if counts[-1] == 0:
        del counts[-1]
    return coco_mask.frPyObjects(dict(size=[height, width], counts=counts), height, width)


def encode(mask: np.ndarray) -> RunLengths:
    """The encoding of a mask `[H, W]`, bool."""
    return coco_mask.encode(np.asfortranarray(mask, np.uint8))


def decode(encoded: RunLengths) -> np.ndarray:
    """The mask `[H, W]`, bool."""
    return coco_mask.decode(encoded).astype(bool)


def union(encoded: Sequence[RunLengths]) -> RunLengths:
    return coco_mask.merge(list(encoded))


def area(encoded: RunLengths) -> int:
    return int(coco_mask.area(encoded))
