"""The objects of a COCO file as arrays, by which they are checked."""

import collections
from dataclasses import dataclass

import numpy as np
import torch

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
        images = {image['id']: i for i, image in enumerate(content['images'])}
        categories = {category['id']: i for i, category in enumerate(content['categories'])}
        annotations = content['annotations']
        image = np.array([images.get(a.image_id, -1) for a in annotations], dtype=np.int64)
        category = np.array([categories.get(a.category_id, -1) for a in annotations], dtype=np.int64)
        known = np.flatnonzero((image >= 0) & (category >= 0))
        boxes = content['boxes'][known]
        unlisted = dict(images=np.flatnonzero(image < 0), categories=np.flatnonzero(category < 0))
        crowd, ignore = (np.array([bool(getattr(a, key)) for a in annotations], dtype=bool)[known]
                         for key in ('iscrowd', 'ignore'))
        sizes = np.array([(entry['width'], entry['height']) for entry in content['images']], dtype=float).reshape(-1, 2)
        return cls(known, image[known], category[known], boxes, sizes[image[known]], crowd, ignore, unlisted)

    def by_class(self, content: dict, mask: np.ndarray) -> collections.Counter:
        """How many of those in a mask there are by class name."""
        categories = content['categories']
        counts = np.bincount(self.categories[mask], minlength=len(categories)).tolist()
        by_class = collections.Counter()
        for category, count in zip(categories, counts, strict=True):
            by_class[category['name']] += count
        return +by_class


def corners(boxes: np.ndarray) -> np.ndarray:
    """x, y, width, height → x1, y1, x2, y2, all `[N, 4]`."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def overlaps(a: np.ndarray, b: np.ndarray, mode: str = 'iou') -> np.ndarray:
    """Overlap of boxes x1, y1, x2, y2, row by row, `[N]`: 'iou', or 'iof', the share of the first; NaN if a value is."""
    from mmdet.structures.bbox import bbox_overlaps  # segmentors are inspected without MMDetection

    return bbox_overlaps(torch.from_numpy(a), torch.from_numpy(b), mode, is_aligned=True).numpy()
