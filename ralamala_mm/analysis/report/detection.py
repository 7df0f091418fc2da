"""The numbers of a detector: AP per class and precision over recall by pycocotools, and what goes with them."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ralamala_mm.analysis.detections import (
    DetectedImage,
    ErrorBreakdown,
    Objects,
    break_down_errors,
    count_confusions,
    image_quality,
)

from .predicting import Predictions

CONFIDENT = 0.3  # score from which predictions are drawn and counted in the confusion matrix
OVERLAP = 0.5  # from which two boxes are of the same object


@dataclass
class Precision:
    """COCO's evaluation of boxes or of masks.

    Args:
        kind: 'bbox' or 'segm'.
        by_recall: `[10, 101, classes]`: precision at overlaps .50, .55, …, .95 and recalls 0, .01, …, 1; -1 for classes
            without objects.
        summary: AP, AP50, AP75, and of small, medium and large objects; NaN where there are none.
    """

    kind: str
    by_recall: np.ndarray
    summary: dict[str, float]

    @property
    def per_class(self) -> dict[str, np.ndarray]:
        """AP, AP50 and AP75, each `[classes]`, NaN for classes without objects."""
        return {name: _mean(part, axis=(0, 1)) for name, part in
                (('AP', self.by_recall), ('AP50', self.by_recall[:1]), ('AP75', self.by_recall[5:6]))}

    def curve(self, overlap: int = 0, label: int | None = None) -> np.ndarray:
        """`[101]` precision at an overlap's index, of one class or the mean of all."""
        part = self.by_recall[overlap] if label is None else self.by_recall[overlap][:, label:label + 1]
        return _mean(part, axis=1)


@dataclass
class Detections:
    """Everything the report says about a detector's predictions."""

    predictions: Predictions
    objects: np.ndarray  # `[classes]`, how many there are
    precisions: list[Precision]  # of boxes, and of masks if there are
    errors: dict[str, ErrorBreakdown]  # by kind
    confusions: np.ndarray  # see `count_confusions`
    qualities: np.ndarray  # `[images]`, see `image_quality`


def evaluate_detections(predictions: Predictions) -> Detections:
    """All numbers of a detector's predictions."""
    images, count = predictions.images, len(predictions.classes)
    kinds = ['bbox', 'segm'] if predictions.has_masks else ['bbox']
    labels = np.concatenate([image.truth.labels[~image.truth.crowd] for image in images])
    return Detections(predictions, np.bincount(labels, minlength=count),
                      [measure_precision(images, count, kind) for kind in kinds],
                      {kind: break_down_errors(images, kind) for kind in kinds},
                      count_confusions(images, count, CONFIDENT, OVERLAP),
                      np.array([image_quality(image, CONFIDENT, OVERLAP) for image in images]))


def measure_precision(images: Sequence[DetectedImage], classes: int, kind: str) -> Precision:
    """COCO's evaluation of images by pycocotools.

    Args:
        images: with annotations and predictions.
        classes: how many there are.
        kind: 'bbox' or 'segm'.
    """
    truth, predicted = COCO(), []
    annotations = []
    for i, image in enumerate(images):
        annotations += _entries(image.truth, i, kind, first=len(annotations) + 1)
        predicted += _entries(image.predicted, i, kind, first=len(predicted) + 1, scored=True)
    truth.dataset = dict(images=[dict(id=i, height=image.height, width=image.width) for i, image in enumerate(images)],
                         annotations=annotations, categories=[dict(id=i, name=str(i)) for i in range(classes)])
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints what it does
        truth.createIndex()
        results = COCO()
        results.dataset = dict(truth.dataset, annotations=predicted)
        results.createIndex()
        evaluation = COCOeval(truth, results, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = ('AP', 'AP50', 'AP75', 'AP small', 'AP medium', 'AP large')
    summary = {name: float(value) if value >= 0 else float('nan')
               for name, value in zip(names, evaluation.stats[:6], strict=True)}
    return Precision(kind, evaluation.eval['precision'][:, :, :, 0, 2], summary)


def _entries(objects: Objects, image: int, kind: str, first: int, scored: bool = False) -> list[dict]:
    entries = []
    boxes = objects.shapes('bbox').tolist()
    for i, (label, score, crowd) in enumerate(zip(objects.labels, objects.scores, objects.crowd, strict=True)):
        has_rles = objects.rles is not None and (kind == 'segm' or not scored)
        # COCO sorts objects by the area of their rles, predicted boxes by their own.
        area = float(masks.area(objects.rles[i])) if has_rles else boxes[i][2] * boxes[i][3]
        entry = dict(id=first + i, image_id=image, category_id=int(label), bbox=boxes[i], area=area, iscrowd=int(crowd))
        if kind == 'segm':
            entry['segmentation'] = objects.rles[i]
        if scored:
            entry['score'] = float(score)
        entries.append(entry)
    return entries


def _mean(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """The mean of what is not -1; NaN where nothing is."""
    known = values > -1
    sums, counts = np.where(known, values, 0).sum(axis=axis), known.sum(axis=axis)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
