"""Checks and measures what docs/performance.md leaves open, on a GPU that one has for minutes: what is worth most comes first.

    tools/analysis_tools/measure_gpu.sh gpu_results            # all parts, eight minutes at most
    tools/analysis_tools/measure_gpu.sh gpu_results --quick    # the first two, shortened to two minutes

Each part is a process with a time limit of its own. Every row is printed and written as soon as it is there: whenever the
script is stopped, FOLDER/PART.md, .json and .txt hold the rows so far. Needs torch, Triton, NumPy and MMEngine; mmcv and
mmdet for the last part, and for Swin-T, which is otherwise torchvision's.
"""

import argparse
import gc
import json
import multiprocessing
import os
import signal
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import product
from pathlib import Path

import torch
from mmengine.logging import MMLogger

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # as it lies here, where it is not installed

from ralamala_mm.analysis.roofline import attention_op, measured_rates  # noqa: E402
from ralamala_mm.analysis.speed import (  # noqa: E402
    ELEMENT_SIZE,
    Result,
    as_growth_table,
    as_json,
    as_table,
    floor_of,
    growths,
    machine,
    measure,
    measure_workload,
    seconds,
)
from ralamala_mm.analysis.workloads import CHOSEN, MODES, NO_BACKEND, Task, Workload, prepare  # noqa: E402
from ralamala_mm.errors import UserError  # noqa: E402
from ralamala_mm.families import FAMILIES  # noqa: E402
from ralamala_mm.files import atomic_write  # noqa: E402
from ralamala_mm.ops import ATTENTIONS, describe_backends  # noqa: E402
from ralamala_mm.ops.kernel_check import SHAPE, KernelError, compare  # noqa: E402

TRAINED = 'configs/maskrcnn_ravlt_s.py'
SWIN = 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'
TORCHVISION_SWIN = 'torchvision::swin_t'
STAGES = ((1, 'rala', 64), (2, 'rala', 64), (3, 'softmax_attention', 64), (4, 'softmax_attention', 64))  # of RAVLT-S
HEAD_DIMS = (64, 96, 32, 36, 16)  # sizes t and s; b and l; others
ODD_SHAPES = (SHAPE, (1, 3, 1, 63), (2, 1, 3, 1))  # batch, heads, grid; of one token the gradients of q and k are zero
RESOLUTIONS = (512, 768, 1024, 1536, 2048)
SLOWER_ON_CPU = 10  # times as much of it
KILLED_AFTER = 30  # seconds beyond its limit in which a part ends by itself, if nobody is there to end it


@dataclass(frozen=True)
class Request:
    """What was asked for."""

    folder: Path
    device: str  # 'cuda' or 'cpu'
    size: tuple[int, int]  # pixels of the images
    runs: int
    quick: bool

    @property
    def dtypes(self) -> tuple[str, ...]:
        return ('float16', 'bfloat16') if self.device == 'cuda' else ('float32', 'bfloat16')

    @property
    def backends(self) -> tuple[str, ...]:
        """Without a GPU the kernels run in Triton's interpreter, whose times mean nothing."""
        return ('triton', 'naive', 'eager') if self.device == 'cuda' else ('eager', 'naive')

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens of the first stage."""
        return -(-self.size[0] // 4), -(-self.size[1] // 4)


class Log:
    """Prints a part's lines, and keeps its rows in FOLDER/PART.txt, .md and .json, complete after each row."""

    def __init__(self, name: str, request: Request):
        self._path = request.folder / name
        self._text = self._path.with_suffix('.txt').open('w')
        self.failures = 0

    def say(self, line: str) -> None:
        print(line, flush=True)
        print(line, file=self._text, flush=True)

    def write(self, table: str, content: str) -> None:
        for suffix, text in (('.md', table), ('.json', content)):
            atomic_write(self._path.with_suffix(suffix), lambda path, text=text: path.write_text(text + '\n'))

    def write_rows(self, rows: Sequence[dict], device: str) -> None:
        about = machine(device)
        lines = [', '.join(f'{key} {value}' for key, value in about.items()), '', f'| {" | ".join(rows[0])} |',
                 '|-' * len(rows[0]) + '|', *(f'| {" | ".join(map(str, row.values()))} |' for row in rows)]
        self.write('\n'.join(lines), json.dumps(dict(machine=about, results=rows), indent=1))

    def fail(self, what: str, error: Exception) -> None:
        """One row that failed; the next ones are tried."""
        self.failures += 1
        self.say(f'  {what}: FAILED: {type(error).__name__}: {" ".join(str(error).split())[:600]}')


