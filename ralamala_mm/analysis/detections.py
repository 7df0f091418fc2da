"""What a detector found in a picture beside what is there, and how much of each other both cover."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from pycocotools import mask as masks


@dataclass
class Objects:
    """The objects of one picture, annotated or predicted.

    Args:
        boxes: `[n, 4]`, left, top, right, bottom in pixels of the picture's file.
        labels: `[n]`, indices of classes.
        scores: `[n]`; 1 for what is annotated.
        crowd: `[n]`, whether it is a region of many objects, within which predictions count neither way.
        outlines: COCO's compressed run lengths, one per object; None without masks.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None
    crowd: np.ndarray | None = None
    outlines: list[dict] | None = None

    def __post_init__(self):
        self.boxes = np.asarray(self.boxes, np.float64).reshape(-1, 4)
        self.labels = np.asarray(self.labels, np.int64).reshape(-1)
        self.scores = np.ones(len(self)) if self.scores is None else np.asarray(self.scores, np.float64)
        self.crowd = np.zeros(len(self), bool) if self.crowd is None else np.asarray(self.crowd, bool)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, chosen: np.ndarray) -> 'Objects':
        """Those that a boolean mask or an index array `[m]` chooses."""
        indices = np.arange(len(self))[chosen]
        outlines = None if self.outlines is None else [self.outlines[i] for i in indices]
        return Objects(self.boxes[indices], self.labels[indices], self.scores[indices], self.crowd[indices], outlines)

    def shapes(self, kind: str) -> np.ndarray | list[dict]:
        """What pycocotools takes: boxes as left, top, width, height for 'bbox', run lengths for 'segm'."""
        if kind == 'segm':
            return self.outlines or []
        return np.concatenate([self.boxes[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]], axis=1)


@dataclass
class DetectedPicture:
    """A picture's file, its annotations and a detector's predictions."""

    path: str
    height: int
    width: int
    truth: Objects = field(default_factory=lambda: Objects([], []))
    predicted: Objects = field(default_factory=lambda: Objects([], []))


def compressed(segmentation: list | dict, height: int, width: int) -> dict:
    """An annotation's polygons or run lengths as compressed run lengths."""
    if isinstance(segmentation, dict) and not isinstance(segmentation['counts'], list):
        return segmentation
    merged = masks.frPyObjects(segmentation, height, width)
    return masks.merge(merged) if isinstance(merged, list) else merged


def overlaps(predicted: Objects, truth: Objects, kind: str = 'bbox', crowd: bool = False) -> np.ndarray:
    """Intersection over union `[predicted, truth]`; over the predicted area alone for crowds.

    Args:
        predicted: rows.
        truth: columns.
        kind: 'bbox' or 'segm'.
        crowd: whether `truth` are crowds.
    """
    if not len(predicted) or not len(truth):
        return np.zeros((len(predicted), len(truth)))
    return np.asarray(masks.iou(predicted.shapes(kind), truth.shapes(kind), [crowd] * len(truth)))


def match_by_score(scores: np.ndarray, ious: np.ndarray, least: float) -> np.ndarray:
    """Each prediction, the highest score first, takes the free object that it overlaps most, from `least` on.

    Args:
        scores: `[p]`.
        ious: `[p, g]`; 0 where a pair must not be matched.
        least: the smallest overlap that counts.

    Returns:
        `[p]`, the index of the object or -1.
    """
    matched = np.full(len(scores), -1)
    free = np.array(ious, dtype=np.float64)
    for i in np.argsort(-scores, kind='stable'):
        if free.shape[1] and free[i].max() >= least:
            matched[i] = free[i].argmax()
            free[:, matched[i]] = -1
    return matched


def in_crowds(picture: DetectedPicture, kind: str, least: float, any_class: bool = False) -> np.ndarray:
    """`[p]`, whether a prediction lies within a crowd of its class, or of any class, by at least this share of its area."""
    crowds = picture.truth[picture.truth.crowd]
    if not len(crowds):
        return np.zeros(len(picture.predicted), bool)
    same = picture.predicted.labels[:, None] == crowds.labels[None]
    return (overlaps(picture.predicted, crowds, kind, crowd=True) * (same | any_class) >= least).any(axis=1)


def count_confusions(pictures: Sequence[DetectedPicture], classes: int, score: float, overlap: float) -> np.ndarray:
    """Which class is taken for which.

    Predictions from `score` on are matched with annotated boxes of any class by `match_by_score` at `overlap`.

    Returns:
        int64 `[classes + 1, classes + 1]`: rows are annotated classes, the last one no object; columns predicted ones, the
        last one not found.
    """
    counts = np.zeros((classes + 1, classes + 1), np.int64)
    for picture in pictures:
        confident = DetectedPicture(picture.path, picture.height, picture.width, picture.truth,
                                    picture.predicted[picture.predicted.scores >= score])
        truth, predicted = picture.truth[~picture.truth.crowd], confident.predicted
        matched = match_by_score(predicted.scores, overlaps(predicted, truth), overlap)
        found = matched >= 0
        np.add.at(counts, (truth.labels[matched[found]], predicted.labels[found]), 1)
        np.add.at(counts, (classes, predicted.labels[~found & ~in_crowds(confident, 'bbox', overlap, any_class=True)]), 1)
        np.add.at(counts, (np.delete(truth.labels, matched[found]), classes), 1)
    return counts


def picture_quality(picture: DetectedPicture, score: float, overlap: float) -> float:
    """How well one picture is detected, from 0 to 1; NaN where nothing is and nothing was found.

    The panoptic quality of its boxes: the sum of the matched pairs' overlaps, divided by the mean of the number of annotated
    and of predicted objects. Pairs have the same class, and predictions a score from `score` on.
    """
    predicted = picture.predicted[(picture.predicted.scores >= score) & ~in_crowds(picture, 'bbox', overlap)]
    truth = picture.truth[~picture.truth.crowd]
    if not len(predicted) and not len(truth):
        return float('nan')
    ious = overlaps(predicted, truth) * (predicted.labels[:, None] == truth.labels[None])
    matched = match_by_score(predicted.scores, ious, overlap)
    found = np.flatnonzero(matched >= 0)
    return float(ious[found, matched[found]].sum() / ((len(predicted) + len(truth)) / 2))
