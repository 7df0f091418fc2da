"""Charts as SVG to stand within a page: text as text, colors that the color-blind tell apart, for light and dark pages."""

import html
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .pages import Table

# Okabe and Ito's, blue lighter and yellow darker: each has a contrast of 3 or nearly so on white and on the dark page.
COLORS = ('#1a7fc1', '#d55e00', '#009e73', '#cc79a7', '#a38a00', '#8a8f98')
STYLES = ('-', '--', '-.', ':')
MOST_POINTS = 400  # of a line
_INK = '#010203'  # stands for the page's own text color until the SVG is written
_SETTINGS = {'svg.fonttype': 'none', 'svg.hashsalt': 'report', 'font.size': 9.5, 'font.family': 'sans-serif',
             'text.parse_math': False,  # names may hold dollar signs
             'text.color': _INK, 'axes.labelcolor': _INK, 'axes.edgecolor': _INK, 'xtick.color': _INK, 'ytick.color': _INK,
             'axes.spines.top': False, 'axes.spines.right': False, 'axes.titlesize': 10.5, 'legend.frameon': False,
             'axes.linewidth': 0.6}
_WIDTH, _HEIGHT, _LEGEND_ROW, _BAR = 4.4, 2.8, 0.21, 0.12  # inches


@dataclass
class Line:
    """A line of a chart; `points` are (x, y)."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass
class Chart:
    """A drawn chart; `description` says in a sentence what it shows, and `table` holds its numbers."""

    title: str
    svg: str
    description: str = ''
    table: Table | None = None


def line_chart(title: str, x: str, y: str, lines: Sequence[Line], top: float | None = None, marks: Sequence[float] = (),
               markers: bool = False) -> Chart:
    """Lines over a common axis from 0, or from the least negative value on.

    Args:
        title: above the chart.
        x: what the horizontal axis shows.
        y: what the vertical axis shows.
        lines: at most as many as there are colors and styles; a thinner choice of points is drawn of long ones.
        top: upper end of the vertical axis.
        marks: places of dotted vertical lines.
        markers: a dot on every point.
    """
    rows = -(-len(lines) // 2) if len(lines) > 1 else 0
    with _drawing(title, _HEIGHT + rows * _LEGEND_ROW) as (axes, chart):
        for place in marks:
            axes.axvline(place, color=_INK, alpha=0.5, linewidth=0.8, linestyle=':')
        handles = []
        for i, line in enumerate(lines):
            step = -(-len(line.points) // MOST_POINTS)
            points = [*line.points[::step], line.points[-1]]
            handles += axes.plot(*zip(*points, strict=True), color=COLORS[i % len(COLORS)], linewidth=1.4,
                                 linestyle=STYLES[i % len(STYLES)], marker='o' if markers else None, markersize=3.5)
        axes.set(xlabel=x, ylabel=y, ylim=(None if any(value < 0 for line in lines for _, value in line.points) else 0, top))
        if rows:
            _add_legend(axes, handles, [line.name for line in lines])
    return chart


def bar_chart(title: str, x: str, names: Sequence[str], bars: dict[str, Sequence[float]], description: str = '') -> Chart:
    """Horizontal bars side by side.

    Args:
        title: above the chart.
        x: what the bars' lengths show.
        names: of the groups, from the top.
        bars: the name of a kind of bar → a value for each group.
        description: what the chart shows, for those who do not see it.
    """
    rows = -(-len(bars) // 2) if len(bars) > 1 else 0
    height = max(_HEIGHT, 0.8 + len(names) * (0.06 + _BAR * len(bars)))
    with _drawing(title, height + rows * _LEGEND_ROW, description) as (axes, chart):
        thick, handles = 0.8 / len(bars), []
        for i, values in enumerate(bars.values()):
            places = [group - 0.4 + thick * (i + 0.5) for group in range(len(names))]
            handles.append(axes.barh(places, values, thick * 0.92, color=COLORS[i % len(COLORS)]))
            axes.bar_label(handles[-1], fmt='%.1f', padding=2, fontsize=8 if len(bars) < 3 else 6.5)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set(xlabel=x)
        axes.margins(x=0.12, y=0.02)
        axes.grid(False, axis='y')
        if rows:
            _add_legend(axes, handles, list(bars))
    return chart


def column_chart(title: str, x: str, y: str, names: Sequence[str], columns: dict[str, Sequence[float]],
                 marks: dict[float, str] | None = None, description: str = '') -> Chart:
    """Vertical bars side by side, as of a histogram.

    Args:
        title: above the chart.
        x: what the groups are of.
        y: what the bars' heights show.
        names: of the groups, from the left.
        columns: the name of a kind of bar → a value for each group.
        marks: the place of a dashed line, 0.5 being between the first group and the second → the words beside it.
        description: what the chart shows, for those who do not see it.
    """
    rows = -(-len(columns) // 2)
    with _drawing(title, _HEIGHT + rows * _LEGEND_ROW, description) as (axes, chart):
        wide, handles = 0.86 / len(columns), []
        for i, values in enumerate(columns.values()):
            places = [group - 0.43 + wide * (i + 0.5) for group in range(len(names))]
            handles.append(axes.bar(places, values, wide * 0.94, color=COLORS[i % len(COLORS)]))
        axes.set_xticks(range(len(names)), names, fontsize=7.5, rotation=40, ha='right', rotation_mode='anchor')
        axes.set(xlabel=x, ylabel=y, xlim=(-0.6, len(names) - 0.4))
        axes.margins(y=0.14 if marks else 0.05)
        axes.grid(False, axis='x')
        for place, words in (marks or {}).items():
            axes.axvline(place, color=_INK, linewidth=1, linestyle='--')
            axes.annotate(words, (place, 0.99), (-3, 0), xycoords=('data', 'axes fraction'), textcoords='offset points',
                          fontsize=8, ha='right', va='top')
        _add_legend(axes, handles, list(columns))
    return chart


def _add_legend(axes: Axes, handles: list[Artist], names: list[str]) -> None:
    """Below the chart. Names that begin with '_', as 'labels' of lines and bars, would be left out of it."""
    axes.figure.legend(handles, names, loc='outside lower center', ncols=2, fontsize=8.5, handlelength=2.6, columnspacing=1.2)


@contextmanager
def _drawing(title: str, height: float, description: str = '') -> Iterator[tuple[Axes, Chart]]:
    """Axes to draw on; the chart has its SVG afterwards."""
    chart = Chart(title, '', description)
    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Glyph .* missing from')  # the browser has its own
        figure = Figure(figsize=(_WIDTH, height), layout='constrained')
        axes = figure.subplots()
        axes.set_title(title, loc='left')
        axes.grid(color=_INK, alpha=0.15, linewidth=0.6)
        axes.set_axisbelow(True)
        yield axes, chart
        buffer = io.StringIO()
        figure.savefig(buffer, format='svg', transparent=True, metadata=dict(Date=None, Creator=None, Format=None, Type=None))
    chart.svg = _inline(buffer.getvalue(), title, description)


def _inline(svg: str, title: str, description: str) -> str:
    """An SVG file as an element of a page: scales with it, takes its text color, and shares no id with another chart."""
    svg = svg[svg.index('<svg'):]
    label = html.escape(f'{title}. {description}' if description else title).replace('\\', '&#92;')
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', f'<svg role="img" aria-label="{label}" viewBox="\\1" '
                 r'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">', svg, count=1)
    svg = re.sub(r'<metadata>.*?</metadata>', '', svg, flags=re.DOTALL).replace(_INK, 'currentColor')
    prefix = re.sub(r'\W+', '-', title)
    for start in ('id="', 'url(#', 'xlink:href="#'):
        svg = svg.replace(start, f'{start}{prefix}-')
    return svg