def kernels(request: Request, log: Log) -> None:
    """The Triton kernels against the eager backend, output and gradients."""
    from ralamala_mm.ops.triton import launch_for

    device, rows = torch.device(request.device, 0 if request.device == 'cuda' else None), []
    dtypes = (torch.float16, torch.float32, torch.bfloat16)
    for dtype in dtypes:  # what a model is told, by the check before the kernels' first use
        begun = time.perf_counter()
        log.say(f'  {describe_backends(STAGES, device, dtype)}, {time.perf_counter() - begun:.1f} s')
    large = (1, 1, *request.grid)
    for head_dim, dtype, name in product(HEAD_DIMS[:1] if request.quick else HEAD_DIMS, dtypes, ATTENTIONS):
        shapes = [*ODD_SHAPES[:1 if request.quick else None],
                  *([large] if head_dim == HEAD_DIMS[0] and name != 'softmax_attention' else [])]
        for shape in shapes:
            title = f'{name}, {str(dtype).removeprefix("torch.")}, {head_dim} channels per head, {"×".join(map(str, shape))}'
            begun = time.perf_counter()
            try:
                if launch_for(device, dtype, head_dim) is None:
                    log.say(f'  {title}: no kernels on this device')
                    break
                results = compare(name, device, dtype, head_dim, shape)
            except (KernelError, RuntimeError) as error:
                log.fail(title, error)
                continue
            worst = max(results, key=lambda result: result.error / result.limit if result.error == result.error else float('inf'))
            verdict = 'agree' if all(result.holds for result in results) else 'DIFFER'
            log.failures += verdict != 'agree'
            rows.append(dict(attention=name, dtype=str(dtype), head_dim=head_dim, shape='×'.join(map(str, shape)),
                             verdict=verdict, worst=worst.name, error=f'{worst.error:.2e}', tolerance=f'{worst.limit:.2e}'))
            log.say(f'  {title}: {verdict}; worst: {worst.name}, error {worst.error:.2e}, tolerance {worst.limit:.2e}; '
                    f'{time.perf_counter() - begun:.1f} s')
            log.write_rows(rows, request.device)


def backbones(request: Request, log: Log) -> None:
    """Backbones by each backend and Swin-T, time and peak memory."""
    names = ['ravlt_s'] if request.quick else ['ravlt_s', 'mala_s']
    subjects = [*product(names[:1], request.backends), *[(swin, NO_BACKEND) for swin in swin_subjects(log)],
                *product(names[1:], request.backends)]
    dtypes = request.dtypes[:1] if request.quick else request.dtypes
    time_tasks([Task(subject, mode, (2, 3, *request.size), backend, request.device, dtype, request.runs)
                for dtype, mode, (subject, backend) in product(dtypes, reversed(MODES), subjects)], request, log)


def attention(request: Request, log: Log) -> None:
    """The linear attentions alone, against what torch.clone moves in the same run; and in a CUDA graph."""
    (height, width), batch, dtype = request.grid, 16 if request.device == 'cuda' else 1, request.dtypes[0]
    shape, rows = (batch, 1, height * width, 64), []
    source = torch.randn(shape, device=request.device).to(getattr(torch, dtype))

    def bandwidth(bytes_moved: int, run: Callable, data: object) -> float:
        run(data)
        return bytes_moved / statistics.median(seconds(run, data, request.device) for _ in range(request.runs))

    attentions = [family.linear_attention for family in FAMILIES.values()]
    ways = [*((backend, False) for backend in request.backends), *([('triton', True)] if request.device == 'cuda' else [])]
    for (backend, graph), name, mode in product([*ways[:1], *ways[-1:], *ways[1:-1]], attentions, MODES):
        title = f'{name}, {mode}, {backend}{" in a CUDA graph" if graph else ""}'
        op = attention_op(name, *shape, ELEMENT_SIZE[dtype])
        bytes_moved = op.forward.bytes + (op.backward.bytes if mode == MODES[1] else 0)
        workload = None
        try:
            clone = bandwidth(2 * source.nbytes, torch.clone, source)
            workload = prepare(Task(name, mode, shape, backend, request.device, dtype, request.runs))
            workload = captured(workload) if graph else workload
            reached = bandwidth(bytes_moved, workload.run, workload.fresh_data())
        except (RuntimeError, UserError) as error:
            log.fail(title, error)
            continue
        finally:
            del workload
            forget(request.device)
        rows.append(dict(attention=name, mode=mode, backend=backend, graph='CUDA graph' if graph else '–',
                         shape='×'.join(map(str, shape)), dtype=dtype, ms=f'{bytes_moved / reached * 1e3:.4g}',
                         GBps=f'{reached / 1e9:.4g}', clone_GBps=f'{clone / 1e9:.4g}', share_of_clone=f'{reached / clone:.0%}'))
        log.say(f'  {title}: {bytes_moved / reached * 1e3:.4g} ms; of the bytes that it has to move {reached / 1e9:.4g} GB/s, '
                f'{reached / clone:.0%} of torch.clone')
        log.write_rows(rows, request.device)


