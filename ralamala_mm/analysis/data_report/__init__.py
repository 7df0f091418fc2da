"""The report of a data set as one HTML page: a verdict, splits, what was found, classes, charts, and the worst images."""

from dataclasses import dataclass, field
from pathlib import Path

from ralamala_mm.analysis.charts import Chart
from ralamala_mm.analysis.pages import Table, html_of
from ralamala_mm.datasets.validation import DataReport

from .cases import Card, worst_cases
from .findings import Finding, find_all
from .sections import Classes, all_charts, classes_tables, splits_table, together_tables
from .statistics import is_coco, statistics_of

__all__ = ['data_page']


@dataclass
class Page:
    """Everything that the template shows."""

    config: str
    root: str
    verdict: str
    is_good: bool
    sentences: list[str]  # what the verdict means
    findings: list[Finding]
    cards: list[Card]
    splits: Table
    classes: Table | None = None
    more_classes: Table | None = None
    left_out_classes: int = 0
    charts: list[Chart] = field(default_factory=list)
    together: tuple[Table, Table] | None = None
    first: str = ''  # split of `together`
    segments: bool = False


def data_page(report: DataReport, root: str) -> str:
    """The page as HTML.

    Args:
        report: what was found.
        root: where the data is, as the user named it.
    """
    return html_of('data.html.j2', page=_make_page(report, root))


def _make_page(report: DataReport, root: str) -> Page:
    findings = find_all(report)
    cards = worst_cases(report, findings)  # which link the findings to them
    statistics = [one for one in statistics_of(report.contents) if one.images]
    page = Page(Path(report.config).stem, root, *_verdict(report, findings), findings, cards, splits_table(statistics, report))
    if statistics:
        classes = Classes.of(statistics)
        page.segments = not is_coco(statistics)
        page.classes, page.more_classes, page.left_out_classes = classes_tables(statistics, classes)
        page.charts = all_charts(statistics, classes)
        page.together, page.first = together_tables(statistics, classes), statistics[0].name
    return page


def _verdict(report: DataReport, findings: list[Finding]) -> tuple[str, bool, list[str]]:
    """The verdict in a line, whether it is a good one, and what else one has to know first."""
    kinds = {level: len({finding.what for finding in findings if finding.level == level})
             for level in ('error', 'corrected', 'note')}
    sentences = []
    opened = sum(report.images.values())
    if opened:
        bad = len({fault.file for fault in report.faults})
        sentences.append(f'{opened:,} images were opened; {_files(bad)} cannot be used.' if bad else
                         f'{opened:,} images were opened, and all can be used.')
    if kinds['corrected']:
        sentences.append(f'Nothing to do about {_kinds(kinds["corrected"])} of defect: corrected in a copy, or what has it is '
                         'left out; your files stay as they are.')
    if not report.complete:
        sentences.append('Not everything was inspected: fix the errors below, then run check_data.py again.')
    if kinds['error']:
        keeps = 'keeps' if kinds['error'] == 1 else 'keep'
        return f'{_kinds(kinds["error"])} of defect {keeps} this data from being used', False, sentences
    if not report.complete:
        return 'Not everything could be inspected', False, sentences
    use = 'trained on' if 'train' in report.images else 'evaluated on'
    return f'This data can be {use}', True, sentences


def _kinds(number: int) -> str:
    return f'{number} kind{"" if number == 1 else "s"}'


def _files(number: int) -> str:
    return f'{number:,} file{"" if number == 1 else "s"}'
