"""What a console shows of a run: one line at a time with the time left, and news; what libraries print is in the log file."""

import logging
import resource
import shutil
import sys
import sysconfig
import time
import warnings
from collections import deque
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from enum import Enum, auto
from numbers import Real
from types import FrameType
from typing import TextIO

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner

_REWRITE = 0.2  # seconds between two states of the line on a terminal
_RECENT = 100  # iterations whose mean time says how long the others will take
_FORWARD_SHARE = 0.5  # of an image's time in training, taken for one of a validation until one was seen
_HEADLINES = ('mAP', 'mIoU')  # how the metrics end that are shown
_NAMES = {'bbox_mAP': 'box AP', 'segm_mAP': 'mask AP'}
_OTHERS = 2  # metrics shown where none ends so
_PACKAGE = __name__.split('.')[0]
LIBRARIES = ('faster_coco_eval', 'mmcv', 'mmdet', 'mmengine', 'mmseg', 'pycocotools', 'torch')
_LIBRARY_FOLDERS = tuple(sysconfig.get_path(name) for name in ('stdlib', 'purelib', 'platlib'))


class Console(Enum):
    """What a run shows on its console; its log file has everything."""

    LOG = auto()  # MMEngine's lines
    PROGRESS = auto()  # progress, and those log lines that are news
    QUIET = auto()  # progress and errors
    ERRORS = auto()

    @classmethod
    def default(cls) -> 'Console':
        """One line of progress on a terminal; MMEngine's lines where the output goes to a file."""
        return cls.PROGRESS if sys.stdout.isatty() else cls.LOG

    @property
    def shows_progress(self) -> bool:
        return self in (Console.PROGRESS, Console.QUIET)

    @property
    def shows_news(self) -> bool:
        return self in (Console.LOG, Console.PROGRESS)


class ConsoleFilter(logging.Filter):
    """Keeps what libraries log for themselves off the console; the log file has it.

    The line of progress is wiped away before anything else is printed.

    Args:
        theirs: least level of what libraries log.
        ours: least level of what other code logs.
        libraries: names of their packages.
    """

    def __init__(self, theirs: int = logging.WARNING, ours: int = logging.INFO, libraries: Container[str] = LIBRARIES):
        super().__init__()
        self.theirs, self.ours, self.libraries = theirs, ours, libraries

    def filter(self, record: logging.LogRecord) -> bool:
        least = self.theirs if _origin(sys._getframe(1)) in self.libraries else self.ours
        if record.levelno < least or getattr(record, 'file_only', False):
            return False
        if sys.stdout.isatty():
            wipe_line()
        return True


def _origin(frame: FrameType | None) -> str:
    """The package whose code logs, prints or warns, below the functions that do it."""
    while frame and frame.f_globals.get('__name__', '').startswith(('logging', 'mmengine.logging', 'warnings', '_py_warnings')):
        frame = frame.f_back
    return frame.f_globals.get('__name__', '').split('.')[0] if frame else ''


@contextmanager
def libraries_to_log(logger: logging.Logger, prints: bool) -> Iterator[None]:
    """Within the block, warnings of libraries go to the log file alone, those of other code to the console too.

    Args:
        logger: with a `ConsoleFilter` on its console.
        prints: whether what libraries print, such as pycocotools' tables, goes there as well.
    """

    def warn(message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None,
             line: str | None = None) -> None:
        origin = _origin(sys._getframe(1))
        is_librarys = origin in LIBRARIES or (filename.startswith(_LIBRARY_FOLDERS) and origin != _PACKAGE)
        logger.warning(warnings.formatwarning(message, category, filename, lineno, line).strip(),
                       extra=dict(file_only=is_librarys))

    shown, warnings.showwarning = warnings.showwarning, warn
    try:
        with redirect_stdout(_OwnPrints(sys.stdout, logger) if prints else sys.stdout):
            yield
    finally:
        warnings.showwarning = shown


class _OwnPrints:
    """A console that logs the lines that libraries print."""

    def __init__(self, console: TextIO, logger: logging.Logger):
        self._console = console
        self._logger = logger
        self._line = ''

    def write(self, text: str) -> int:
        if _origin(sys._getframe(1)) not in LIBRARIES:
            return self._console.write(text)
        *lines, self._line = (self._line + text).split('\n')
        for line in filter(str.strip, lines):
            self._logger.info(line, extra=dict(file_only=True))
        return len(text)

    def __getattr__(self, name: str):
        return getattr(self._console, name)


def wipe_line() -> None:
    """Makes the terminal's line empty, with the cursor at its beginning."""
    print('\r\033[K', end='', flush=True)


