"""Images with what is annotated and what is predicted drawn into them, small enough to stand within a page."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ralamala_mm.analysis.detections import DetectedImage
from ralamala_mm.analysis.pages import as_address
from ralamala_mm.apis.drawing import draw_areas, draw_objects, read_image, resize

from .detection import CONFIDENT, Detections
from .predicting import Predictions, SegmentedImage
from .segmentation import Segmentations, read_labels

SIDE = 400  # pixels that an image's longer side has in the page, or nearly so


@dataclass
class Example:
    """An image drawn several times: (caption, address of its data) of each."""

    name: str
    quality: str
    views: list[tuple[str, str]]


def best_and_worst(results: Detections | Segmentations, count: int) -> tuple[list[Example], list[Example]]:
    """Up to `count` images of the highest quality and as many of the lowest, each beside its annotations."""
    known = np.flatnonzero(np.isfinite(results.qualities))
    busy = np.array([_objects(image) for image in results.predictions.images])
    order = known[np.lexsort((-busy[known], results.qualities[known]))]  # of equal ones, more objects are worse to get wrong
    worst = order[:min(count, len(order) // 2)]  # no image is among both
    chosen = order[::-1][:min(count, len(order) - len(worst))], worst
    return tuple([_example([results], int(i), ['prediction']) for i in part] for part in chosen)


def most_different(results: Sequence[Detections | Segmentations], names: Sequence[str], count: int) -> list[Example]:
    """Up to `count` images whose quality differs most between runs that predicted the same images."""
    qualities = np.stack([result.qualities for result in results])
    spread = np.where(np.isfinite(qualities).all(axis=0), qualities.max(axis=0) - qualities.min(axis=0), 0)
    order = np.argsort(-spread, kind='stable')[:count]
    return [_example(results, int(i), names) for i in order if spread[i] > 0]


def _example(results: Sequence[Detections | Segmentations], index: int, names: Sequence[str]) -> Example:
    predictions = [result.predictions for result in results]
    truth = predictions[0].images[index]
    draw = draw_segmentation if isinstance(truth, SegmentedImage) else draw_detection
    views = [('annotated', draw(truth, predictions[0], predicted=False))]
    for name, one in zip(names, predictions, strict=True):
        views.append((name, draw(one.images[index], one, predicted=True)))
    quality = ' · '.join(f'{result.qualities[index]:.2f}' for result in results)
    return Example(truth.path.rpartition('/')[2], quality, views)


def _objects(image: DetectedImage | SegmentedImage) -> int:
    return len(image.truth) if isinstance(image, DetectedImage) else 0


def draw_detection(image: DetectedImage, predictions: Predictions, predicted: bool) -> str:
    """The image with its annotations, or with the confident predictions, as the address of its data."""
    drawn = resize(read_image(image.path), SIDE)
    objects = image.predicted[image.predicted.scores >= CONFIDENT] if predicted else image.truth
    boxes = objects.boxes * (max(drawn.shape[:2]) / max(image.height, image.width))
    return as_address(draw_objects(drawn, boxes, objects.labels, predictions.classes, predictions.palette,
                                   objects.scores if predicted else None, objects.rles))


def draw_segmentation(image: SegmentedImage, predictions: Predictions, predicted: bool) -> str:
    """The image in the colors of its annotated or predicted classes, as the address of its data."""
    labels = read_labels(image.predicted if predicted else image.truth)
    drawn = resize(read_image(image.path), SIDE)
    return as_address(draw_areas(drawn, labels, predictions.classes, predictions.palette))
