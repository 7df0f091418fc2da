"""Images drawn with their problem: boxes where they are even outside the image, masks, what a mask holds.

Images are uint8 `[H, W, 3]`, RGB.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as masks

from ralamala_mm.analysis.detections import compressed
from ralamala_mm.apis.drawing import IGNORED, draw_areas, draw_objects, resize
from ralamala_mm.apis.masks import decode as decode_mask
from ralamala_mm.apis.masks import encode
from ralamala_mm.datasets.coco_objects import overlaps
from ralamala_mm.datasets.config import Color, distinct_colors
from ralamala_mm.datasets.contents import CocoContents, MarkedObject
from ralamala_mm.datasets.images import FileUserError, check_whole, decode
from ralamala_mm.datasets.segmentations import enclosing_box, segmentation_problem, valid_polygons

SIDE, _SMALLEST_SIDE = 560, 400  # pixels of the longer side, at most, and to which smaller images are enlarged
_MASK_SIDE, _LARGEST = 400, 640  # of an image beside its mask, and of a mask that is larger
_BAD, _MASK, _OTHER = (213, 94, 0), (26, 127, 193), (235, 235, 235)
_BEYOND = (150, 150, 150)  # what is outside the image
_USUAL = (90, 90, 90)  # classes of a mask in which other values are to be seen
_CROWDED = 40  # boxes beyond which their lines are thin
_FAR = 1e4  # pixels; OpenCV counts in 32 bits
_TINY, _RING = 8, 16  # pixels: of a box that gets a ring, and the ring's radius
_SAME = 0.6  # IoU of a mask's extent and its box from which on the mask is not drawn
_MARGIN = 0.03  # of the image, around a box outside of it
_MOST_VALUES = 12  # of a mask that are told apart


def draw_coco(contents: CocoContents, image: int, marked: Sequence[MarkedObject] = ()) -> np.ndarray:
    """An image with its boxes, those that are marked in a color of their own and with their masks.

    Args:
        contents: of the split.
        image: its position in them.
        marked: objects that have a problem; a box outside the image is drawn beside it.

    Raises:
        UserError: the image cannot be read.
    """
    width, height = contents.sizes[image].tolist()
    picture = _read(contents.files[contents.names[image]], (height, width))
    if picture.shape[:2] != (height, width):
        marked = [*marked, MarkedObject('', f'as annotated, {width}×{height}', (0, 0, width, height))]
    segmentations = [_readable(one, height, width) for one in marked]
    canvas, factor, offset = _canvas(picture, marked, segmentations, (height, width))
    own = contents.images == image
    others = _corners(contents.boxes[own], factor, offset)
    if marked:
        _outline(canvas, others, [_OTHER] * len(others), is_dark_below=False)
    else:
        palette = distinct_colors(len(contents.classes))
        _outline(canvas, others, [palette[label] for label in contents.labels[own]], len(others) <= _CROWDED)
    boxes = _corners(np.array([one.box for one in marked]), factor, offset)
    drawn = [(one, rle) for one, mask, box in zip(marked, segmentations, boxes, strict=True)
             if mask and (rle := _on_canvas(mask, canvas, factor, offset, (height, width))) and _is_elsewhere(rle, box)]
    if drawn:
        names = [f'mask: {one.label}' for one, _ in drawn]
        extents = [_extent(rle) for _, rle in drawn]
        canvas = draw_objects(canvas, extents, range(len(drawn)), names, [_MASK] * len(drawn), masks=[rle for _, rle in drawn])
    if marked:
        prefix = 'box: ' if drawn else ''
        _ring(canvas, boxes)
        canvas = draw_objects(canvas, boxes, range(len(marked)), [prefix + one.label for one in marked], [_BAD] * len(marked))
    return canvas


def draw_mask(image_path: str, mask_path: str, values: dict[int, str]) -> list[tuple[str, np.ndarray]]:
    """(caption, image) of an image and of its mask, as large as they are to each other.

    Args:
        image_path: the image's file.
        mask_path: the mask's.
        values: the class that each of its values stands for.
    """
    views = []
    try:
        picture = _read(image_path)
    except (OSError, FileUserError):
        picture = None
    factor = 1.0
    if picture is not None:
        shown = resize(picture, _MASK_SIDE)
        factor = max(shown.shape[:2]) / max(picture.shape[:2])
        views.append((f'image, {picture.shape[1]}×{picture.shape[0]}', shown))
    try:
        with Image.open(mask_path) as opened:
            mask = np.asarray(opened.convert('RGB') if opened.mode in ('RGBA', 'CMYK', 'LA') else opened)
    except Exception as error:  # decoders of broken files raise whatever they come upon; the card says what is wrong
        logging.getLogger(__name__).debug('%s is not drawn: %s', mask_path, error)
        return views
    caption = f'mask, {mask.shape[1]}×{mask.shape[0]}'
    side = min(_LARGEST, max(1, round(factor * max(mask.shape[:2]))))
    if mask.ndim == 3:
        caption, shown = f'{caption}, of colors', resize(np.ascontiguousarray(mask[..., :3]), side)
    else:
        shown = _colored(mask.astype(np.int64), values, side)
    if views:  # both as large to each other as their files are
        height, width = np.maximum(views[0][1].shape[:2], shown.shape[:2])
        views = [(views[0][0], _padded(views[0][1], height, width))]
        shown = _padded(shown, height, width)
    return [*views, (caption, shown)]


def _padded(image: np.ndarray, height: int, width: int) -> np.ndarray:
    return cv2.copyMakeBorder(image, 0, height - image.shape[0], 0, width - image.shape[1], cv2.BORDER_CONSTANT, value=_BEYOND)


def _colored(mask: np.ndarray, values: dict[int, str], side: int) -> np.ndarray:
    """A mask `[h, w]` in colors, its areas named; values that stand for no class in the color of what is wrong."""
    found, counts = np.unique(mask, return_counts=True)
    strange = [value for value in found.tolist() if value not in values and value != IGNORED]
    usual = sorted((-count, value) for value, count in zip(found.tolist(), counts.tolist(), strict=True) if value in values)
    named = [*strange[:_MOST_VALUES], *(value for _, value in usual[:_MOST_VALUES])]
    usual_colors = [_USUAL] * len(values) if strange else distinct_colors(len(values))
    colors = dict(zip(values, usual_colors, strict=True))
    palette = [colors.get(value, _BAD) for value in named]
    names = [f'value {value}' if value in strange else values[value] for value in named]
    labels = np.full(mask.shape, len(named), np.int64)
    for i, value in enumerate(named):
        labels[mask == value] = i
    small = resize(np.full((*mask.shape, 3), 225, np.uint8), side)
    return draw_areas(small, labels, names, palette)


def _read(path: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """An image, complete; as it is stored where only that has the size (height, width), and else as EXIF turns it."""
    content = Path(path).read_bytes()
    check_whole(content, path)
    try:
        image = decode(content, path, size=size)
    except FileUserError as error:
        if error.kind != 'other size':
            raise
        image = decode(content, path)
    return np.ascontiguousarray(image[..., ::-1])


def _readable(one: MarkedObject, height: int, width: int) -> list | dict | None:
    """An object's segmentation if it can be drawn."""
    if not one.segmentation or segmentation_problem(one.segmentation, height, width):
        return None
    if isinstance(one.segmentation, list):
        return valid_polygons(one.segmentation) or None
    return one.segmentation


