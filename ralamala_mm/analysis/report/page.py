"""The report itself: one HTML page of one run, or of several beside each other, that needs nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ralamala_mm.analysis.charts import Chart, Line, bar_chart, line_chart
from ralamala_mm.analysis.detections import KINDS, RECALLS, ErrorBreakdown
from ralamala_mm.analysis.pages import Table, html_of
from ralamala_mm.files import atomic_write

from . import tables
from .config_differences import Difference, differences, differences_from_base, find_config, flatten
from .detection import CONFIDENT, OVERLAP, Detections
from .examples import Example, best_and_worst, most_different
from .runs import CHARTS, Run, Series, last_part, short_names, to_percent
from .segmentation import Segmentations

EXAMPLES = 6  # best images, and worst
MOST_CLASSES = 6  # whose precision is drawn
_OVERLAPS = {0: '.50', 5: '.75', 8: '.90'}  # index in COCO's ten
Results = list[Detections | Segmentations | None]  # one for each run; None without predictions


@dataclass
class Page:
    """Everything that the template shows."""

    title: str
    runs: list[Run]
    notices: list[str]  # what is missing and why
    facts: Table
    environment: Table
    metrics: Table
    base_differences: list[tuple[str, list[Difference]]]  # heading and settings, of each run
    run_differences: list[Difference] | None
    curves: list[Chart]
    parts: list[Chart]  # curves of the single losses and of metrics beyond the usual ones
    summary: Table | None = None
    predicted: str = ''  # on what
    classes: Table | None = None
    precision: list[Chart] = field(default_factory=list)
    errors: Table | None = None
    error_charts: list[Chart] = field(default_factory=list)
    confusions: list[tuple[str, Table, Table]] = field(default_factory=list)
    examples: list[tuple[str, list[Example]]] = field(default_factory=list)


def write_page(path: Path, runs: Sequence[Run], results: Results, notices: Sequence[str], base: Path | None = None) -> list[str]:
    """Writes the report; returns what it says is missing.

    Args:
        path: the file, `.html`.
        runs: at least one.
        results: what was measured on the predictions of each run, or None.
        notices: sentences about what is missing.
        base: the config file that the run's config is compared with; found by its name if None.
    """
    page = _make_page(list(runs), list(results), list(notices), base)
    html = html_of('training.html.j2', page=page, compares=len(runs) > 1, confident=CONFIDENT, overlap=OVERLAP)
    atomic_write(path, lambda file: file.write_text(html, encoding='utf-8'))
    return page.notices


def _make_page(runs: list[Run], results: Results, notices: list[str], base: Path | None) -> Page:
    names = [run.name for run in runs]
    for run in runs:
        if not run.sessions:
            notices.append(f'{run.name}: no logs of a training (*/vis_data/scalars.json), so there are no curves.')
    base_differences = []
    for run in runs:
        if path := base or find_config(run.config_name):
            base_differences.append((f'{run.name}, compared with the bases of {path}', differences_from_base(run.config, path)))
        else:
            notices.append(f'{run.name}: no {run.config_name} in configs/, so that what it changes of its base is not known; '
                           '--base names the config file.')
    page = Page(' and '.join(names), runs, notices, tables.facts_table(runs), tables.environment_table(runs),
                tables.metrics_table(runs), base_differences,
                differences([flatten(run.config) for run in runs]) if len(runs) > 1 else None, _curves(runs), _other_curves(runs))
    _add_results(page, runs, results)
    return page


def _add_results(page: Page, runs: list[Run], results: Results) -> None:
    done = [(run.name, result) for run, result in zip(runs, results, strict=True) if result is not None]
    if not done:
        return
    names, found = [name for name, _ in done], [result for _, result in done]
    page.predicted = '; '.join(f'{name}: {result.predictions.checkpoint.name} on {len(result.predictions.images):,} of '
                               f'{result.predictions.of:,} images' for name, result in done)
    alike = len({(type(result), result.predictions.classes) for result in found}) == 1
    if not alike:
        page.notices.append('The runs have different tasks or classes: what is per class is shown of the first alone.')
        names, found = names[:1], found[:1]
    page.summary, page.classes = tables.summary_table(found, names), tables.classes_table(found, names)
    page.confusions = [(name, *tables.confusion_tables(result)) for name, result in zip(names, found, strict=True)]
    if isinstance(found[0], Detections):
        page.precision = _precision_charts(found, names)
        page.errors, page.error_charts = tables.errors_table(found, names), _error_charts(found, names)
    page.examples = _examples(found, names)


def _examples(found: list[Detections | Segmentations], names: list[str]) -> list[tuple[str, list[Example]]]:
    same = len({tuple(image.path for image in result.predictions.images) for result in found}) == 1
    if len(found) > 1 and same:
        return [('where the runs differ most', most_different(found, names, EXAMPLES))]
    examples = []
    for name, result in zip(names, found, strict=True):
        best, worst = best_and_worst(result, EXAMPLES)
        of = f' of {name}' if len(found) > 1 else ''
        examples += [(f'best images{of}', best), (f'worst images{of}', worst)]
    return [(heading, images) for heading, images in examples if images]  # a single image is not the worst too


def _curves(runs: list[Run]) -> list[Chart]:
    """Loss, learning rate and validation metrics over iterations."""
    training, metrics = [run.training for run in runs], [run.metrics for run in runs]
    marks = [session.started_from for session in runs[0].sessions[1:]] if len(runs) == 1 else []
    charts = []
    for name, title in (('loss', 'training loss'), ('lr', 'learning rate')):
        lines = _lines(runs, training, name)
        if lines:
            charts.append(line_chart(title, 'iteration', title.split()[-1], lines, marks=marks))
    shorts = _metric_names(runs)
    for title, parts in CHARTS.items():
        keys = [key for part in parts for key in shorts if last_part(key) == part]
        if keys and len(runs) == 1:
            lines = [Line(shorts[key], _scaled(key, metrics[0][key])) for key in keys]
            charts.append(line_chart(f'{title}, validation', 'iteration', 'percent', lines, marks=marks, markers=True))
        charts += [_metric_chart(runs, key, shorts[key]) for key in keys[:2] if len(runs) > 1]
    return charts


def _metric_names(runs: list[Run]) -> dict[str, str]:
    """How each metric of any run is called in the page."""
    return short_names(name for run in runs for name in run.metrics)


def _metric_chart(runs: list[Run], key: str, name: str) -> Chart:
    lines = [Line(line.name, _scaled(key, line.points)) for line in _lines(runs, [run.metrics for run in runs], key)]
    return line_chart(f'{name}, validation', 'iteration', 'percent' if to_percent(key) else '', lines, markers=True)


def _other_curves(runs: list[Run]) -> list[Chart]:
    """A chart of each single loss, of the gradients' norm, and of each metric that is in no other chart."""
    training = [run.training for run in runs]
    names = [name for name in dict.fromkeys(name for series in training for name in series)
             if ('loss' in name and name != 'loss') or name == 'grad_norm']
    drawn = [part for parts in CHARTS.values() for part in parts]
    return [*(line_chart(name, 'iteration', '', _lines(runs, training, name)) for name in names),
            *(_metric_chart(runs, key, name) for key, name in _metric_names(runs).items() if last_part(key) not in drawn)]


