"""Where a detector loses its AP, as TIDE divides it: Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection
Errors", ECCV 2020, arXiv 2008.08115, sections 2.2 and 2.3."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .detections import DetectedPicture, in_crowds, match_by_score, overlaps

KINDS = {
    'classification': 'in the right place, of the wrong class',
    'localisation': 'of the right class, in the wrong place',
    'both': 'of the wrong class and in the wrong place',
    'duplicate': 'right, but a prediction of a higher score has the object already',
    'background': 'where nothing is',
    'missed': 'an object that no prediction finds, nor would with another class or place',
}
RECALLS = np.linspace(0, 1, 101)  # where COCO reads the precision
MOST_PREDICTIONS = 100  # per picture, as in COCO


@dataclass
class ErrorBreakdown:
    """AP at the foreground overlap, and by kind of error the number of them and the AP that mending them would win."""

    ap: float
    counts: dict[str, int]
    gains: dict[str, float]


@dataclass
class _Tally:
    """Every prediction that counts, as columns, and every object."""

    labels: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)  # '' for a right one
    mended: list[int] = field(default_factory=list)  # the class with which it would be right; -1 if it would have to go
    objects: list[int] = field(default_factory=list)  # classes of all objects
    missed: list[int] = field(default_factory=list)  # classes of those missed


def break_down_errors(pictures: Sequence[DetectedPicture], kind: str = 'bbox', foreground: float = 0.5,
                      background: float = 0.1) -> ErrorBreakdown:
    """Gives every wrong prediction one kind of error, and says what AP would be without those of each kind.

    A prediction is right if it is matched with an object of its class by at least `foreground`. A wrong one is, the first
    that holds: localisation, if the most that it overlaps an object of its class is between `background` and `foreground`;
    classification, if it overlaps one of another class by `foreground`; duplicate, if one of its own; both, if it overlaps
    any by more than `background`; else background. Mending moves a classification or localisation error onto its object,
    if nothing has that and no such error of a higher score claims it, takes any other away, and missed objects out of the
    count.

    Args:
        pictures: with annotations and predictions; crowds and what lies in them are left out.
        kind: 'bbox' or 'segm'.
        foreground: overlap from which a prediction has found an object, TIDE's t_f.
        background: overlap up to which it has nothing to do with it, TIDE's t_b.
    """
    tally = _Tally()
    for picture in pictures:
        _add_picture(tally, picture, kind, foreground, background)
    labels, scores, mended = np.array(tally.labels, int), np.array(tally.scores), np.array(tally.mended, int)
    kinds = np.array(tally.kinds, dtype=object)
    right, objects = kinds == '', np.array(tally.objects, int)
    ap = _mean_ap(labels, scores, right, objects, np.unique(objects))
    counts, gains = {}, {}
    for name in KINDS:
        of_kind = kinds == name
        fixed, left = of_kind & (mended >= 0), ~(of_kind & (mended < 0))
        remaining = _without(objects, tally.missed) if name == 'missed' else objects
        won = _mean_ap(np.where(fixed, mended, labels)[left], scores[left], (right | fixed)[left], remaining, np.unique(objects))
        counts[name] = len(tally.missed) if name == 'missed' else int(of_kind.sum())
        gains[name] = max(won - ap, 0.0)  # the 101 points may fall a little differently
    return ErrorBreakdown(ap, counts, gains)


def _add_picture(tally: _Tally, picture: DetectedPicture, kind: str, foreground: float, background: float) -> None:
    order = np.argsort(-picture.predicted.scores, kind='stable')[:MOST_PREDICTIONS]
    predicted, truth = picture.predicted[order], picture.truth[~picture.truth.crowd]
    ignored = in_crowds(DetectedPicture(picture.path, picture.height, picture.width, picture.truth, predicted), kind, foreground)
    ious = overlaps(predicted, truth, kind)
    same = predicted.labels[:, None] == truth.labels[None]
    matched = match_by_score(predicted.scores, ious * same, foreground)
    taken = np.isin(np.arange(len(truth)), matched)
    claimed = np.zeros(len(truth), bool)
    for i in range(len(predicted)):
        name, mended = '', -1
        if matched[i] < 0:
            if ignored[i]:
                continue
            name, target = _name_error(ious[i], same[i], foreground, background)
            if target >= 0 and not taken[target]:
                mended = -1 if claimed[target] else truth.labels[target]
                claimed[target] = True
        tally.labels.append(predicted.labels[i])
        tally.scores.append(predicted.scores[i])
        tally.kinds.append(name)
        tally.mended.append(mended)
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