def _canvas(picture: np.ndarray, marked: Sequence[MarkedObject], masks: Sequence[list | dict | None],
            size: tuple[int, int]) -> tuple[np.ndarray, float, np.ndarray]:
    """The image with room for what lies outside of it, the factor by which it is resized, and x, y of its corner."""
    whole = np.array(picture.shape[1::-1], float)
    extents = [(0, 0, 0, 0), *((x, y, x + width, y + height) for x, y, width, height in (one.box for one in marked)),
               *(enclosing_box(mask, *size) for mask in masks if mask)]
    extents = np.nan_to_num(np.array(extents, float))
    least = np.clip(extents[:, :2].min(0), -whole.max(), 0)
    most = np.clip(extents[:, 2:].max(0), whole, whole + whole.max())
    least -= _MARGIN * whole.max() * (least < 0)
    most += _MARGIN * whole.max() * (most > whole)
    reach = most - least
    factor = min(SIDE, max(_SMALLEST_SIDE, reach.max())) / reach.max()
    width, height = np.maximum(1, (factor * whole).round()).astype(int).tolist()
    x, y = (-factor * least).round().astype(int).tolist()
    columns, rows = np.maximum((factor * reach).round(), [x + width, y + height]).astype(int).tolist()
    canvas = np.full((rows, columns, 3), _BEYOND, np.uint8)
    interpolation = cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA
    canvas[y:y + height, x:x + width] = cv2.resize(picture, (width, height), interpolation=interpolation)
    return canvas, factor, np.array([x, y], float)


