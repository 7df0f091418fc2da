"""Detections matched with annotations, and where a detector loses its AP.

The kinds of errors are TIDE's: Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020,
arXiv 2008.08115, sections 2.2 and 2.3.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from pycocotools import mask as masks

KINDS = {
    'classification': 'in the right place, of the wrong class',
    'localisation': 'of the right class, in the wrong place',
    'both': 'of the wrong class and in the wrong place',
    'duplicate': 'right, but a prediction of a higher score has the object already',
    'background': 'where nothing is',
    'missed': 'an object that no prediction finds, nor would with another class or place',
}
RECALLS = np.linspace(0, 1, 101)  # where COCO reads the precision
MOST_PREDICTIONS = 100  # per image, as in COCO


@dataclass
class Objects:
    """The objects of one image, annotated or predicted.

    Args:
        boxes: `[n, 4]`, left, top, right, bottom in pixels of the image's file.
        labels: `[n]`, indices of classes.
        scores: `[n]`; 1 for what is annotated.
        crowd: `[n]`, whether it is a region of many objects, within which predictions count neither way.
        rles: COCO's compressed run lengths, one per object; None without masks.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None
    crowd: np.ndarray | None = None
    rles: list[dict] | None = None

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
        rles = None if self.rles is None else [self.rles[i] for i in indices]
        return Objects(self.boxes[indices], self.labels[indices], self.scores[indices], self.crowd[indices], rles)

    def shapes(self, kind: str) -> np.ndarray | list[dict]:
        """What pycocotools takes: boxes as left, top, width, height for 'bbox', run lengths for 'segm'."""
        if kind == 'segm':
            return self.rles or []
        return np.concatenate([self.boxes[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]], axis=1)


@dataclass
class DetectedImage:
    """An image's file, its annotations and a detector's predictions."""

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


def in_crowds(image: DetectedImage, kind: str, least: float, any_class: bool = False) -> np.ndarray:
    """`[p]`, whether a prediction lies within a crowd of its class, or of any class, by at least this share of its area."""
    crowds = image.truth[image.truth.crowd]
    if not len(crowds):
        return np.zeros(len(image.predicted), bool)
    same = image.predicted.labels[:, None] == crowds.labels[None]
    return (overlaps(image.predicted, crowds, kind, crowd=True) * (same | any_class) >= least).any(axis=1)


def count_confusions(images: Sequence[DetectedImage], classes: int, score: float, overlap: float) -> np.ndarray:
    """Which class is taken for which.

    Predictions from `score` on are matched with annotated boxes of any class by `match_by_score` at `overlap`.

    Returns:
        int64 `[classes + 1, classes + 1]`: rows are annotated classes, the last one no object; columns predicted ones, the
        last one not found.
    """
    counts = np.zeros((classes + 1, classes + 1), np.int64)
    for image in images:
        confident = DetectedImage(image.path, image.height, image.width, image.truth,
                                    image.predicted[image.predicted.scores >= score])
        truth, predicted = image.truth[~image.truth.crowd], confident.predicted
        matched = match_by_score(predicted.scores, overlaps(predicted, truth), overlap)
        found = matched >= 0
        np.add.at(counts, (truth.labels[matched[found]], predicted.labels[found]), 1)
        np.add.at(counts, (classes, predicted.labels[~found & ~in_crowds(confident, 'bbox', overlap, any_class=True)]), 1)
        np.add.at(counts, (np.delete(truth.labels, matched[found]), classes), 1)
    return counts


def image_quality(image: DetectedImage, score: float, overlap: float) -> float:
    """How well one image is detected, from 0 to 1; NaN where nothing is and nothing was found.

    The panoptic quality of its boxes: the sum of the matched pairs' overlaps, divided by the mean of the number of annotated
    and of predicted objects. Pairs have the same class, and predictions a score from `score` on.
    """
    predicted = image.predicted[(image.predicted.scores >= score) & ~in_crowds(image, 'bbox', overlap)]
    truth = image.truth[~image.truth.crowd]
    if not len(predicted) and not len(truth):
        return float('nan')
    ious = overlaps(predicted, truth) * (predicted.labels[:, None] == truth.labels[None])
    matched = match_by_score(predicted.scores, ious, overlap)
    found = np.flatnonzero(matched >= 0)
    return float(ious[found, matched[found]].sum() / ((len(predicted) + len(truth)) / 2))


@dataclass
class ErrorBreakdown:
    """AP at the foreground overlap, and by kind of error the number of them and the AP that correcting them would win."""

    ap: float
    counts: dict[str, int]
    gains: dict[str, float]


@dataclass
class _Tally:
    """Every prediction that counts, as columns, and every object."""

    labels: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)  # '' for a right one
    corrected: list[int] = field(default_factory=list)  # the class with which it would be right; -1 if it would have to go
    objects: list[int] = field(default_factory=list)  # classes of all objects
    missed: list[int] = field(default_factory=list)  # classes of those missed


