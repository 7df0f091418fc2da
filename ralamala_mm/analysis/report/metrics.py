"""What is known of the metrics that a validation logs: their unit, which way is better, and what is drawn in one chart."""

import re
from collections.abc import Iterable, Sequence

# By the last part of a name: before it stands whatever prefix the config gives the evaluator.
CHARTS = {
    'box AP': ('bbox_mAP', 'bbox_AP', 'bbox_mAP_50', 'bbox_AP50', 'bbox_mAP_75', 'bbox_AP75'),
    'mask AP': ('segm_mAP', 'segm_AP', 'segm_mAP_50', 'segm_AP50', 'segm_mAP_75', 'segm_AP75'),
    'AP': ('mAP', 'AP50', 'AP75'),
    'mIoU and accuracy': ('mIoU', 'mAcc', 'aAcc'),
    'panoptic quality': ('PQ', 'SQ', 'RQ'),
}
_SHARES = re.compile(r'(\w+_)?m?A[PR](\d+|[a-z])?([@_].+)?|.+_precision|mMR|JI')  # MMDetection's, of 1
_PERCENT = re.compile(r'[mc]?IoU|[ma]Acc|mDice|mFscore|mPrecision|mRecall|[PSR]Q(_th|_st)?')  # MMSegmentation's and panoptic ones
_LOWER_IS_BETTER = ('mMR',)


def last_part(metric: str) -> str:
    """'bbox_mAP' of 'coco/bbox_mAP'."""
    return metric.rpartition('/')[2]


def short_names(metrics: Iterable[str]) -> dict[str, str]:
    """Each metric's last part, or its whole name where that is not enough to tell it from another."""
    metrics = list(dict.fromkeys(metrics))
    parts = [last_part(metric) for metric in metrics]
    return {metric: part if parts.count(part) == 1 else metric for metric, part in zip(metrics, parts, strict=True)}


def to_percent(metric: str) -> float | None:
    """What makes percent of a metric's values; None where their unit is not known."""
    if _PERCENT.fullmatch(last_part(metric)):
        return 1.0
    return 100.0 if _SHARES.fullmatch(last_part(metric)) else None


def best_point(metric: str, points: Sequence[tuple[int, float]]) -> tuple[int, float] | None:
    """The best of (iteration, value) pairs, the first of equal ones; None where it is not known which way is better."""
    if to_percent(metric) is None:
        return None
    return (min if last_part(metric) in _LOWER_IS_BETTER else max)(points, key=lambda point: point[1])
