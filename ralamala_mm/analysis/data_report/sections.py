"""The tables and charts of the page."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ralamala_mm.analysis.charts import Chart, bar_chart, column_chart
from ralamala_mm.analysis.pages import Cell, Table, count, percent, text
from ralamala_mm.datasets.coco_checks import DETECTIONS, LARGE, SMALL
from ralamala_mm.datasets.validation import DataReport

from .findings import file_faults
from .statistics import (
    IMAGE_SIZES,
    OBJECT_SIZES,
    PER_IMAGE,
    SplitStatistics,
    bin_names,
    binned,
    is_coco,
    share,
)

SHOWN, MOST_ROWS = 80, 1000  # classes in the table that are visible, and at all
_BARS, _MATRIX, _PAIRED = 15, 12, 60  # classes in the bar chart, in the matrix, and of which pairs are counted
_PAIRS = 15
_SINGLE = 15  # classes in an image up to which each number has a bin
_NAME = 28  # letters of a class's name in a chart


@dataclass
class Classes:
    """The classes of all splits in the order of the page; `index` has one of each split's own, or -1."""

    names: list[str]
    index: list[np.ndarray]  # int64 [C], one for each split

    @classmethod
    def of(cls, statistics: Sequence[SplitStatistics]) -> 'Classes':
        """The first split's most frequent classes first."""
        first = statistics[0]
        order = [first.classes[i] for i in np.argsort(-first.amounts, kind='stable')]
        names = list(dict.fromkeys([*order, *(name for one in statistics for name in one.classes)]))
        positions = [{name: i for i, name in enumerate(one.classes)} for one in statistics]
        return cls(names, [np.array([own.get(name, -1) for name in names], np.int64) for own in positions])

    def values(self, split: int, numbers: np.ndarray) -> np.ndarray:
        """A split's numbers `[C]` in the order of the page; 0 for classes that it does not have."""
        index = self.index[split]
        return np.where(index >= 0, np.append(numbers, 0)[index], 0)


def splits_table(statistics: Sequence[SplitStatistics], report: DataReport) -> Table:
    """A row for each split, with the files that were opened."""
    faults = file_faults(report)
    opened = {split: (images, len({fault.file for fault in faults if fault.split == split}))
              for split, images in report.images.items()}
    columns = ['images', 'sizes']
    if statistics and is_coco(statistics):
        columns += ['without objects', 'objects', 'not used', f'small, under {SMALL}², %', 'medium, %',
                    f'large, over {LARGE}², %']
    elif statistics:
        columns += ['classes in an image, mean', 'pixels of no class, %']
    table = Table(['split', *columns, 'images opened', 'files unusable'])
    rows = {one.name: _split_cells(one) for one in statistics}
    for name in [*rows, *(split for split in opened if split not in rows)]:
        cells = rows.get(name) or [count(opened[name][0]), *[Cell('–', -1.0)] * (len(columns) - 1)]
        table.rows.append([text(name), *cells, *(map(count, opened[name]) if name in opened else [Cell('–', -1.0)] * 2)])
    return table


def _split_cells(one: SplitStatistics) -> list[Cell]:
    sizes = one.contents.sizes[one.contents.sizes.min(1) > 0]
    ends = [sizes[choose(sizes.prod(1))] for choose in (np.argmin, np.argmax)] if len(sizes) else []
    spread = ' to '.join(dict.fromkeys(f'{width}×{height}' for width, height in ends))
    cells = [count(one.images), text(spread or '–')]
    if not is_coco([one]):
        pixels = one.contents.pixels
        return [*cells, Cell(f'{one.per_image.mean() if one.images else 0:.1f}', float(one.per_image.sum())),
                percent(pixels[:, -1].sum() / max(pixels.sum(), 1))]
    small, large = (one.object_sizes < SMALL).sum(), (one.object_sizes > LARGE).sum()
    total = max(len(one.object_sizes), 1)
    return [*cells, count(one.empty), count(one.amounts.sum()), count(one.unused.sum()), percent(small / total),
            percent((len(one.object_sizes) - small - large) / total), percent(large / total)]


def classes_tables(statistics: Sequence[SplitStatistics], classes: Classes) -> tuple[Table, Table, int]:
    """The most frequent classes, the others, and how many are in neither."""
    table = Table(['class'])
    columns = []
    for i, one in enumerate(statistics):
        amounts, images = classes.values(i, one.amounts), classes.values(i, one.images_with)
        if is_coco([one]):
            table.headings += [f'{one.name}: objects', '%', 'images']
            columns += [map(count, amounts), map(percent, share(amounts) / 100), map(count, images)]
            if one.unused.any():
                table.headings.append('not used')
                columns.append(map(count, classes.values(i, one.unused)))
        else:
            shares = amounts / max(one.contents.pixels.sum(), 1)
            table.headings += [f'{one.name}: pixels, %', 'images', 'images, %']
            columns += [map(_precise, shares), map(count, images), map(percent, images / max(one.images, 1))]
    rows = [list(row) for row in zip(map(text, classes.names), *columns, strict=True)]
    table.rows = rows[:SHOWN]
    return table, Table(table.headings, rows[SHOWN:MOST_ROWS]), max(0, len(rows) - MOST_ROWS)


def _precise(value: float) -> Cell:
    """A share in percent, of which little is not yet nothing."""
    return Cell(f'{100 * value:.1f}' if value >= 0.001 or not value else '<0.1', 100 * value)


