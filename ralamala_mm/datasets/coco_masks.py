"""Whether COCO segmentations can be read, evaluated, and lie in their boxes."""

from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta, Raw, Struct

from .coco import CheckedSplit
from .coco_objects import TOO_MANY, Objects, corners, overlaps
from .report import CORRECTED, ERROR, NOTE
from .segmentations import (
    FARTHEST,
    cannot_be_evaluated,
    enclosing_box,
    has_strays,
    is_degenerate,
    is_empty,
    is_rectangle,
    segmentation_problem,
)

_ENCLOSED = 20_000  # simple polygons that are compared with their boxes; the others are read, and no more
_SAME_BOX = 0.5  # IoU from which a mask belongs to its box, where tools round and people draw boxes by hand
_ROUNDING = 2.0  # pixels by which tools let boxes and masks differ, however small they are


class _Simple(Struct, gc=False):
    """One polygon of at least three points that pycocotools can draw, if the count is even."""

    segmentation: Annotated[
        list[Annotated[list[Annotated[float, Meta(ge=-FARTHEST, le=FARTHEST)]], Meta(min_length=6)]],
        Meta(min_length=1, max_length=1)]


def _are_simple(texts: Sequence[Raw]) -> np.ndarray:
    """Whether the segmentation is a `_Simple` one, of each of N annotations, `[N]`; decoded by msgspec, as these are many."""
    decode = msgspec.json.Decoder(_Simple).decode
    are_simple = []
    for text in texts:
        try:
            are_simple.append(not len(decode(text).segmentation[0]) % 2)
        except msgspec.DecodeError:  # run lengths, several polygons, nothing, or what is no segmentation
            are_simple.append(False)
    return np.array(are_simple, dtype=bool)


def check_segmentations(checked: CheckedSplit, objects: Objects, boxless: np.ndarray) -> np.ndarray:
    """Masks that are missing, cannot be read, or lie elsewhere than their boxes; returns which objects are not used."""
    content = checked.split.content
    annotations = content['annotations']
    lacking, unreadable, unreadable_at, strays, rectangles = [], [], [], [], []
    degenerate = np.zeros(len(objects.positions), dtype=bool)
    covered = np.full((len(objects.positions), 4), np.nan)
    step = 1 + len(objects.positions) // _ENCLOSED
    left = ~_are_simple(annotations.texts)[objects.positions]
    left[::step] = True
    for row in np.flatnonzero(left).tolist():  # a few, of a large file
        position, is_boxless = int(objects.positions[row]), boxless[row]
        segmentation = annotations.segmentation(position)
        image = content['images'][objects.images[row]]
        if not segmentation:
            lacking.append(position)
        elif text := segmentation_problem(segmentation, image['height'], image['width']):
            unreadable_at.append(position)
            unreadable.append(f'{checked.named([position])[0]} of {image["file_name"]} {text}')
        elif is_degenerate(segmentation) or is_empty(segmentation, image['height'], image['width']):
            degenerate[row] = True
        else:
            if not is_boxless and not row % step:
                covered[row] = enclosing_box(segmentation, image['height'], image['width'])
            if has_strays(segmentation):
                strays.append(position)
            if is_rectangle(segmentation):
                rectangles.append(position)
    checked.tell(ERROR, 'annotations with a box but no mask', checked.named(lacking),
                 'this model needs masks: draw them, or train a RetinaNet (configs/retinanet_*)', annotations=lacking)
    what = 'masks that are rectangles along the axes' + (f', of {len(covered[::step])} inspected' if step > 1 else '')
    checked.tell(NOTE, what, checked.named(rectangles), 'learnt as drawn; some tools write boxes so, whatever the outline was',
                 annotations=rectangles)
    checked.tell(ERROR, 'segmentations that cannot be read', unreadable, annotations=unreadable_at)
    _check_masks_in_boxes(checked, objects, covered)
    without_points = checked.named(objects.positions[degenerate])
    degenerate_at = dict(annotations=objects.positions[degenerate])
    points = 'polygons of fewer than three points, or run lengths of no pixel'
    parts = 'segmentations with parts of an odd count or fewer than three points'
    if not checked.evaluated:
        checked.tell(NOTE, points, without_points, 'training leaves them out', **degenerate_at)
        return degenerate
    stops = any(cannot_be_evaluated(annotations.segmentation(i)) for i in strays)
    checked.needs_copy |= checked.tell(CORRECTED, points, without_points, correcting='left out', needed=True,
                                       **degenerate_at)
    checked.needs_copy |= checked.tell(CORRECTED, parts, checked.named(strays), correcting='these parts are left out',
                                       needed=stops, annotations=strays)
    checked.left_out.update(objects.positions[degenerate].tolist())
    return degenerate


