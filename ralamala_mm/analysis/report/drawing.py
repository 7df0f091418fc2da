"""Pictures with what is annotated and what is predicted drawn into them, small enough to stand within a page."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import mmcv
import numpy as np
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as masks

from ralamala_mm.analysis.detections import DetectedPicture, Objects

from .detection import CONFIDENT, Detections
from .predicting import IGNORED, Predictions, SegmentedPicture
from .segmentation import Segmentations, read_labels

SIDE = 400  # pixels that a picture's longer side has in the page, or nearly so
_LETTERS = 13  # pixels, the height of names
Colours = Sequence[tuple[int, int, int]]


@dataclass
class Example:
    """A picture drawn several times: (caption, address of its data) of each."""

    name: str
    quality: str
    views: list[tuple[str, str]]


def best_and_worst(results: Detections | Segmentations, count: int) -> tuple[list[Example], list[Example]]:
    """Up to `count` pictures of the highest quality and as many of the lowest, each beside its annotations."""
    known = np.flatnonzero(np.isfinite(results.qualities))
    busy = np.array([_objects(picture) for picture in results.predictions.pictures])
    order = known[np.lexsort((-busy[known], results.qualities[known]))]  # of equal ones, more objects are worse to get wrong
    count = min(count, len(order) // 2)
    chosen = order[::-1][:count], order[:count]
    return tuple([_example([results], int(i), ['prediction']) for i in part] for part in chosen)


def most_different(results: Sequence[Detections | Segmentations], names: Sequence[str], count: int) -> list[Example]:
    """Up to `count` pictures whose quality differs most between runs that predicted the same pictures."""
    qualities = np.stack([result.qualities for result in results])
    spread = np.where(np.isfinite(qualities).all(axis=0), qualities.max(axis=0) - qualities.min(axis=0), 0)
    order = np.argsort(-spread, kind='stable')[:count]
    return [_example(results, int(i), names) for i in order if spread[i] > 0]


def _example(results: Sequence[Detections | Segmentations], index: int, names: Sequence[str]) -> Example:
    predictions = [result.predictions for result in results]
    truth = predictions[0].pictures[index]
    draw = draw_segmentation if isinstance(truth, SegmentedPicture) else draw_detection
    views = [('annotated', draw(truth, predictions[0], predicted=False))]
    for name, one in zip(names, predictions, strict=True):
        views.append((name, draw(one.pictures[index], one, predicted=True)))
    quality = ' · '.join(f'{result.qualities[index]:.2f}' for result in results)
    return Example(truth.path.rpartition('/')[2], quality, views)


def _objects(picture: DetectedPicture | SegmentedPicture) -> int:
    return len(picture.truth) if isinstance(picture, DetectedPicture) else 0


def draw_detection(picture: DetectedPicture, predictions: Predictions, predicted: bool) -> str:
    """The picture with its annotations, or with the confident predictions, as the address of its data."""
    image = resize(read_image(picture.path))
    scale = image.shape[0] / picture.height
    objects = picture.predicted[picture.predicted.scores >= CONFIDENT] if predicted else picture.truth
    return as_address(draw_objects(image, objects, scale, predictions.classes, predictions.palette, scores=predicted))


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
    font = ImageFont.truetype(findfont('DejaVu Sans'), _LETTERS)
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


def draw_segmentation(picture: SegmentedPicture, predictions: Predictions, predicted: bool) -> str:
    """The picture in the colours of its annotated or predicted classes, as the address of its data."""
    labels = read_labels(picture.predicted if predicted else picture.truth)
    return as_address(resize(blend(read_image(picture.path), labels, predictions.palette)))


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


def read_image(path: str) -> np.ndarray:
    """RGB `[h, w, 3]`, decoded as in the pipelines."""
    return mmcv.imread(path, channel_order='rgb', backend='cv2')


def resize(image: np.ndarray) -> np.ndarray:
    """A picture whose longer side has about `SIDE` pixels; small ones grow by a whole factor."""
    factor = SIDE / max(image.shape[:2])
    if factor >= 1:
        return cv2.resize(image, None, fx=round(factor), fy=round(factor), interpolation=cv2.INTER_NEAREST)
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


def as_address(image: np.ndarray) -> str:
    """A `data:` address of an RGB picture `[h, w, 3]`."""
    encoded = cv2.imencode('.jpg', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 82])[1]
    return 'data:image/jpeg;base64,' + base64.b64encode(encoded.tobytes()).decode()
