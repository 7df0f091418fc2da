"""Time and memory of the benchmark's tasks, every measurement in a process of its own."""

import multiprocessing
import os
import signal
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from math import prod
from pathlib import Path

import torch
from mmengine.logging import MMLogger

from ralamala_mm.backbones.hybrid import STRIDES
from ralamala_mm.errors import UserError
from ralamala_mm.families import LINEAR_STAGES, NUM_STAGES, any_family, family_of, resolve_variant
from ralamala_mm.ops import ATTENTIONS, BACKEND_VARIABLE, BACKENDS

from .floor import Op, Rates, attention_op, count_backbone, count_blocks, floor_seconds
from .workloads import MODES, NO_PATH, Task, Workload, load_subject, prepare

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
    MMLogger.get_instance('benchmark', log_level='WARNING')  # optimisers list the options of every parameter
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
    """Runs a task. It sets this process's `RALAMALA_BACKEND` and peak memory: call it by `in_own_process`, or in a tool's own."""
    import torch._dynamo  # noqa: F401 what checkpointing and optimisers import when first used; 0.1 GB that are not theirs

    if task.path in BACKENDS:
        os.environ[BACKEND_VARIABLE] = task.path
    else:
        os.environ.pop(BACKEND_VARIABLE, None)
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
    if task.mode not in MODES or task.path == NO_PATH:
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
        raise UserError(f'the floor is counted of {any_family()}, not of {backbone.type} in {subject}')
    variant = resolve_variant(backbone.get('arch', 's'), family.variants)
    linear_stages = backbone.get('linear_stages', LINEAR_STAGES)
    if stage is None:
        return count_backbone(family.linear_attention, variant, shape, element_size,
                              backbone.get('out_indices', range(NUM_STAGES)), linear_stages)
    length = prod(-(-side // STRIDES[stage]) for side in shape[2:])
    attention = family.linear_attention if stage in linear_stages else 'softmax_attention'
    return count_blocks(attention, variant, stage, shape[0], length, element_size)