@HOOKS.register_module()
class ProgressHook(Hook):
    """Prints iteration, time left, loss and memory, and a line for each validation.

    On a terminal it is one line that is rewritten. Elsewhere there is a line for each tenth of the training, and of an evaluation
    that takes long. The time left is that of recent iterations and of the validations to come, each as long as the last one. The
    memory is the most that tensors took on the process's GPU, or the most that the process held without one.

    Args:
        seconds: least time between two lines where the output is not a terminal.
    """

    priority = 'NORMAL'  # before LoggerHook, which resets the GPU's peak

    def __init__(self, seconds: float = 30.0):
        self.seconds = seconds
        self.rewrites = sys.stdout.isatty()
        self._shown_at = -seconds
        self._peak = 0  # bytes
        self._begun = 0.0  # the iteration or evaluation at hand
        self._recent: deque[float] = deque(maxlen=_RECENT)  # seconds
        self._validation_seconds: float | None = None

    def before_train(self, runner: Runner) -> None:
        self._begun = time.monotonic()
        self._second = runner.iter + 1

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        now = time.monotonic()
        if runner.iter == self._second:
            self._recent.clear()  # the first one started workers and compiled kernels
        self._recent.append(now - self._begun)
        self._begun = now
        self._peak = max(self._peak, _peak_memory())
        done, total = runner.iter + 1, runner.max_iters
        if self._is_due(done, total):
            # Taken only for a line that is shown: reading it waits for the GPU.
            loss = f', loss {float(torch.as_tensor(outputs["loss"]).detach()):.3f}' if outputs and 'loss' in outputs else ''
            left = _clock(self._seconds_left(runner, total - done, data_batch))
            self._show(f'  training {done}/{total}, {left} left{loss}, {self._memory()}', done == total)

    def before_val_epoch(self, runner: Runner) -> None:
        self._begun = time.monotonic()

    before_test_epoch = before_val_epoch

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs: Sequence | None = None) -> None:
        self._show_evaluation(batch_idx + 1, len(runner.val_dataloader))

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs: Sequence | None = None) -> None:
        self._show_evaluation(batch_idx + 1, len(runner.test_dataloader))

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        now = time.monotonic()
        self._validation_seconds = now - self._begun
        self._begun = now
        self._show_metrics(f'validation after iteration {runner.iter}', metrics)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self._show_metrics('evaluation', metrics)

    def _show_metrics(self, when: str, metrics: dict[str, float] | None) -> None:
        numbers = {name.split('/')[-1]: value for name, value in (metrics or {}).items() if isinstance(value, Real)}
        shown = [name for name in numbers if name.endswith(_HEADLINES)] or list(numbers)[:_OTHERS]
        values = ', '.join(f'{_NAMES.get(name, name)} {numbers[name]:.3f}' for name in shown)
        if is_main_process():
            self._show(f'  {when}: {values or "no metrics"}', True)

    def _show_evaluation(self, done: int, total: int) -> None:
        self._peak = max(self._peak, _peak_memory())
        if self._is_due(done, total, since=self._begun):
            left = (time.monotonic() - self._begun) / done * (total - done)
            self._show(f'  evaluating {done}/{total}, {_clock(left)} left, {self._memory()}')

    def _is_due(self, done: int, total: int, since: float = 0.0) -> bool:
        if not is_main_process():
            return False
        pause = time.monotonic() - max(self._shown_at, since)
        if self.rewrites:
            return done == total or pause >= _REWRITE
        return 10 * done // total > 10 * (done - 1) // total and pause >= self.seconds

    def _seconds_left(self, runner: Runner, iterations: int, data_batch: object) -> float:
        each = sum(self._recent) / len(self._recent)
        validation = self._validation_seconds
        if validation is None:
            validation = _FORWARD_SHARE * each * _images_to_validate(runner, data_batch)
        return each * iterations + validation * _validations_left(runner)

    def _memory(self) -> str:
        return f'{self._peak / 2**30:.1f} GiB{" of GPU" if torch.cuda.is_available() else ""}'

    def _show(self, text: str, ends_line: bool = False) -> None:
        self._shown_at = time.monotonic()
        if self.rewrites:
            wipe_line()
            text = text[:shutil.get_terminal_size().columns - 1]
        print(text, end='' if self.rewrites and not ends_line else '\n', flush=True)


def _peak_memory() -> int:
    """The most bytes in use, since MMEngine last asked on a GPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _images_to_validate(runner: Runner, data_batch: object) -> float:
    """Images of a validation over those of an iteration's batch, of each process; 0 where that cannot be known."""
    if runner.val_loop is None or not isinstance(data_batch, Mapping) or 'inputs' not in data_batch:
        return 0
    return len(runner.val_dataloader.dataset) / runner.world_size / len(data_batch['inputs'])


def _validations_left(runner: Runner) -> int:
    """Validations after the iteration at hand and later, while the interval stays as it is."""
    by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
    done, end = (runner.epoch, runner.max_epochs) if by_epoch else (runner.iter, runner.max_iters)
    passed = max(done, runner.val_begin - 1)
    return end // runner.val_interval - passed // runner.val_interval + (end % runner.val_interval > 0)


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
