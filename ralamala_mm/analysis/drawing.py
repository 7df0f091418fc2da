"""Objects and classes drawn into pictures."""

from collections.abc import Sequence

import cv2
import mmcv
import numpy as np
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as masks

from ralamala_mm.apis.colours import distinct_colours

from .detections import Objects

IGNORED = 255  # where annotations of segmentation name no class
Colours = Sequence[tuple[int, int, int]]
_LETTERS = 13  # pixels, the height of names
_NAMED = 0.01  # share of the picture from which a class is named


def draw_objects(image: np.ndarray, objects: Objects, scale: float, classes: Sequence[str], palette: Colours,
                 scores: bool = False) -> np.ndarray:
    """RGB `[h, w, 3]`: boxes, masks and names drawn into a picture, the highest score on top.

    Args:
        image: RGB `[h, w, 3]`.
        objects: in pixels of the picture's file.
        scale: size of `image` over that of the file.
        classes: their names.
        palette: a colour for each class.
        scores: whether scores are written, in percent.
    """
    order = np.argsort(objects.scores, kind='stable')
    for i in order if objects.outlines else ():
        inside = cv2.resize(masks.decode(objects.outlines[i]), image.shape[1::-1], interpolation=cv2.INTER_NEAREST).astype(bool)
        image[inside] = 0.55 * image[inside] + 0.45 * np.array(palette[objects.labels[i]])
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    font = letters()
    for i in order:
        colour = palette[objects.labels[i]]
        left, top, right, bottom = (scale * objects.boxes[i]).clip(0, [*image.shape[1::-1]] * 2).tolist()
        draw.rectangle((left, top, max(right, left), max(bottom, top)), outline=colour, width=2)
        name = classes[objects.labels[i]] + (f' {100 * objects.scores[i]:.0f}' if scores else '')
        width = draw.textlength(name, font) + 4
        x, y = min(left, max(image.shape[1] - width, 0)), max(top - _LETTERS - 3, 0)
        draw.rectangle((x, y, x + width, y + _LETTERS + 3), fill=colour)
        draw.text((x + 2, y), name, fill='black' if np.dot(colour, (0.299, 0.587, 0.114)) > 140 else 'white', font=font)
    return np.asarray(canvas)


def letters() -> ImageFont.FreeTypeFont:
    """Matplotlib's own font, which has Latin, Greek and Cyrillic."""
    return ImageFont.truetype(findfont('DejaVu Sans'), _LETTERS)


def caption(image: np.ndarray, text: str) -> np.ndarray:
    """An RGB picture `[h, w, 3]` below a line of text."""
    strip = Image.new('RGB', (image.shape[1], _LETTERS + 7), 'white')
    ImageDraw.Draw(strip).text((2, 3), text, fill='black', font=letters())
    return np.concatenate([np.asarray(strip), image])


def blend(image: np.ndarray, labels: np.ndarray, palette: Colours) -> np.ndarray:
    """RGB `[h, w, 3]`: the picture seen through its classes' colours, as it is where nothing is annotated.

    Args:
        image: RGB `[H, W, 3]`; takes the size of the labels.
        labels: uint8 `[h, w]`.
        palette: a colour for each class.
    """
    image = cv2.resize(image, labels.shape[::-1], interpolation=cv2.INTER_AREA)
    table = np.zeros((256, 3), np.uint8)
    table[:len(palette)] = palette
    covered = (labels != IGNORED)[..., None]
    return np.where(covered, (0.3 * image + 0.7 * table[labels]).astype(np.uint8), image)


def draw_classes(image: np.ndarray, labels: np.ndarray, side: int, classes: Sequence[str], palette: Colours) -> np.ndarray:
    """`blend` in about `side` pixels, with the names of the classes that cover enough of the picture.

    Args:
        image: RGB `[H, W, 3]`.
        labels: uint8 `[h, w]`, 255 for no class.
        side: of the longer side of what is drawn.
        classes: their names.
        palette: a colour for each class.
    """
    image = resize(blend(image, labels, palette), side)
    labels = cv2.resize(labels, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    canvas = Image.fromarray(image)
    draw, font = ImageDraw.Draw(canvas), letters()
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        if label >= len(classes) or count < _NAMED * labels.size:
            continue
        depths = cv2.distanceTransform(np.pad((labels == label).astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
        y, x = np.unravel_index(depths.argmax(), depths.shape)
        width = draw.textlength(classes[label], font)
        x, y = (int(np.clip(at - half, 0, max(size - 2 * half, 0)))
                for at, half, size in zip((x, y), (width / 2, _LETTERS / 2), canvas.size, strict=True))
        draw.text((x, y), classes[label], fill='white', font=font, stroke_width=2, stroke_fill='black')
    return np.asarray(canvas)


def read_image(path: str) -> np.ndarray:
    """RGB `[h, w, 3]`, decoded as in the pipelines."""
    return mmcv.imread(path, channel_order='rgb', backend='cv2')


def resize(image: np.ndarray, side: int) -> np.ndarray:
    """A picture whose longer side has about `side` pixels; small ones grow by a whole factor."""
    factor = side / max(image.shape[:2])
    factor, interpolation = (round(factor), cv2.INTER_NEAREST) if factor >= 1 else (factor, cv2.INTER_AREA)
    height, width = (max(round(factor * size), 1) for size in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=interpolation)


def palette_of(metainfo: dict) -> list[tuple[int, int, int]]:
    """The data set's colours, or made-up ones."""
    palette, count = metainfo.get('palette'), len(metainfo['classes'])
    if isinstance(palette, list | tuple) and len(palette) >= count:
        return [tuple(int(value) for value in colour) for colour in palette[:count]]
    return distinct_colours(count)
