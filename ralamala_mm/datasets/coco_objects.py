"""The objects of a COCO file as arrays, by which they are checked."""

import collections
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .coco_annotations import id_column

TOO_MANY = 0.2  # share of objects or images with the same defect, beyond which the file means something else


@dataclass
class Objects:
    """The annotations whose image and category are listed, as arrays of N rows."""

    positions: np.ndarray  # int64, in `annotations`
    images: np.ndarray  # int64, in `images`
    categories: np.ndarray  # int64, in `categories`
    boxes: np.ndarray  # float64 [N, 4]: x, y, width, height in pixels
    limits: np.ndarray  # float64 [N, 2]: width and height of the image
    crowd: np.ndarray  # bool: marked iscrowd
    ignore: np.ndarray  # bool: marked ignore
    unlisted: dict[str, np.ndarray]  # positions of annotations whose 'images' or 'categories' are not listed

    @classmethod
    def of(cls, content: dict) -> 'Objects':
        annotations = content['annotations']
        image, category = (_rows(references, content[part]) for part, references in (
            ('images', annotations.image_ids), ('categories', annotations.category_ids)))
        known = np.flatnonzero((image >= 0) & (category >= 0))
        unlisted = dict(images=np.flatnonzero(image < 0), categories=np.flatnonzero(category < 0))
        sizes = np.array([(entry['width'], entry['height']) for entry in content['images']], dtype=float).reshape(-1, 2)
        return cls(known, image[known], category[known], annotations.boxes[known], sizes[image[known]],
                   annotations.crowd[known] > 0, annotations.ignore[known] > 0, unlisted)

    def by_class(self, content: dict, mask: np.ndarray) -> collections.Counter:
        """How many of those in a mask there are by class name."""
        categories = content['categories']
        counts = np.bincount(self.categories[mask], minlength=len(categories)).tolist()
        by_class = collections.Counter()
        for category, count in zip(categories, counts, strict=True):
            by_class[category['name']] += count
        return +by_class


def _rows(references: np.ndarray, entries: Sequence[dict]) -> np.ndarray:
    """Where the entries with these ids are, int64 `[N]`; -1 where there is none."""
    ids = id_column([entry['id'] for entry in entries])
    if object in (ids.dtype, references.dtype):
        rows = {given: i for i, given in enumerate(ids.tolist())}
        return np.array([rows.get(reference, -1) for reference in references.tolist()], dtype=np.int64)
    order = np.argsort(ids, kind='stable')
    rows = order[np.searchsorted(ids[order], references, side='right') - 1]  # the last one of those with the same id
    return np.where(ids[rows] == references, rows, -1)


def corners(boxes: np.ndarray) -> np.ndarray:
    """x, y, width, height → x1, y1, x2, y2, all `[N, 4]`."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def overlaps(a: np.ndarray, b: np.ndarray, mode: str = 'iou') -> np.ndarray:
    """Overlap of boxes x1, y1, x2, y2, row by row, `[N]`: 'iou', or 'iof', the share of the first; NaN if a value is."""
    from mmdet.structures.bbox import bbox_overlaps  # segmentors are inspected without MMDetection

    return bbox_overlaps(torch.from_numpy(a), torch.from_numpy(b), mode, is_aligned=True).numpy()
