"""The tables of the report."""

from collections.abc import Sequence

import numpy as np

from ralamala_mm.analysis.detections import KINDS
from ralamala_mm.analysis.pages import Cell, Table, count, percent, text

from .detection import Detections
from .runs import Run, best_point, short_names, to_percent
from .segmentation import Segmentations

KIND_NAMES = dict(bbox='box', segm='mask')
MOST_CLASSES = 15  # that a confusion matrix shows
MOST_CONFUSIONS = 15  # pairs of classes that are listed


def facts_table(runs: Sequence[Run]) -> Table:
    """What was run, a column for each run."""
    return _facts_table(runs, [run.facts for run in runs])


def environment_table(runs: Sequence[Run]) -> Table:
    """Versions and hardware, a column for each run."""
    return _facts_table(runs, [run.environment for run in runs])


def _facts_table(runs: Sequence[Run], facts: Sequence[dict[str, str]]) -> Table:
    names = dict.fromkeys(name for fact in facts for name in fact)
    return Table(['', *(run.name for run in runs)],
                 [[text(name), *(text(fact.get(name, '–')) for fact in facts)] for name in names])


def metrics_table(runs: Sequence[Run]) -> Table:
    """The last value of each validation metric, and the best with its iteration where it is known which way is better."""
    metrics = [run.metrics for run in runs]
    table = Table(['metric', *(f'{run.name}: {which}' for run in runs for which in ('last', 'best (at)'))])
    for name, short in short_names(name for series in metrics for name in series).items():
        row = [text(short if to_percent(name) else f'{short} (as logged)')]
        for series in metrics:
            row += _last_and_best(name, series.get(name, []))
        table.rows.append(row)
    return table


def _last_and_best(name: str, points: Sequence[tuple[int, float]]) -> list[Cell]:
    if not points:
        return [Cell('–', -1.0)] * 2
    scale, last = to_percent(name), points[-1][1]
    if scale is None:
        return [Cell(f'{last:.4g}', last), Cell('–', -1.0)]
    at, best = best_point(name, points)
    return [Cell(f'{scale * last:.1f}', scale * last), Cell(f'{scale * best:.1f} ({at:,})', scale * best)]


def classes_table(results: Sequence[Detections | Segmentations], names: Sequence[str]) -> Table:
    """A row for each class; with several runs their main numbers and how much each differs from the first."""
    first = results[0]
    amounts, unit = (first.objects, 'objects') if isinstance(first, Detections) else (first.pixels, 'pixels')
    columns = _single_columns(first) if len(results) == 1 else _compared_columns(results, names)
    table = Table(['class', unit, *columns])
    for i, name in enumerate(first.predictions.classes):
        table.rows.append([text(name), count(amounts[i]), *(percent(values[i], signed) for values, signed in columns.values())])
    return table


def _main_numbers(result: Detections | Segmentations) -> dict[str, np.ndarray]:
    if isinstance(result, Segmentations):
        return dict(IoU=result.per_class['IoU'])
    return {f'{KIND_NAMES[precision.kind]} AP': precision.per_class['AP'] for precision in result.precisions}


def _single_columns(result: Detections | Segmentations) -> dict[str, tuple[np.ndarray, bool]]:
    if isinstance(result, Segmentations):
        return {name: (values, False) for name, values in result.per_class.items()}
    return {f'{KIND_NAMES[precision.kind]} {name}': (values, False) for precision in result.precisions
            for name, values in precision.per_class.items()}


def _compared_columns(results: Sequence[Detections | Segmentations],
                      names: Sequence[str]) -> dict[str, tuple[np.ndarray, bool]]:
    columns = {}
    numbers = [_main_numbers(result) for result in results]
    for number in (number for number in numbers[0] if all(number in other for other in numbers)):
        for name, one in zip(names, numbers, strict=True):
            columns[f'{number}, {name}'] = (one[number], False)
        for name, one in list(zip(names, numbers, strict=True))[1:]:
            columns[f'{number}, {name} − {names[0]}'] = (one[number] - numbers[0][number], True)
    return columns


def summary_table(results: Sequence[Detections | Segmentations], names: Sequence[str]) -> Table:
    """The numbers of the images that were predicted."""
    table = Table(['', *names])
    rows: dict[str, list[float]] = {}
    for i, result in enumerate(results):
        parts = ([(f'{KIND_NAMES[precision.kind]} {name}', value) for precision in result.precisions
                  for name, value in precision.summary.items()] if isinstance(result, Detections) else result.summary.items())
        for name, value in parts:
            rows.setdefault(name, [float('nan')] * len(results))[i] = value
    table.rows = [[text(name), *(percent(value) for value in values)] for name, values in rows.items()]
    return table


def errors_table(results: Sequence[Detections], names: Sequence[str]) -> Table:
    """Each kind of error, how many there are, and the AP50 that is lost by them."""
    columns = [(f'{KIND_NAMES[kind]}{f", {name}" if len(results) > 1 else ""}', breakdown)
               for result, name in zip(results, names, strict=True) for kind, breakdown in result.errors.items()]
    headings = [heading for name, _ in columns for heading in (f'{name}: count', f'{name}: AP50 to win')]
    table = Table(['error', *headings, 'what it is'])
    for kind, meaning in KINDS.items():
        numbers = [cell for _, breakdown in columns for cell in (count(breakdown.counts[kind]), percent(breakdown.gains[kind]))]
        table.rows.append([text(kind), *numbers, text(meaning)])
    return table


def confusion_tables(result: Detections | Segmentations) -> tuple[Table, Table]:
    """The confusion matrix in percent of its rows, of the classes confused most if there are many, and the commonest pairs."""
    detects = isinstance(result, Detections)
    counts, classes = result.confusions, len(result.predictions.classes)
    rows, columns = ([*result.predictions.classes, 'nothing'], [*result.predictions.classes, 'not found']) if detects else (
        [result.predictions.classes] * 2)
    wrong = counts * (1 - np.eye(len(counts), dtype=np.int64))
    mistaken = (wrong.sum(axis=0) + wrong.sum(axis=1))[:classes]
    shown = sorted(np.argsort(-mistaken, kind='stable')[:MOST_CLASSES].tolist()) + ([classes] if detects else [])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    matrix = Table(['annotated', *(columns[i] for i in shown)])
    for i in shown:
        cells = [Cell(f'{100 * shares[i, j]:.0f}', shares[i, j], shares[i, j]) for j in shown]
        if i == classes:
            cells[-1].text = ''  # nothing, and nothing predicted, cannot be counted
        matrix.rows.append([text(rows[i]), *cells])
    listed = Table(['annotated', 'predicted', 'objects' if detects else 'pixels', 'percent of the annotated'])
    for place in np.argsort(-wrong, axis=None, kind='stable')[:MOST_CONFUSIONS]:
        i, j = np.unravel_index(place, wrong.shape)
        if wrong[i, j]:
            share = percent(shares[i, j]) if i < classes else Cell('–', -1.0)
            listed.rows.append([text(rows[i]), text(columns[j]), count(wrong[i, j]), share])
    return matrix, listed