def _check_masks_in_boxes(checked: CheckedSplit, objects: Objects, covered: np.ndarray) -> None:
    """Whether masks lie in their boxes; where many do not, what their numbers are instead."""
    known = np.flatnonzero(~np.isnan(covered).any(1))
    away = known[~_belong(covered[known], corners(objects.boxes[known]))]
    named, where = checked.named(objects.positions[away]), dict(annotations=objects.positions[away])
    what = 'masks that do not lie in their boxes'
    if len(known) < len(objects.positions):
        what += f', of {len(known)} inspected'
    if len(away) <= TOO_MANY * len(known):
        checked.tell(NOTE, what, named, 'one of both is wrong', **where)
        return
    boxes, limits = corners(objects.boxes[away]), np.tile(objects.limits[away], 2)
    factor = np.median((covered[away, 2:] - covered[away, :2]) / np.maximum(objects.boxes[away, 2:], 1e-9))
    shift = np.tile(np.median(covered[away, :2] - boxes[:, :2], axis=0), 2)
    by_rows = _by_rows(checked, objects, away)
    means = {
        'their points are shares of the image from 0 to 1, and COCO\'s are pixels': covered[away] * limits,
        'their points are y, x, and COCO\'s are x, y': np.where(np.isnan(by_rows), covered[away][:, [1, 0, 3, 2]], np.nan),
        'their run lengths go by rows, and COCO\'s go by columns': by_rows,
        f'they are {factor:.3g} times as large as their boxes: of images of another size?': covered[away] / max(factor, 1e-9),
        f'they are shifted against their boxes by x {shift[0]:+.0f}, y {shift[1]:+.0f} pixels': covered[away] - shift}
    fits = {text: _belong(boxes_there, boxes).mean() for text, boxes_there in means.items()}
    likely = max(fits, key=fits.__getitem__)
    share = np.median(overlaps(covered[away], boxes, 'iof'))
    if fits[likely] > 0.5:
        checked.tell(ERROR, what, named, likely, **where)
    elif share < 0.5:  # of a mask, in its box
        checked.tell(ERROR, what, named, 'masks and boxes are of different images or objects', **where)
    else:
        checked.tell(NOTE, what, named, 'they are much smaller than their boxes: fine where boxes include what is hidden',
                     **where)


def _by_rows(checked: CheckedSplit, objects: Objects, rows: np.ndarray) -> np.ndarray:
    """Boxes x1, y1, x2, y2 of run lengths that are read row by row, `[R, 4]`; NaN for polygons."""
    content = checked.split.content
    boxes = np.full((len(rows), 4), np.nan)
    for i, row in enumerate(rows):
        image = content['images'][objects.images[row]]
        segmentation = content['annotations'].segmentation(objects.positions[row])
        if isinstance(segmentation, dict):
            boxes[i] = enclosing_box(segmentation, image['height'], image['width'], by_rows=True)
    return boxes


def _belong(covered: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Whether boxes x1, y1, x2, y2 are the same but for rounding and inexact drawing, row by row; not if one is NaN."""
    return (overlaps(covered, boxes) >= _SAME_BOX) | (np.abs(covered - boxes).max(1) <= _ROUNDING)