def break_down_errors(images: Sequence[DetectedImage], kind: str = 'bbox', foreground: float = 0.5,
                      background: float = 0.1) -> ErrorBreakdown:
    """Gives every wrong prediction one kind of error, and says what AP would be without those of each kind.

    A prediction is right if it is matched with an object of its class by at least `foreground`. A wrong one is, the first
    that holds: localisation, if the most that it overlaps an object of its class is between `background` and `foreground`;
    classification, if it overlaps one of another class by `foreground`; duplicate, if one of its own; both, if it overlaps
    any by more than `background`; else background. Mending moves a classification or localisation error onto its object,
    if nothing has that and no such error of a higher score claims it, takes any other away, and missed objects out of the
    count.

    Args:
        images: with annotations and predictions; crowds and what lies in them are left out.
        kind: 'bbox' or 'segm'.
        foreground: overlap from which a prediction has found an object, TIDE's t_f.
        background: overlap up to which it has nothing to do with it, TIDE's t_b.
    """
    tally = _Tally()
    for image in images:
        _add_image(tally, image, kind, foreground, background)
    labels, scores, corrected = np.array(tally.labels, int), np.array(tally.scores), np.array(tally.corrected, int)
    kinds = np.array(tally.kinds, dtype=object)
    right, objects = kinds == '', np.array(tally.objects, int)
    ap = _mean_ap(labels, scores, right, objects, np.unique(objects))
    counts, gains = {}, {}
    for name in KINDS:
        of_kind = kinds == name
        fixed, left = of_kind & (corrected >= 0), ~(of_kind & (corrected < 0))
        remaining = _without(objects, tally.missed) if name == 'missed' else objects
        won = _mean_ap(np.where(fixed, corrected, labels)[left], scores[left], (right | fixed)[left], remaining,
                       np.unique(objects))
        counts[name] = len(tally.missed) if name == 'missed' else int(of_kind.sum())
        gains[name] = max(won - ap, 0.0)  # the 101 points may fall a little differently
    return ErrorBreakdown(ap, counts, gains)


def _add_image(tally: _Tally, image: DetectedImage, kind: str, foreground: float, background: float) -> None:
    order = np.argsort(-image.predicted.scores, kind='stable')[:MOST_PREDICTIONS]
    predicted, truth = image.predicted[order], image.truth[~image.truth.crowd]
    ignored = in_crowds(DetectedImage(image.path, image.height, image.width, image.truth, predicted), kind, foreground)
    ious = overlaps(predicted, truth, kind)
    same = predicted.labels[:, None] == truth.labels[None]
    matched = match_by_score(predicted.scores, ious * same, foreground)
    taken = np.isin(np.arange(len(truth)), matched)
    claimed = np.zeros(len(truth), bool)
    for i in range(len(predicted)):
        name, corrected = '', -1
        if matched[i] < 0:
            if ignored[i]:
                continue
            name, target = _name_error(ious[i], same[i], foreground, background)
            if target >= 0 and not taken[target]:
                corrected = -1 if claimed[target] else truth.labels[target]
                claimed[target] = True
        tally.labels.append(predicted.labels[i])
        tally.scores.append(predicted.scores[i])
        tally.kinds.append(name)
        tally.corrected.append(corrected)
    tally.objects.extend(truth.labels)
    tally.missed.extend(truth.labels[~taken & ~claimed])


def _name_error(ious: np.ndarray, same: np.ndarray, foreground: float, background: float) -> tuple[str, int]:
    """The kind of error of a prediction without an object of its own, and the object that it should have had, or -1."""
    if not len(ious):
        return 'background', -1
    own, other = ious * same, ious * ~same
    if background <= own.max() < foreground:
        return 'localisation', int(own.argmax())
    if other.max() >= foreground:
        return 'classification', int(other.argmax())
    if own.max() >= foreground:
        return 'duplicate', -1
    return ('both' if ious.max() > background else 'background'), -1


def _without(objects: np.ndarray, missed: Sequence[int]) -> np.ndarray:
    """The classes of the objects, one less for each that is missed."""
    size = int(objects.max(initial=-1)) + 1
    left = np.bincount(objects, minlength=size) - np.bincount(np.array(missed, int), minlength=size)
    return np.repeat(np.arange(size), left)


def _mean_ap(labels: np.ndarray, scores: np.ndarray, right: np.ndarray, objects: np.ndarray, classes: np.ndarray) -> float:
    """The mean over `classes` of COCO's AP; NaN without classes."""
    if not len(classes):
        return float('nan')
    return float(np.mean([average_precision(scores[labels == label], right[labels == label], int((objects == label).sum()))
                          for label in classes]))


def average_precision(scores: np.ndarray, right: np.ndarray, objects: int) -> float:
    """COCO's AP of one class: precision, made falling, read at 101 recalls.

    Args:
        scores: `[p]`.
        right: bool `[p]`.
        objects: how many there are to find; without any the AP is 0.
    """
    if not objects or not len(scores):
        return 0.0
    hits = np.cumsum(right[np.argsort(-scores, kind='stable')])
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    places = np.searchsorted(hits / objects, RECALLS, side='left')
    return float(np.append(precision, 0.0)[places].mean())