def _corners(boxes: np.ndarray, factor: float, offset: np.ndarray) -> np.ndarray:
    """x, y, width, height in pixels of the image → x1, y1, x2, y2 on the canvas, all `[n, 4]`."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1) * factor + np.tile(offset, 2)


def _outline(canvas: np.ndarray, boxes: np.ndarray, colors: Sequence[Color], is_dark_below: bool) -> None:
    """Thin boxes without names, in place."""
    for (x1, y1, x2, y2), color in zip(boxes.clip(-_FAR, _FAR).round().astype(int).tolist(), colors, strict=True):
        if is_dark_below:
            cv2.rectangle(canvas, (x1, y1), (x2, y2), (40, 40, 40), 3, cv2.LINE_AA)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), color, 1, cv2.LINE_AA)


def _ring(canvas: np.ndarray, boxes: np.ndarray) -> None:
    """A ring around what is too small to be seen, in place."""
    for x1, y1, x2, y2 in boxes.clip(0, np.tile(canvas.shape[1::-1], 2)).tolist():
        if min(x2 - x1, y2 - y1) < _TINY:
            for color, line in (((40, 40, 40), 6), (_BAD, 3)):
                cv2.circle(canvas, (round((x1 + x2) / 2), round((y1 + y2) / 2)), _RING, color, line, cv2.LINE_AA)


def _on_canvas(mask: list | dict, canvas: np.ndarray, factor: float, offset: np.ndarray, size: tuple[int, int]) -> dict | None:
    """A segmentation as run lengths of the canvas; None if nothing of it is there."""
    height, width = canvas.shape[:2]
    if isinstance(mask, list):
        moved = [np.array(points, float).reshape(-1, 2) * factor + offset for points in mask]
        found = compressed([points.clip(-_FAR, _FAR).ravel().tolist() for points in moved], height, width)
    else:
        scaled = cv2.resize(decode_mask(compressed(mask, *size)).astype(np.uint8), None, fx=factor, fy=factor,
                            interpolation=cv2.INTER_NEAREST)
        x, y = offset.astype(int).tolist()
        part = scaled[:height - y, :width - x]
        whole = np.zeros((height, width), bool)
        whole[y:y + part.shape[0], x:x + part.shape[1]] = part
        found = encode(whole)
    return found if masks.area(found) else None


def _is_elsewhere(rle: dict, box: np.ndarray) -> bool:
    """Whether a mask is not where its box, x1, y1, x2, y2 on the canvas, is."""
    return float(overlaps(np.array([_extent(rle)]), box[None])[0]) < _SAME


def _extent(rle: dict) -> list[float]:
    x, y, width, height = masks.toBbox(rle)
    return [x, y, x + width, y + height]
