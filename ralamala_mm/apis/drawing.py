"""Predictions drawn on a picture, to be read at any size: lines and letters grow with it, labels keep out of each other's way."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from mmengine.structures import BaseDataElement
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .colours import Colour, readable_on
from .masks import decode

_LETTERS = 0.019  # height of letters, in the root of the picture's area
_SMALLEST_LETTERS = 11  # pixels
_LETTERS_OF_BOX = 0.2  # height of letters at most, in the root of the box's area, but a third of the others
_MASK, _AREA = 0.45, 0.5  # how much of the colour there is on an object, and on a segmentor's area
_NAMED = 0.003  # share of the picture from which on a segmentor's area gets its name
_LOOKED_AT = 1000  # pixels of the longer side at which places for names are looked for


def draw(picture: np.ndarray, sample: BaseDataElement, classes: Sequence[str], palette: Sequence[Colour]) -> np.ndarray:
    """A copy of a picture with its predictions.

    Args:
        picture: `[H, W, 3]` BGR, or grey `[H, W]`, from 0 to 255.
        sample: its data sample, of `predict`.
        classes: names of the labels.
        palette: their colours.
    """
    canvas = np.ascontiguousarray(picture.clip(0, 255), np.uint8).copy()  # pipelines may read numbers of other kinds
    canvas = cv2.cvtColor(canvas, cv2.COLOR_GRAY2BGR) if canvas.ndim == 2 else canvas
    way = _draw_areas if 'pred_sem_seg' in sample else _draw_objects
    return way(canvas, sample, classes, palette)


@dataclass(frozen=True)
class Label:
    text: str  # of one line
    box: Sequence[int]  # x1, y1, x2, y2 of what it names
    colour: Colour
    letters: int  # height in pixels


def _letters(picture: np.ndarray) -> int:
    """Height of letters in pixels."""
    return max(_SMALLEST_LETTERS, round(_LETTERS * (picture.shape[0] * picture.shape[1]) ** 0.5))


def _letters_of(picture: np.ndarray, box: Sequence[int]) -> int:
    """Height of the letters that name a box: smaller for small ones, which they would hide."""
    largest = _letters(picture)
    side = max(0, (box[2] - box[0]) * (box[3] - box[1])) ** 0.5
    return max(_SMALLEST_LETTERS, round(largest / 3), min(largest, round(_LETTERS_OF_BOX * side)))


def _one_line(name: str) -> str:
    return ''.join(letter if letter.isprintable() else ' ' for letter in name)


def _line(letters: int) -> int:
    """Width of the lines that go with letters, in pixels."""
    return max(1, round(letters / 7))


def _draw_objects(canvas: np.ndarray, sample: BaseDataElement, classes: Sequence[str], palette: Sequence[Colour]) -> np.ndarray:
    found = sample.pred_instances
    order = found.scores.argsort(descending=True).tolist()
    boxes, labels = found.bboxes.round().int().tolist(), found.labels.tolist()
    letters = [_letters_of(canvas, box) for box in boxes]
    # The best lies on top: it is drawn last.
    for i in reversed(order):
        colour = palette[labels[i]][::-1]
        if 'masks' in found:
            mask = found.masks[i]
            _draw_mask(canvas, mask.numpy() if isinstance(mask, Tensor) else decode(mask), colour, _line(letters[i]))
    for i in reversed(order):
        x1, y1, x2, y2 = boxes[i]
        cv2.rectangle(canvas, (x1, y1), (x2, y2), palette[labels[i]][::-1], _line(letters[i]), cv2.LINE_AA)
    labels = [Label(f'{_one_line(classes[labels[i]])} {float(found.scores[i]):.2f}', boxes[i], palette[labels[i]], letters[i])
              for i in order]
    return _write_labels(canvas, labels)


def _draw_mask(canvas: np.ndarray, mask: np.ndarray, colour: Colour, line: int) -> None:
    """Tints the mask's pixels and draws its outline, in place; only the part of the picture that it is in is touched."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return
    place = np.s_[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
    part, inside = canvas[place], np.ascontiguousarray(mask[place], np.uint8)
    tinted = cv2.addWeighted(part, 1 - _MASK, np.full_like(part, colour), _MASK, 0)
    cv2.copyTo(tinted, inside, part)
    outlines, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    part = np.ascontiguousarray(part)
    cv2.drawContours(part, outlines, -1, colour, max(1, line // 2), cv2.LINE_AA)
    canvas[place] = part


@lru_cache(maxsize=64)
def _font(letters: int) -> ImageFont.FreeTypeFont:
    # Latin, Greek and Cyrillic letters; it comes with Matplotlib, which MMEngine needs.
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf')), letters)


def _write_labels(canvas: np.ndarray, labels: Sequence[Label]) -> np.ndarray:
    """Names of boxes, the most important first: each above its box, or where it hides no other."""
    picture = Image.fromarray(np.ascontiguousarray(canvas[:, :, ::-1]))
    pen = ImageDraw.Draw(picture)
    taken: list[tuple[int, int, int, int]] = []
    for label in labels:
        font, gap = _font(label.letters), max(2, label.letters // 5)
        x1, y1, x2, y2 = label.box
        width, height = round(font.getlength(label.text)) + 2 * gap, label.letters + 2 * gap
        places = [(x1, y1 - height), (x1, y1), (x2 - width, y1 - height), (x1, y2), (x2 - width, y2 - height), (x2, y1)]
        boxes = [_moved_inside(x, y, width, height, canvas) for x, y in places]
        box = min(boxes, key=lambda box: sum(_hidden(box, other) for other in taken))  # the first of equal ones
        taken.append(box)
        pen.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=tuple(label.colour))
        pen.text((box[0] + gap, (box[1] + box[3]) / 2), label.text, readable_on(label.colour), font, anchor='lm')
    return np.ascontiguousarray(np.asarray(picture)[:, :, ::-1])


def _moved_inside(x: int, y: int, width: int, height: int, canvas: np.ndarray) -> tuple[int, int, int, int]:
    x, y = max(0, min(x, canvas.shape[1] - width)), max(0, min(y, canvas.shape[0] - height))
    return x, y, x + width, y + height


def _hidden(box: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> int:
    """Pixels that two boxes share."""
    return max(0, min(box[2], other[2]) - max(box[0], other[0])) * max(0, min(box[3], other[3]) - max(box[1], other[1]))


def _draw_areas(canvas: np.ndarray, sample: BaseDataElement, classes: Sequence[str], palette: Sequence[Colour]) -> np.ndarray:
    labels = sample.pred_sem_seg.data[0].numpy()
    known = labels < len(classes)  # others were not asked for
    colours = np.array([*palette[:len(classes)], (0, 0, 0)], np.uint8)[:, ::-1]
    tint = colours[np.minimum(labels, len(classes))]
    tinted = cv2.addWeighted(canvas, 1 - _AREA, tint, _AREA, 0)
    cv2.copyTo(tinted, known.astype(np.uint8), canvas)
    letters = _letters(canvas)
    names = []
    for label, (x, y) in _places_for_names(labels, len(classes)):
        name = _one_line(classes[label])
        half = round(_font(letters).getlength(name)) // 2
        names.append(Label(name, (x - half, y + letters // 2, x + half, y + letters), palette[label], letters))
    return _write_labels(canvas, names)


def _places_for_names(labels: np.ndarray, count: int) -> list[tuple[int, tuple[int, int]]]:
    """(label, (x, y)) for the areas that are worth a name, larger ones first: the place furthest from the area's border."""
    scale = max(1, max(labels.shape) / _LOOKED_AT)
    size = (max(1, round(labels.shape[1] / scale)), max(1, round(labels.shape[0] / scale)))
    small = cv2.resize(labels.astype(np.uint16), size, interpolation=cv2.INTER_NEAREST)
    values, counts = np.unique(small, return_counts=True)
    places = []
    for value, pixels in sorted(zip(values.tolist(), counts.tolist(), strict=True), key=lambda pair: -pair[1]):
        if value < count and pixels >= _NAMED * small.size:
            # Zero around the picture, so that its edge counts as a border.
            inside = cv2.copyMakeBorder((small == value).astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT)
            distance = cv2.distanceTransform(inside, cv2.DIST_L2, 3)
            y, x = np.unravel_index(distance.argmax(), distance.shape)
            places.append((value, (round((x - 1) * scale), round((y - 1) * scale))))
    return places
