"""Time and memory of the benchmark's tasks, every measurement in a process of its own, and tables of them."""

import json
import multiprocessing
import platform
import signal
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from math import prod
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import MMLogger

from ralamala_mm.backbones.hybrid import STRIDES
from ralamala_mm.errors import UserError
from ralamala_mm.families import NUM_STAGES, any_family, family_of, resolve_linear_stages, resolve_variant
from ralamala_mm.ops import ATTENTIONS

from .roofline import Op, Rates, attention_op, count_backbone, count_blocks, floor_seconds
from .workloads import MODES, NO_BACKEND, Task, Workload, load_subject, prepare

WARM_UPS, WARM_UPS_OF_GPU_OR_COMPILER = 1, 3
ELEMENT_SIZE = dict(float32=4, float16=2, bfloat16=2)  # bytes


@dataclass(frozen=True)
class Measurement:
    """Seconds per run, median and both ends, and peak memory in bytes beyond model and input."""

    median: float
    fastest: float
    slowest: float
    peak_memory: int


@dataclass(frozen=True)
class Result:
    """A task with its measurement (None: it ran out of memory) and its floor in seconds, if one was counted."""

    task: Task
    measurement: Measurement | None
    floor: float | None


def in_own_process(function: Callable, *args) -> object:
    """What a function of a module returns in a fresh process; None if it runs out of memory there.

    Raises:
        UserError: it raised one, or the process died.
    """
    context = multiprocessing.get_context('spawn')
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_result, args=(sender, function, *args))
    process.start()
    sender.close()
    try:
        result = receiver.recv()
    except EOFError:
        process.join()
        if process.exitcode == -signal.SIGKILL:  # by the kernel, which ends what takes too much
            return None
        raise UserError(f'a process ended with exit code {process.exitcode} while measuring; its error stands above') from None
    process.join()
    if isinstance(result, UserError):
        raise result
    return result


def _send_result(sender, function: Callable, *args) -> None:
    warnings.simplefilter('ignore')
    MMLogger.get_instance('benchmark', log_level='WARNING')  # optimizers list the options of every parameter
    try:
        result = function(*args)
    except UserError as error:
        result = error
    except RuntimeError as error:
        if not isinstance(error, torch.cuda.OutOfMemoryError) and 'allocate memory' not in str(error):
            raise
        result = None
    sender.send(result)


def measure(task: Task) -> Measurement:
    """Runs a task. It resets this process's peak memory: call it by `in_own_process`, or in a tool's own."""
    import torch._dynamo  # noqa: F401 what checkpointing and optimizers import when first used; 0.1 GB that are not theirs

    return measure_workload(prepare(task), task)


def measure_workload(workload: Workload, task: Task) -> Measurement:
    """Times what was prepared: warm-up runs, then `task.runs` that count, and the peak memory of these."""
    at_rest = _memory(task.device, peak=False)
    slow_start = task.device == 'cuda' or task.compiled
    for _ in range(WARM_UPS_OF_GPU_OR_COMPILER if slow_start else WARM_UPS):
        workload.run(workload.fresh_data())
    _forget_peak(task.device)
    times = [seconds(workload.run, workload.fresh_data(), task.device) for _ in range(task.runs)]
    return Measurement(statistics.median(times), min(times), max(times), _memory(task.device, peak=True) - at_rest)


def seconds(run: Callable, data: object, device: str) -> float:
    """How long `run(data)` takes, until the device is done."""
    if device == 'cuda':
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        run(data)
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3
    begun = time.perf_counter()
    run(data)
    return time.perf_counter() - begun


def _memory(device: str, peak: bool) -> int:
    """Bytes: of tensors on a GPU; resident in this process on a CPU."""
    if device == 'cuda':
        return torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()
    # Not resource.getrusage, whose peak begins at that of the process which started this one.
    name = 'VmHWM:' if peak else 'VmRSS:'
    (line,) = [line for line in Path('/proc/self/status').read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) * 1024


def _forget_peak(device: str) -> None:
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
    else:
        Path('/proc/self/clear_refs').write_text('5')  # sets VmHWM to VmRSS


