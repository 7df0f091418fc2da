"""What the benchmark found: a Markdown table, a JSON file, growth with resolution as exponents and as a picture."""

import json
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch

from .floor import Rates
from .speed import Result
from .workloads import Task


@dataclass(frozen=True)
class Growth:
    """How one series of results grows: time and peak memory are proportional to pixels to the power of these."""

    title: str
    mode: str
    way: str
    time: float
    memory: float


def machine(device: str) -> dict[str, str]:
    """What a result on a device of this kind, 'cpu' or 'cuda', depends on beside the task."""
    if device == 'cuda':
        name = torch.cuda.get_device_name()
    else:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
        name = f'{names[0] if names else platform.processor()}, {torch.get_num_threads()} threads'
    return dict(device=name, torch=torch.__version__, python=platform.python_version(), date=time.strftime('%Y-%m-%d'))


def ratios(results: Sequence[Result], result: Result) -> tuple[float, float] | None:
    """Time and peak memory over those of the naive path of the same subject, or else of the first row with the same work."""
    def same_work(other: Task) -> bool:
        return (other.mode, other.shape, other.dtype) == (task.mode, task.shape, task.dtype)

    task = result.task
    peers = [other for other in results if same_work(other.task)]
    naive = [other for other in peers if other.task.path == 'naive' and other.task.subject == task.subject]
    base, measured = (naive or peers)[0].measurement, result.measurement
    if base is None or measured is None:
        return None
    return measured.median / base.median, measured.peak_memory / max(base.peak_memory, 1)


def as_table(results: Sequence[Result], device: str, rates: Rates | None) -> str:
    """All results in Markdown, under a line about the machine."""
    about = ', '.join(f'{name} {value}' for name, value in machine(device).items())
    if rates:
        about += f'; measured: {rates.flops / 1e12:.3g} TFLOP/s in a matrix product, {rates.bandwidth / 1e9:.3g} GB/s in a copy'
    lines = [about, '', 'Ratios are to the naive path of the same model; where there is none, to the first row of that mode and '
             'input.', '',
             '| model | input | dtype | mode | path | seconds: median (range) | per second | peak GB | time ratio | memory ratio '
             '| floor / time |', '|-' * 11 + '|']
    for result in results:
        task, m = result.task, result.measurement
        cells = [task.title, '×'.join(map(str, task.shape)), task.dtype, task.mode, task.way]
        if m is None:
            cells += ['out of memory', *'–––––']
        else:
            compared = ratios(results, result)
            cells += [f'{m.median:.4g} ({m.fastest:.4g}–{m.slowest:.4g})', f'{task.shape[0] / m.median:.3g}',
                      f'{m.peak_memory / 1e9:.3g}', *([f'{ratio:.2f}' for ratio in compared] if compared else '––'),
                      f'{result.floor / m.median:.0%}' if result.floor else '–']
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def as_json(results: Sequence[Result], device: str, rates: Rates | None) -> str:
    """All results with the machine that they were made on; what ran out of memory has no `median`."""
    rows = []
    for result in results:
        row = dict(asdict(result.task), title=result.task.title)
        if m := result.measurement:
            compared = ratios(results, result)
            row.update(asdict(m), per_second=result.task.shape[0] / m.median, floor=result.floor,
                       share_of_floor=result.floor and result.floor / m.median,
                       time_ratio=compared and compared[0], memory_ratio=compared and compared[1])
        rows.append(row)
    return json.dumps(dict(machine=machine(device), rates=rates and asdict(rates), results=rows,
                           growth=[asdict(growth) for growth in growths(results)]), indent=1)


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The power p in value ∝ size^p by least squares over the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def _series(results: Sequence[Result]) -> dict[tuple[str, str, str], list[Result]]:
    """Results that differ in resolution only, by title, mode and way."""
    series: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        if result.measurement:
            series.setdefault((result.task.title, result.task.mode, result.task.way), []).append(result)
    return series


def _points(series: Sequence[Result]) -> tuple[list[int], list[float], list[int]]:
    """Pixels of one image, seconds, bytes; a peak below what the system counts in is one such unit."""
    return ([prod(result.task.shape[2:]) for result in series], [result.measurement.median for result in series],
            [max(result.measurement.peak_memory, 4096) for result in series])


def growths(results: Sequence[Result]) -> list[Growth]:
    """The exponents of every series with more than one resolution."""
    found = []
    for key, series in _series(results).items():
        pixels, seconds, memory = _points(series)
        if len(set(pixels)) > 1:
            found.append(Growth(*key, exponent(pixels, seconds), exponent(pixels, memory)))
    return found


def as_growth_table(results: Sequence[Result]) -> str:
    """The exponents in Markdown."""
    lines = ['| model | mode | path | time ∝ pixels to the | memory ∝ pixels to the |', '|-|-|-|-|-|']
    lines += [f'| {growth.title} | {growth.mode} | {growth.way} | {growth.time:.2f} | {growth.memory:.2f} |'
              for growth in growths(results)]
    return '\n'.join(lines)


def draw_growth(results: Sequence[Result], path: Path, title: str) -> None:
    """Writes a picture of time and peak memory against pixels, both axes logarithmic, exponents in the legend."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    figure = Figure(figsize=(12, 5), layout='constrained')
    exponents = {(growth.title, growth.mode, growth.way): growth for growth in growths(results)}
    for axes, label, column, name in zip(figure.subplots(1, 2), ('seconds', 'peak memory in bytes'), (1, 2), ('time', 'memory'),
                                         strict=True):
        for key, series in _series(results).items():
            points = _points(series)
            power = f': {getattr(exponents[key], name):.2f}' if key in exponents else ''
            axes.loglog(points[0], points[column], marker='o', label=', '.join(key) + power)
        sizes = sorted({pixels for series in _series(results).values() for pixels in _points(series)[0]})
        axes.set_xticks(sizes, [f'{pixels ** 0.5:.0f}²' for pixels in sizes])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set(xlabel='pixels per image', ylabel=label)
        axes.grid(alpha=0.3, which='both')
        axes.legend(fontsize=7, title='exponent', title_fontsize=7)
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
