"""The numbers of a segmentor: IoU and accuracy per class, which class is taken for which, and how well each image is done."""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from ralamala_mm.apis.drawing import IGNORED
from ralamala_mm.errors import UserError

from .predicting import Predictions, SegmentedImage


@dataclass
class Segmentations:
    """Everything the report says about a segmentor's predictions.

    Args:
        predictions: what was predicted.
        confusions: int64 `[classes, classes]`, pixels; rows are annotated, columns predicted classes.
        qualities: `[images]`: the mean IoU of the classes that are annotated or predicted in the image.
    """

    predictions: Predictions
    confusions: np.ndarray
    qualities: np.ndarray

    @property
    def pixels(self) -> np.ndarray:
        """`[classes]`, annotated."""
        return self.confusions.sum(axis=1)

    @property
    def per_class(self) -> dict[str, np.ndarray]:
        """IoU and accuracy (recall), each `[classes]`; NaN for classes that are neither annotated nor predicted."""
        return dict(IoU=intersection_over_union(self.confusions), accuracy=_ratio(np.diag(self.confusions), self.pixels))

    @property
    def summary(self) -> dict[str, float]:
        """mIoU, mAcc and aAcc, as MMSegmentation has them."""
        per_class = self.per_class
        return dict(mIoU=float(np.nanmean(per_class['IoU'])), mAcc=float(np.nanmean(per_class['accuracy'])),
                    aAcc=float(np.diag(self.confusions).sum() / max(self.confusions.sum(), 1)))


def evaluate_segmentations(predictions: Predictions) -> Segmentations:
    """All numbers of a segmentor's predictions.

    Raises:
        UserError: see `count_pixels`.
    """
    count = len(predictions.classes)
    total, qualities = np.zeros((count, count), np.int64), []
    for confusions in _confusions(predictions.images, count):
        total += confusions
        ious = intersection_over_union(confusions)
        qualities.append(np.nanmean(ious) if np.isfinite(ious).any() else np.nan)
    return Segmentations(predictions, total, np.array(qualities))


def read_labels(png: bytes) -> np.ndarray:
    """uint8 `[h, w]`."""
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)


def count_pixels(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """int64 `[classes, classes]`: how many pixels of a class (row) are predicted as which (column); 255 is left out.

    Args:
        truth: `[h, w]`.
        predicted: `[h, w]`.
        classes: how many there are.

    Raises:
        UserError: a class is predicted that the data set does not have.
    """
    if predicted.max(initial=0) >= classes:
        raise UserError(f'the model predicts class {predicted.max()}, but the data set has {classes} of them, from 0: the '
                        "decode_head's num_classes has to be the data set's (a model that tells one class from the rest has two)")
    counted = (truth != IGNORED) & (truth < classes)
    pairs = truth[counted].astype(np.int64) * classes + predicted[counted]
    return np.bincount(pairs, minlength=classes ** 2).reshape(classes, classes)


def intersection_over_union(confusions: np.ndarray) -> np.ndarray:
    """`[classes]` of a confusion matrix; NaN for classes in neither."""
    right = np.diag(confusions)
    return _ratio(right, confusions.sum(axis=0) + confusions.sum(axis=1) - right)


def _confusions(images: Iterable[SegmentedImage], classes: int) -> Iterable[np.ndarray]:
    for image in images:
        yield count_pixels(read_labels(image.truth), read_labels(image.predicted), classes)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)