def _lines(runs: list[Run], series: list[Series], name: str) -> list[Line]:
    return [Line(run.name, one[name]) for run, one in zip(runs, series, strict=True) if one.get(name)]


def _scaled(key: str, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(at, value * (to_percent(key) or 1)) for at, value in points]


def _precision_charts(found: list[Detections], names: list[str]) -> list[Chart]:
    charts = []
    for i, precision in enumerate(found[0].precisions):
        kind = tables.KIND_NAMES[precision.kind]
        if len(found) > 1:
            for index in (0, 5):
                curves = {name: result.precisions[i].curve(index) for name, result in zip(names, found, strict=True)
                          if len(result.precisions) > i}
                charts.append(_precision_chart(f'{kind}: mean of all classes, IoU {_OVERLAPS[index]}', curves))
            continue
        charts.append(_precision_chart(f'{kind}: mean of all classes',
                                       {f'IoU {text}': precision.curve(index) for index, text in _OVERLAPS.items()}))
        charts.append(_precision_chart(f'{kind}: classes, IoU .50',
                                       {found[0].predictions.classes[label]: precision.curve(0, label)
                                        for label in _extreme_classes(precision.per_class['AP50'])}))
    return charts


def _precision_chart(title: str, curves: dict[str, np.ndarray]) -> Chart:
    """Precision `[101]` by name over recall."""
    lines = [Line(name, list(zip(RECALLS.tolist(), np.nan_to_num(curve).tolist(), strict=True)))
             for name, curve in curves.items()]
    return line_chart(title, 'recall', 'precision', lines, top=1.02)


def _extreme_classes(aps: np.ndarray) -> list[int]:
    """All classes if they are few, else those of the highest and of the lowest AP."""
    known = np.flatnonzero(np.isfinite(aps))
    if len(known) <= MOST_CLASSES:
        return known.tolist()
    order = known[np.argsort(-aps[known], kind='stable')]
    return [*order[:MOST_CLASSES // 2].tolist(), *order[-(MOST_CLASSES // 2):].tolist()]


def _error_charts(found: list[Detections], names: list[str]) -> list[Chart]:
    if len(found) == 1:
        bars = {tables.KIND_NAMES[kind]: _gains(breakdown) for kind, breakdown in found[0].errors.items()}
        return [bar_chart('AP50 to win by correcting', 'percent', list(KINDS), bars)]
    charts = []
    for kind in found[0].errors:
        bars = {name: _gains(result.errors[kind]) for name, result in zip(names, found, strict=True) if kind in result.errors}
        charts.append(bar_chart(f'{tables.KIND_NAMES[kind]} AP50 to win by correcting', 'percent', list(KINDS), bars))
    return charts


def _gains(breakdown: ErrorBreakdown) -> list[float]:
    return [100 * breakdown.gains[kind] for kind in KINDS]