def measure_all(tasks: Sequence[Task], rates: Rates | None, say: Callable[[str], None]) -> Iterator[Result]:
    """Measures one task after the other, and tells after each where it is and how long the rest takes.

    Args:
        tasks: what to measure.
        rates: of the device, for the floors; None counts none.
        say: takes a line for the user.
    """
    sizes = [prod(task.shape) * (1 if task.mode in ('forward', 'infer') else 3) for task in tasks]
    begun = time.monotonic()
    for i, task in enumerate(tasks):
        measurement = in_own_process(measure, task)
        left = (time.monotonic() - begun) / sum(sizes[:i + 1]) * sum(sizes[i + 1:])
        result = ('out of memory' if measurement is None else
                  f'{measurement.median:.4g} s, {measurement.peak_memory / 1e9:.3g} GB')
        say(f'  {i + 1}/{len(tasks)} {task.title}, {"×".join(map(str, task.shape))}, {task.mode}, {task.way}: {result}; '
            f'about {timedelta(seconds=round(left))} left')
        yield Result(task, measurement, floor_of(task, rates) if rates else None)


def floor_of(task: Task, rates: Rates) -> float | None:
    """The floor in seconds of one of our backbones or stages; of an attention, the time to move its bytes."""
    if task.mode not in MODES or task.backend == NO_BACKEND:
        return None
    backward, element_size = task.mode == 'forward+backward', ELEMENT_SIZE[task.dtype]
    if task.subject in ATTENTIONS:
        op = attention_op(task.subject, *task.shape, element_size)
        return (op.forward.bytes + op.backward.bytes * backward) / rates.bandwidth
    return floor_seconds(subject_ops(task.subject, task.shape, element_size, task.stage), rates, backward)


def subject_ops(subject: str, shape: tuple[int, int, int, int], element_size: int, stage: int | None = None) -> list[Op]:
    """The ops of a config's backbone on images `[B, C, H, W]`; of one stage, those of its blocks.

    Raises:
        UserError: there is no such config, or its backbone is another.
    """
    config = load_subject(subject)
    backbone = config.model.backbone
    family = family_of(backbone.type)
    if family is None:
        raise UserError(f'the lower bound is known for {any_family()}, not for {backbone.type} in {subject}')
    variant = resolve_variant(backbone.get('arch', 's'), family.variants)
    linear_stages = resolve_linear_stages(backbone.get('linear_stages'), family)
    if stage is None:
        return count_backbone(family.linear_attention, variant, shape, element_size,
                              backbone.get('out_indices', range(NUM_STAGES)), linear_stages)
    length = prod(-(-side // STRIDES[stage]) for side in shape[2:])
    attention = family.linear_attention if stage in linear_stages else 'softmax_attention'
    return count_blocks(attention, variant, stage, shape[0], length, element_size)


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
    """Time and peak memory over those of the naive backend of the same subject, or else of the first row with the same work."""
    def same_work(other: Task) -> bool:
        return (other.mode, other.shape, other.dtype) == (task.mode, task.shape, task.dtype)

    task = result.task
    peers = [other for other in results if same_work(other.task)]
    naive = [other for other in peers if other.task.backend == 'naive' and other.task.subject == task.subject]
    base, measured = (naive or peers)[0].measurement, result.measurement
    if base is None or measured is None:
        return None
    return measured.median / base.median, measured.peak_memory / max(base.peak_memory, 1)


def as_table(results: Sequence[Result], device: str, rates: Rates | None) -> str:
    """All results in Markdown, under a line about the machine."""
    about = ', '.join(f'{name} {value}' for name, value in machine(device).items())
    if rates:
        about += f'; measured: {rates.flops / 1e12:.3g} TFLOP/s in a matrix product, {rates.bandwidth / 1e9:.3g} GB/s in a copy'
    lines = [about, '', 'Ratios are to the naive backend of the same model; where there is none, to the first row of that mode '
             'and input.', '',
             '| model | input | dtype | mode | backend | seconds: median (range) | per second | peak GB | time ratio '
             '| memory ratio | floor / time |', '|-' * 11 + '|']
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
    lines = ['| model | mode | backend | time ∝ pixels to the | memory ∝ pixels to the |', '|-|-|-|-|-|']
    lines += [f'| {growth.title} | {growth.mode} | {growth.way} | {growth.time:.2f} | {growth.memory:.2f} |'
              for growth in growths(results)]
    return '\n'.join(lines)


def draw_growth(results: Sequence[Result], path: Path, title: str) -> None:
    """Writes a chart of time and peak memory against pixels, both axes logarithmic, exponents in the legend."""
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
