"""Going through data sets in parallel with the readers that training uses: every image whole, every annotation or mask."""

import itertools
import multiprocessing
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import timedelta

import cv2
from mmengine.dataset import BaseDataset
from mmengine.registry import TRANSFORMS
from mmengine.utils import ProgressBar

from ralamala_mm.errors import UserError

from .faults import FileUserError

_TASK = 8  # samples that a worker is given at a time
_WAITING = 3  # tasks per worker that are handed out ahead
_IDLE = -1
_SECONDS = 15  # between two lines where stderr is no terminal


@dataclass(frozen=True)
class Fault:
    """Why a file of a split cannot be used."""

    split: str
    file: str
    kind: str
    text: str


class WorkerKilledError(Exception):
    """A worker process was ended from outside; the argument lists the files that the workers were at."""


class Worker:
    """What each worker process holds: the data set, its readers, and where it tells which sample it is at."""

    def __init__(self, split: str, dataset: BaseDataset, transforms: list[dict], current, numbers):
        self.split = split
        self.dataset = dataset
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of settings that are deprecated, from each worker
            self.readers = [TRANSFORMS.build(transform) for transform in transforms]
        self.current = current
        with numbers.get_lock():
            self.number = numbers.value
            numbers.value += 1
        cv2.setNumThreads(0)

    def check(self, start: int, stop: int) -> list[Fault]:
        faults = []
        for i in range(start, stop):
            self.current[self.number] = i
            faults += self.check_sample(self.dataset.get_data_info(i))
        self.current[self.number] = _IDLE
        return faults

    def check_sample(self, sample: dict) -> Iterator[Fault]:
        """The faults of a sample: that of its image does not hide that of its mask."""
        if sample.get('height') and sample.get('width'):
            sample['ori_shape'] = sample['height'], sample['width']
        for reader in self.readers:
            is_of_mask = type(reader).__name__ == 'LoadCheckedMask'
            file = sample.get('seg_map_path' if is_of_mask else 'img_path')
            if not file:
                continue
            try:
                reader(sample)
            except FileUserError as error:
                kind, text = error.kind, str(error)
            except Exception as error:  # a fault of any other kind is one, too, and the others are to be found all the same
                kind, text = 'unexpected', ' '.join(f'{type(error).__name__}: {error}'.split())
            else:
                continue
            yield Fault(self.split, str(file), kind, text)


_worker: Worker | None = None  # of this process


def _begin(*arguments) -> None:
    # A broken pool ends its workers by SIGTERM and waits for them: a handler that they inherited must not keep them alive.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    global _worker
    _worker = Worker(*arguments)


def _check(start: int, stop: int) -> tuple[int, list[Fault]]:
    return stop - start, _worker.check(start, stop)


def scan(split: str, dataset: BaseDataset, transforms: list[dict], workers: int, found: Callable[[Fault], None]) -> None:
    """Checks all samples of a data set.

    Args:
        split: its name.
        dataset: built, without a pipeline; it is not copied to the workers, which are forked.
        transforms: configs of the readers that samples go through.
        workers: processes.
        found: receives the faults.

    Raises:
        WorkerKilledError: a worker was ended from outside, as the system does when memory runs out.
    """
    context = multiprocessing.get_context('fork')
    current, numbers = context.RawArray('q', [_IDLE] * workers), context.Value('i', 0)
    tasks = ((start, min(start + _TASK, len(dataset))) for start in range(0, len(dataset), _TASK))
    progress = Progress(f'checking {split}', len(dataset))
    pool = ProcessPoolExecutor(workers, context, _begin, (split, dataset, transforms, current, numbers))
    try:
        pending: set[Future] = set()
        while True:
            pending |= {pool.submit(_check, *task) for task in itertools.islice(tasks, _WAITING * workers - len(pending))}
            if not pending:
                break
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                count, faults = future.result()
                progress.advance(count)
                for fault in faults:
                    found(fault)
    except BrokenProcessPool as error:
        at = [dataset.get_data_info(i) for i in current if i != _IDLE]
        raise WorkerKilledError([str(sample.get('img_path') or sample.get('seg_map_path')) for sample in at]) from error
    else:
        pool.shutdown()  # waited for, or Python's exit may find its pipes closed and print frames
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        progress.end()


class Progress:
    """How far it is and how long it still takes, on stderr: MMEngine's bar on a terminal, a line now and then elsewhere."""

    def __init__(self, what: str, total: int):
        self.what, self.total, self.done = what, total, 0
        self.begun = self.told = time.monotonic()
        self.bar = ProgressBar(total, file=sys.stderr) if sys.stderr.isatty() and total else None

    def advance(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if self.bar:
            self.bar.update(count)
        elif now - self.told >= _SECONDS:
            self.told = now
            left = timedelta(seconds=round((now - self.begun) / self.done * (self.total - self.done)))
            print(f'  {self.what}: {self.done}/{self.total}, {left} left', file=sys.stderr, flush=True)

    def tell(self, text: str) -> None:
        """Prints a line of its own."""
        print(f'\n{text}' if self.bar else text, file=sys.stderr, flush=True)

    def end(self) -> None:
        if self.bar:
            print(file=sys.stderr)


def check_worker_count(workers: int) -> None:
    """Whether so many processes can be started.

    Raises:
        UserError: there would be none.
    """
    if workers < 1:
        raise UserError(f'--workers {workers}: at least one is needed')
