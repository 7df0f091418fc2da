"""Time and memory of a backbone on each path of `ops`, every measurement in a process of its own."""

import json
import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch

from ralamala_mm.ops import BACKEND_VARIABLE, BACKENDS

MODES = ('forward', 'forward+backward')


@dataclass(frozen=True)
class Task:
    """What is measured: a backbone by name and size on an input `[batch, 3, height, width]`."""

    backbone: str
    arch: str
    shape: tuple[int, int, int, int]
    mode: str
    path: str
    device: str
    dtype: str  # float32, or float16 / bfloat16 by autocast
    runs: int


@dataclass(frozen=True)
class Measurement:
    """Seconds per run, median and both ends, and peak memory in bytes beyond model and input."""

    median: float
    fastest: float
    slowest: float
    peak_memory: int


def measure(task: Task) -> Measurement:
    """Runs a task in a fresh process, so that its peak memory is its own."""
    context = multiprocessing.get_context('spawn')
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure_here, args=(task, sender))
    process.start()
    sender.close()
    try:
        result = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f'the process that measured {task} died with exit code {process.exitcode}') from None
    process.join()
    return result


def _measure_here(task: Task, sender) -> None:
    os.environ[BACKEND_VARIABLE] = task.path
    import ralamala_mm

    torch.manual_seed(0)
    backbone = getattr(ralamala_mm, task.backbone.upper())(task.arch, drop_path_rate=0.0).to(task.device)
    image = torch.rand(task.shape, device=task.device)
    backward = task.mode == 'forward+backward'
    backbone.train(backward)
    autocast_dtype = None if task.dtype == 'float32' else getattr(torch, task.dtype)

    def run() -> None:
        with torch.autocast(task.device, autocast_dtype, enabled=autocast_dtype is not None), torch.set_grad_enabled(backward):
            loss = sum(result.float().mean() for result in backbone(image))
        if backward:
            loss.backward()
            backbone.zero_grad()

    at_rest = _memory_in_use(task.device)
    times = []
    for i in range(task.runs + 1):
        start = time.perf_counter()
        run()
        if task.device == 'cuda':
            torch.cuda.synchronize()
        if i:  # the first one warms up
            times.append(time.perf_counter() - start)
    peak = _peak_memory(task.device) - at_rest
    sender.send(Measurement(statistics.median(times), min(times), max(times), peak))


def _memory_in_use(device: str) -> int:
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    return _peak_memory(device)


def _peak_memory(device: str) -> int:
    if device == 'cuda':
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def compare_paths(backbone: str, arch: str, shape: tuple[int, int, int, int], device: str, dtype: str,
                  runs: int) -> Iterator[tuple[Task, Measurement]]:
    """Measures every path in both modes, one after the other."""
    for mode in MODES:
        for path in BACKENDS:
            task = Task(backbone, arch, shape, mode, path, device, dtype, runs)
            yield task, measure(task)


def machine(kind: str) -> dict[str, str]:
    """What a result on a device of this kind, 'cpu' or 'cuda', depends on beside the task."""
    if kind == 'cuda':
        device = torch.cuda.get_device_name()
    else:
        with open('/proc/cpuinfo') as file:
            names = [line.partition(':')[2].strip() for line in file if line.startswith('model name')]
        device = f'{names[0] if names else platform.processor()}, {torch.get_num_threads()} threads'
    return dict(device=device, torch=torch.__version__, python=platform.python_version(), date=time.strftime('%Y-%m-%d'))


def as_json(results: list[tuple[Task, Measurement]]) -> str:
    """All results with the machine that they were made on."""
    rows = [dict(asdict(task), **asdict(measurement)) for task, measurement in results]
    return json.dumps(dict(machine=machine(results[0][0].device), results=rows), indent=1)


def as_table(results: list[tuple[Task, Measurement]]) -> str:
    """A Markdown table with the ratio of each path to the naive one."""
    lines = [', '.join(f'{name} {value}' for name, value in machine(results[0][0].device).items()), '',
             '| backbone | input | dtype | mode | path | seconds: median (range) | peak GB | time / naive | memory / naive |',
             '|-|-|-|-|-|-|-|-|-|']
    naive = {task.mode: measurement for task, measurement in results if task.path == 'naive'}
    for task, m in results:
        base = naive[task.mode]
        name, shape = f'{task.backbone.upper()}-{task.arch.upper()}', '×'.join(map(str, task.shape))
        lines.append(f'| {name} | {shape} | {task.dtype} | {task.mode} | {task.path} '
                     f'| {m.median:.3f} ({m.fastest:.3f}–{m.slowest:.3f}) | {m.peak_memory / 1e9:.2f} '
                     f'| {m.median / base.median:.2f} | {m.peak_memory / base.peak_memory:.2f} |')
    return '\n'.join(lines)