def growth(request: Request, log: Log) -> None:
    """Time and memory against the resolution: backbones, and the first stage alone."""
    backend = request.backends[0]
    series = [('ravlt_s', backend, None), *[(swin, NO_BACKEND, None) for swin in swin_subjects(log)], ('ravlt_s', backend, 0)]
    sizes = [max(64, round(side * request.size[0] / 800 / 32) * 32) for side in RESOLUTIONS[:3 if request.quick else None]]
    runs = max(1, request.runs // 2)
    time_tasks([Task(subject, mode, (1, 3, size, size), backend, request.device, request.dtypes[0], runs, stage=stage)
                for (subject, backend, stage), mode, size in product(series, reversed(MODES), dict.fromkeys(sizes))],
               request, log)


def train(request: Request, log: Log) -> None:
    """A Mask R-CNN's training step on random data: loss, backward, optimizer; with --amp's fp16 on a GPU."""
    try:
        import_module('mmdet.models')
        from mmcv.ops import roi_align
    except (ImportError, AssertionError, AttributeError) as error:  # the last two: an mmcv that does not fit
        log.say(f'  left out: it needs mmdet, and mmcv with operators ({" ".join(str(error).split())[:300]})')
        return
    try:
        image, box = (torch.rand(*sizes, device=request.device) for sizes in ((1, 1, 8, 8), (1, 5)))
        roi_align(image, box.floor(), (2, 2))
    except RuntimeError as error:
        log.fail("mmcv's operators on this device", error)
        return
    os.chdir(ROOT)
    subjects = [(TRAINED, CHOSEN), (TRAINED, 'naive'), (SWIN, NO_BACKEND)]
    dtype = 'float16' if request.device == 'cuda' else 'float32'
    time_tasks([Task(subject, 'train', (2, 3, *request.size), path, request.device, dtype, request.runs)
                for subject, path in subjects], request, log)


@dataclass(frozen=True)
class Part:
    """A part and the seconds that it may take, all and in the short form, which leaves some out."""

    call: Callable[[Request, Log], None]
    limit: int
    quick_limit: int | None = None


PARTS = {part.call.__name__: part for part in (
    Part(kernels, 120, 50), Part(backbones, 120, 70), Part(attention, 60), Part(growth, 80), Part(train, 90))}


def swin_subjects(log: Log) -> Iterator[str]:
    """Swin-T of MMDetection or of torchvision, as far as one of them is installed."""
    for module, subject in (('mmdet.models', SWIN), ('torchvision.models', TORCHVISION_SWIN)):
        try:
            import_module(module)
        except (ImportError, RuntimeError, AssertionError, AttributeError) as error:  # also of versions that do not match
            log.say(f'  no Swin-T of {module.partition(".")[0]}: {" ".join(str(error).split())[:200]}')
        else:
            yield subject
            return
    log.say('  Swin-T is left out')


def torchvision_swin(task: Task) -> Workload:
    """torchvision's Swin-T without its classifier; unlike a detector's, it returns its last map alone."""
    from torchvision.models import swin_t

    torch.manual_seed(0)
    backward = task.mode == MODES[1]
    backbone = swin_t().features.to(task.device).train(backward)
    images = torch.rand(task.shape, device=task.device)

    def run(x: torch.Tensor) -> None:
        with (torch.autocast(task.device, getattr(torch, task.dtype), enabled=task.dtype != 'float32'),
              torch.set_grad_enabled(backward)):
            loss = backbone(x).float().mean()
        if backward:
            loss.backward()
            backbone.zero_grad()

    return Workload(run, lambda: images)


def captured(workload: Workload) -> Workload:
    """The same in a CUDA graph, after warming up on a stream of its own as PyTorch wants it."""
    data, stream, graph = workload.fresh_data(), torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            workload.run(data)
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        workload.run(data)
    return Workload(lambda _: graph.replay(), lambda: data)


def time_tasks(tasks: Sequence[Task], request: Request, log: Log) -> None:
    """Measures tasks one after the other in this process, tables and all."""
    rates, results = measured_rates(request.device, tasks[0].dtype), []
    for i, task in enumerate(tasks, 1):
        title = f'{i}/{len(tasks)} {task.title}, {"×".join(map(str, task.shape))}, {task.dtype}, {task.mode}, {task.way}'
        try:
            measurement = measure_workload(torchvision_swin(task), task) if task.subject == TORCHVISION_SWIN else measure(task)
        except torch.cuda.OutOfMemoryError:
            measurement = None
        except Exception as error:  # of any library or driver: the other rows are worth having
            log.fail(title, error)
            continue
        finally:
            forget(request.device)
        results.append(Result(task, measurement, floor_of(task, rates)))
        log.say(f'  {title}: ' + ('out of memory' if measurement is None else
                                  f'{measurement.median * 1e3:.4g} ms, {measurement.peak_memory / 1e9:.3g} GB'))
        growth_table = f'\n\n{as_growth_table(results)}' if growths(results) else ''
        log.write(as_table(results, request.device, rates) + growth_table, as_json(results, request.device, rates))
    if growths(results):
        log.say(as_growth_table(results))


def forget(device: str) -> None:
    """Gives back what the last row took."""
    gc.collect()
    if device == 'cuda':
        try:
            torch.cuda.empty_cache()
        except RuntimeError:  # the device is lost: the next row says so
            return


def run_part(name: str, request: Request, limit: int) -> None:
    """A part in its own process; ends with 1 if a row failed."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # without frames; what was written is complete
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.alarm(limit + KILLED_AFTER)
    for kind in (UserWarning, FutureWarning, DeprecationWarning):  # of the libraries; ours are RuntimeWarnings
        warnings.filterwarnings('ignore', category=kind)
    MMLogger.get_instance('measure_gpu', log_level='WARNING')
    log = Log(name, request)
    try:
        PARTS[name].call(request, log)
    except Exception:
        log.say(traceback.format_exc())
        sys.exit(1)
    sys.exit(log.failures > 0)


def measure_parts(names: Sequence[str], request: Request) -> bool:
    """Runs parts one after the other, each within its limit; whether all went well."""
    context, good = multiprocessing.get_context('spawn'), True
    for name in names:
        part, begun = PARTS[name], time.monotonic()
        limit = part.quick_limit if request.quick and part.quick_limit else part.limit
        limit *= SLOWER_ON_CPU if request.device == 'cpu' else 1
        print(f'{name} ({limit} s at most): {part.call.__doc__}', flush=True)
        process = context.Process(target=run_part, args=(name, request, limit), daemon=True)
        process.start()
        process.join(limit)
        end = 'complete'
        if process.exitcode is None:
            process.terminate()
            process.join(5)
            process.kill()
            process.join()
            end = 'stopped at its limit; the rows so far are kept'
        elif process.exitcode:
            end, good = f'something failed (exit code {process.exitcode}), see above', False
        print(f'{name}: {end}, {time.monotonic() - begun:.0f} s', flush=True)
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path, metavar='FOLDER', help='where the results go; it is made')
    parser.add_argument('--quick', action='store_true', help='the short form: fewer cases of the first two parts')
    parser.add_argument('--parts', nargs='+', choices=PARTS, help='only these')
    parser.add_argument('--device', choices=['cuda', 'cpu'], default='cuda', help='cpu only shows that the script runs')
    parser.add_argument('--size', type=int, nargs=2, default=(800, 1344), metavar=('HEIGHT', 'WIDTH'), help='pixels (800 1344)')
    parser.add_argument('--runs', type=int, default=20, help='counted runs of each row (%(default)s)')
    args = parser.parse_args()
    if args.runs < 1 or min(args.size) < 64:
        parser.error('--runs must be at least 1, --size at least 64')
    if args.device == 'cuda' and not torch.cuda.is_available():
        sys.exit('error: torch sees no GPU here (--device cpu --size 64 96 --runs 1 shows that the script runs).')
    if args.device == 'cpu':
        os.environ.setdefault('TRITON_INTERPRET', '1')  # before the parts' processes define the kernels
        print('On a CPU: this shows that the script runs, and says nothing about GPUs.')
    request = Request(args.folder.resolve(), args.device, tuple(args.size), args.runs, args.quick)
    request.folder.mkdir(parents=True, exist_ok=True)
    print(', '.join(f'{key} {value}' for key, value in machine(args.device).items()), flush=True)
    names = args.parts or [name for name, part in PARTS.items() if part.quick_limit or not args.quick]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the running part, too
    try:
        good = measure_parts(names, request)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        print(f'results are in {args.folder}', flush=True)
    sys.exit(not good)


if __name__ == '__main__':
    main()
