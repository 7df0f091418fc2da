"""One COCO segmentation, a list of polygons or run lengths: whether it can be read, and which box it fills."""

import math
from collections.abc import Sequence

import numpy as np
from pycocotools import mask as masks

FARTHEST = 1e6  # pixels; pycocotools draws every point of a polygon, in 32-bit integers


def segmentation_problem(segmentation: object, height: int, width: int) -> str | None:
    """Why a COCO segmentation is none of an image of this size, or None.

    Polygons with an odd count or fewer than three points pass: MMDetection leaves them out.

    Args:
        segmentation: a list of polygons, or run lengths as a list or compressed.
        height: of the image, in pixels.
        width: of the image, in pixels.
    """
    if isinstance(segmentation, list):
        return _polygon_problem(segmentation)
    if not isinstance(segmentation, dict):
        return f'is a {type(segmentation).__name__}, neither polygons nor run lengths'
    size, counts = segmentation.get('size'), segmentation.get('counts')
    if not isinstance(size, list | tuple) or list(size) != [height, width]:
        return f'has run lengths for size {size} (height, width), and its image is [{height}, {width}]'
    if isinstance(counts, str | bytes):
        counts = _decompressed(counts)
    total = _total(counts)
    if total is None:
        return 'has run lengths that cannot be read'
    if total != height * width:
        return f'has run lengths for {total} pixels, and its image has {height * width}'
    return None


def is_degenerate(segmentation: object) -> bool:
    """Polygons without one of at least three points: learnt from by nobody, and taken for boxes by pycocotools."""
    return isinstance(segmentation, list) and not any(_has_points(polygon) for polygon in segmentation)


def cannot_be_evaluated(segmentation: object) -> bool:
    """Degenerate polygons, and those whose first has at most four values: by it, pycocotools takes all for what they are not."""
    return is_degenerate(segmentation) or (isinstance(segmentation, list) and len(segmentation[0]) <= 4)


def is_rectangle(segmentation: object) -> bool:
    """Whether it is one polygon of four corners along the image's axes."""
    if not isinstance(segmentation, list) or len(segmentation) != 1 or len(segmentation[0]) != 8:
        return False
    x, y = ({round(value, 2) for value in segmentation[0][axis::2]} for axis in (0, 1))
    return len(x) == len(y) == 2


def has_strays(segmentation: object) -> bool:
    """Polygons of which some, and not all, have an odd count or fewer than three points; training leaves these parts out."""
    return isinstance(segmentation, list) and 0 < len(valid_polygons(segmentation)) < len(segmentation)


def valid_polygons(segmentation: list) -> list:
    """The polygons of at least three points."""
    return [polygon for polygon in segmentation if _has_points(polygon)]


def _has_points(polygon: Sequence) -> bool:
    return len(polygon) >= 6 and len(polygon) % 2 == 0


def _polygon_problem(polygons: list) -> str | None:
    for polygon in polygons:
        if not isinstance(polygon, list | tuple):
            return 'is a flat list: COCO has a list of polygons, each a list x, y, x, y, …'
        if len(polygon) == 2 and len(polygons) > 2:
            return 'is a list of points: COCO has a list of polygons, each a flat list x, y, x, y, …'
        try:
            if not math.isfinite(sum(polygon)):
                return 'has a polygon with values that are no finite numbers'
            if polygon and (max(polygon) > FARTHEST or min(polygon) < -FARTHEST):
                return 'has a polygon that lies far beyond its image'
        except (TypeError, OverflowError):
            return 'has a polygon with values that are no numbers'
    return None


def _total(counts: object) -> int | None:
    """How many pixels run lengths are for; None if they are no list of counts."""
    if isinstance(counts, np.ndarray):
        return int(counts.sum()) if counts.size and counts.min() >= 0 else None
    if not isinstance(counts, list) or not counts or not all(isinstance(count, int) and count >= 0 for count in counts):
        return None
    return sum(counts)


def _decompressed(text: str | bytes) -> np.ndarray | None:
    """Run lengths from COCO's text: five bits a character, the lowest first, from the third on as differences.

    Returns:
        int64 `[runs]`, or None if the text is none.
    """
    try:
        values = np.frombuffer(text.encode('ascii') if isinstance(text, str) else text, np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        return None
    if not values.size or values.min() < 0 or values.max() > 63 or values[-1] & 32:
        return None
    ends = np.flatnonzero(~values & 32)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts).max() > 6:  # a count has at most 32 bits
        return None
    places = 5 * (np.arange(values.size) - np.repeat(starts, ends - starts + 1))
    runs = np.add.reduceat((values & 31) << places, starts)
    runs -= np.where(values[ends] & 16, 1 << (places[ends] + 5), 0)  # the highest bit is the sign
    for first in (1, 2):
        runs[first::2] = np.cumsum(runs[first::2])
    return runs


def is_empty(segmentation: object, height: int, width: int) -> bool:
    """Whether readable run lengths are of no pixel; False for polygons."""
    return isinstance(segmentation, dict) and math.isnan(enclosing_box(segmentation, height, width)[0])


def enclosing_box(segmentation: object, height: int, width: int, by_rows: bool = False) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 of what a readable segmentation covers, in pixels; four NaN if it is nothing.

    Args:
        segmentation: as in `segmentation_problem`.
        height: of the image, in pixels.
        width: of the image, in pixels.
        by_rows: read run lengths row by row, and not column by column as COCO does.
    """
    if isinstance(segmentation, list):
        points = [value for polygon in valid_polygons(segmentation) for value in polygon]
        return (min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])) if points else (math.nan,) * 4
    size = (width, height) if by_rows else (height, width)
    rle = dict(size=size, counts=segmentation['counts'])
    compressed = masks.frPyObjects(rle, *size) if isinstance(rle['counts'], list) else rle
    x, y, w, h = masks.toBbox(compressed)
    if by_rows:
        x, y, w, h = y, x, h, w
    return (x, y, x + w, y + h) if w and h else (math.nan,) * 4


def run_lengths_of(segmentation: list | dict, height: int, width: int) -> dict | None:
    """Compressed run lengths of a readable segmentation; None of polygons that are none.

    Args:
        segmentation: as in `segmentation_problem`.
        height: of the image, in pixels.
        width: of the image, in pixels.
    """
    if isinstance(segmentation, dict):
        return masks.frPyObjects(segmentation, height, width) if isinstance(segmentation['counts'], list) else segmentation
    polygons = valid_polygons(segmentation)
    return masks.merge(masks.frPyObjects(polygons, height, width)) if polygons else None