def all_charts(statistics: Sequence[SplitStatistics], classes: Classes) -> list[Chart]:
    """Classes, objects per image, and sizes, with all splits in each."""
    charts = _class_charts(statistics, classes)
    if is_coco(statistics):
        charts.append(_histogram('Objects per image', 'objects that are used', statistics, [one.per_image for one in statistics],
                                 PER_IMAGE, True, {len(PER_IMAGE) - 1.5: f'the evaluator\'s limit: {DETECTIONS}'}))
        marks = {OBJECT_SIZES.index(SMALL) - 0.5: f'small\n< {SMALL}', OBJECT_SIZES.index(LARGE) - 0.5: f'medium\n< {LARGE}'}
        charts.append(_histogram('Sizes of objects', 'square root of the box\'s area, pixels', statistics,
                                 [one.object_sizes for one in statistics], OBJECT_SIZES, False, marks, 'objects'))
    else:
        most = max((int(one.per_image.max(initial=0)) for one in statistics), default=0)
        starts = tuple(range(most + 1)) if most <= _SINGLE else PER_IMAGE
        charts.append(_histogram('Classes per image', 'classes', statistics, [one.per_image for one in statistics], starts, True))
    sides = [longer[longer > 0] for longer in (one.contents.sizes.max(1) for one in statistics)]  # 0: could not be read
    charts.append(_histogram('Sizes of images' if is_coco(statistics) else 'Sizes of masks', 'longer side, pixels', statistics,
                             sides, IMAGE_SIZES, False, trims=True))
    return charts


def _histogram(title: str, x: str, statistics: Sequence[SplitStatistics], values: Sequence[np.ndarray], starts: Sequence[int],
               whole: bool, marks: dict[float, str] | None = None, of: str = 'images', trims: bool = False) -> Chart:
    counts = [binned(one, starts) for one in values]
    names = bin_names(starts, whole, max((one.max(initial=0) for one in values), default=0))
    if trims and any(one.any() for one in counts):
        filled = np.flatnonzero(sum(counts))
        kept = slice(max(filled[0] - 1, 0), filled[-1] + 2)
        counts, names = [one[kept] for one in counts], names[kept]
    splits = [one.name for one in statistics]
    medians = '; '.join(f'{name}: median {np.median(one):.0f}, largest {one.max():.0f}'
                        for name, one in zip(splits, values, strict=True) if len(one))
    y = f'{of}, %'
    chart = column_chart(title, x, y, names, {name: share(one) for name, one in zip(splits, counts, strict=True)}, marks,
                         f'Share of the {of} by {x}. {medians}.')
    chart.table = Table([x, *(heading for name in splits for heading in (f'{name}: {of}', '%'))])
    chart.table.rows = [[text(name), *(cell for one in counts for cell in (count(one[i]), percent(share(one)[i] / 100)))]
                        for i, name in enumerate(names)]
    return chart


def _class_charts(statistics: Sequence[SplitStatistics], classes: Classes) -> list[Chart]:
    unit = 'objects' if is_coco(statistics) else 'pixels'
    present = sum(classes.values(i, one.amounts) > 0 for i, one in enumerate(statistics))
    shown = np.flatnonzero(present)[:_BARS]
    names = [_short(classes.names[i]) for i in shown]
    shares = {}
    for i, one in enumerate(statistics):
        total = one.amounts.sum() if is_coco([one]) else one.contents.pixels.sum()
        shares[one.name] = (100 * classes.values(i, one.amounts) / max(total, 1))[shown].tolist()
    images = {one.name: (100 * classes.values(i, one.images_with) / max(one.images, 1))[shown].tolist()
              for i, one in enumerate(statistics)}
    more = f', {len(names)} of {len(classes.names)}' if len(names) < len(classes.names) else ''
    frequent = ', '.join(f'{name} {value:.1f}' for name, value in zip(names[:3], shares[statistics[0].name], strict=False))
    said = f'The most frequent classes of {statistics[0].name}: {frequent} percent. The table of classes has all numbers.'
    return [bar_chart(f'Share of the {unit} by class{more}', f'{unit}, %', names, shares, said),
            bar_chart(f'Images with a class{more}', 'images, %', names, images,
                      'The share of the images in which a class is. The table of classes has all numbers.')]


def _short(name: str) -> str:
    """A name as a chart can show it."""
    name = ''.join(letter if letter.isprintable() else '?' for letter in name)
    return name if len(name) <= _NAME else f'{name[:_NAME - 1]}…'


def together_tables(statistics: Sequence[SplitStatistics], classes: Classes) -> tuple[Table, Table] | None:
    """Which classes are in the same images, of the first split: a matrix of the most frequent, and pairs; None without two."""
    first = statistics[0]
    labels = [i for i in np.argsort(-first.images_with, kind='stable')[:_PAIRED].tolist() if first.images_with[i]]
    if len(labels) < 2:
        return None
    together = first.together(labels)
    alone = np.maximum(np.diag(together), 1)
    names = [first.classes[i] for i in labels]
    shown = range(min(_MATRIX, len(labels)))
    matrix = Table(['of the images with', 'images', *(names[j] for j in shown)])
    for i in shown:
        cells = [Cell('', -1.0, 0.0) if i == j else Cell(f'{100 * together[i, j] / alone[i]:.0f}', float(together[i, j]),
                                                           float(together[i, j] / alone[i])) for j in shown]
        matrix.rows.append([text(names[i]), Cell(f'{together[i, i]:,}', float(together[i, i]), 0.0), *cells])
    upper = np.triu(together, 1)
    pairs = Table(['class', 'and', 'images with both', '% of the first\'s', '% of the second\'s'])
    for place in np.argsort(-upper, axis=None, kind='stable')[:_PAIRS]:
        i, j = np.unravel_index(place, upper.shape)
        if upper[i, j]:
            pairs.rows.append([text(names[i]), text(names[j]), count(upper[i, j]), percent(upper[i, j] / alone[i]),
                               percent(upper[i, j] / alone[j])])
    return matrix, pairs
