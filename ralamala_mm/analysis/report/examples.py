"""Pictures with what is annotated and what is predicted drawn into them, small enough to stand within a page."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ralamala_mm.analysis.detections import DetectedPicture
from ralamala_mm.apis.drawing import draw_areas, draw_objects, read_image, resize

from .detection import CONFIDENT, Detections
from .predicting import Predictions, SegmentedPicture
from .segmentation import Segmentations, read_labels

SIDE = 400  # pixels that a picture's longer side has in the page, or nearly so


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
    worst = order[:min(count, len(order) // 2)]  # no picture is among both
    chosen = order[::-1][:min(count, len(order) - len(worst))], worst
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
    image = resize(read_image(picture.path), SIDE)
    objects = picture.predicted[picture.predicted.scores >= CONFIDENT] if predicted else picture.truth
    boxes = objects.boxes * (max(image.shape[:2]) / max(picture.height, picture.width))
    return as_address(draw_objects(image, boxes, objects.labels, predictions.classes, predictions.palette,
                                   objects.scores if predicted else None, objects.outlines))


def draw_segmentation(picture: SegmentedPicture, predictions: Predictions, predicted: bool) -> str:
    """The picture in the colours of its annotated or predicted classes, as the address of its data."""
    labels = read_labels(picture.predicted if predicted else picture.truth)
    image = resize(read_image(picture.path), SIDE)
    return as_address(draw_areas(image, labels, predictions.classes, predictions.palette))


def as_address(image: np.ndarray) -> str:
    """A `data:` address of an RGB picture `[h, w, 3]`."""
    encoded = cv2.imencode('.jpg', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 82])[1]
    return 'data:image/jpeg;base64,' + base64.b64encode(encoded.tobytes()).decode()
