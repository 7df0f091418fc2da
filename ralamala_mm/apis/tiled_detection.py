"""Detection in large pictures: by tiles, and once in the picture made small, for what is larger than a tile."""

import cv2
import numpy as np
import torch
from mmengine.structures import BaseDataElement, InstanceData

from .masks import RunLengths, encode, encode_at
from .merging import Pieces, concatenate, merge
from .tiling import Infer, Window, predict_windows, windows_of

_BORDER = 0.02  # of a tile: a box that comes so near to its border is taken for cut


def detect_in_tiles(infer: Infer, picture: np.ndarray, tile: int, overlap: int, batch_size: int) -> BaseDataElement:
    """A detector's data sample for a picture of any size, with run-length encoded masks.

    Args:
        infer: predicts pictures as a whole.
        picture: `[H, W, 3]`.
        tile: pixels of a tile's sides.
        overlap: pixels that neighbours share.
        batch_size: tiles at a time.
    """
    height, width = picture.shape[:2]
    windows = windows_of(height, width, tile, overlap)
    if len(windows) == 1:
        sample = infer([picture])[0]
        if 'masks' in sample.pred_instances:
            sample.pred_instances.masks = [encode(mask.numpy()) for mask in sample.pred_instances.masks]
        return sample
    sample, found = _in_small(infer, picture, tile, overlap)
    parts = [found]
    predicted = predict_windows(infer, picture, windows, batch_size)
    parts += [_pieces(piece, window, height, width, tile) for piece, window in zip(predicted, windows, strict=True)]
    merged = merge(concatenate(parts))
    instances = InstanceData(bboxes=merged.boxes, scores=merged.scores, labels=merged.labels)
    if merged.masks is not None:
        instances.masks = merged.masks
    sample.pred_instances = instances
    sample.set_metainfo(dict(ori_shape=(height, width)))
    return sample


def _pieces(sample: BaseDataElement, window: Window, height: int, width: int, tile: int) -> Pieces:
    """What was found in a tile, in the picture's coordinates."""
    found = sample.pred_instances
    boxes = found.bboxes.float() + torch.tensor([window.x0, window.y0, window.x0, window.y0])
    near = _BORDER * tile
    is_cut = ((boxes[:, 0] < window.x0 + near) & (window.x0 > 0) | (boxes[:, 1] < window.y0 + near) & (window.y0 > 0)
              | (boxes[:, 2] > window.x1 - near) & (window.x1 < width) | (boxes[:, 3] > window.y1 - near) & (window.y1 < height))
    masks = [encode_at(mask.numpy(), window.y0, window.x0, height, width) for mask in found.masks] if 'masks' in found else None
    place = torch.tensor([window.x0, window.y0, window.x1, window.y1], dtype=boxes.dtype)
    return Pieces(boxes, found.scores, found.labels, is_cut, place.expand(len(boxes), 4), masks)


def _in_small(infer: Infer, picture: np.ndarray, tile: int, overlap: int) -> tuple[BaseDataElement, Pieces]:
    """The picture made as small as a tile: its data sample, and the objects that are larger than the overlap, which may be
    whole in no tile."""
    height, width = picture.shape[:2]
    scale = tile / max(height, width)
    small = cv2.resize(picture, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_AREA)
    sample = infer([small])[0]
    found = sample.pred_instances
    boxes = found.bboxes.float() * torch.tensor([width / small.shape[1], height / small.shape[0]] * 2)
    large = torch.nonzero((boxes[:, 2:] - boxes[:, :2]).amax(1) > overlap).flatten()
    masks = [_enlarged(found.masks[i].numpy(), height, width) for i in large.tolist()] if 'masks' in found else None
    place = torch.tensor([0, 0, width, height], dtype=boxes.dtype)
    is_cut = torch.zeros(len(large), dtype=torch.bool)
    return sample, Pieces(boxes[large], found.scores[large], found.labels[large], is_cut, place.expand(len(large), 4), masks)


def _enlarged(mask: np.ndarray, height: int, width: int) -> RunLengths:
    """A small picture's mask in the large one."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return encode_at(mask, 0, 0, height, width)
    y0, y1 = (round(edge * height / mask.shape[0]) for edge in (rows[0], rows[-1] + 1))
    x0, x1 = (round(edge * width / mask.shape[1]) for edge in (columns[0], columns[-1] + 1))
    part = mask[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1].astype(np.float32)
    larger = cv2.resize(part, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR) > 0.5
    return encode_at(larger, y0, x0, height, width)
