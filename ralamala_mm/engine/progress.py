"""A training or test run in one line at a time: where it is, how it does, how long it still takes."""

import logging
import resource
import shutil
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from numbers import Real
from pathlib import Path
from types import FrameType

import mmengine
import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner

_REWRITE = 0.2  # seconds between two states of the line on a terminal
_HEADLINES = ('mAP', 'mIoU')  # how the metrics end that are shown in the line
_OTHERS = 2  # metrics shown where none ends so


def use_progress_line(config: Config) -> None:
    """On a terminal, shows a run as one line that is rewritten, and only those log lines that are news.

    Where the output goes to a file, MMEngine's lines are left as they are; its log file has all of them in any case.

    Args:
        config: changed in place.
    """
    if sys.stdout.isatty():
        config.custom_hooks = [*(config.get('custom_hooks') or []), dict(type='ProgressHook')]
        config.progress_line = True


class NewsFilter(logging.Filter):
    """Keeps MMEngine's own log lines below a warning off the terminal: environment, config, parameters, iterations.

    The line of progress is wiped away before anything else is printed.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING and _comes_from_mmengine(sys._getframe()):
            return False
        wipe_line()
        return True


def _comes_from_mmengine(frame: FrameType | None) -> bool:
    """Whether the code that logs, below the functions of logging, is MMEngine's."""
    package = Path(mmengine.__file__).parent
    ways = (str(Path(logging.__file__).parent), str(package / 'logging'), __file__)
    while frame and frame.f_code.co_filename.startswith(ways):
        frame = frame.f_back
    return frame is not None and frame.f_code.co_filename.startswith(str(package))


def wipe_line() -> None:
    """Makes the terminal's line empty, with the cursor at its beginning."""
    print('\r\033[K', end='', flush=True)


@HOOKS.register_module()
class ProgressHook(Hook):
    """Prints iteration, loss, metric, memory and time left: one line that is rewritten on a terminal, one now and then elsewhere.

    The memory is the most that tensors took on the process's GPU, or the most that the process held without one. The time left
    is MMEngine's, of all iterations so far, with the validations to come as soon as one was seen.

    Args:
        seconds: time between two lines where the output is not a terminal.
    """

    priority = 'NORMAL'  # after IterTimerHook; before LoggerHook, which resets the GPU's peak

    def __init__(self, seconds: float = 15.0):
        self.seconds = seconds
        self.rewrites = sys.stdout.isatty()
        self._last = 0.0
        self._peak = 0  # bytes
        self._evaluation_begun = 0.0
        self._validation_seconds = 0.0
        self._metrics = ''

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        self._peak = max(self._peak, _peak_memory())
        done, total = runner.iter + 1, runner.max_iters
        if not self._is_due(done == total):
            return
        # Taken only for a line that is shown: reading it waits for the GPU.
        loss = f', loss {float(torch.as_tensor(outputs["loss"]).detach()):.3f}' if outputs and 'loss' in outputs else ''
        text = f'  training {done}/{total}{loss}{self._metrics}, {self._memory()}{self._time_left(runner)}'
        self._show(text, done == total)

    def before_val_epoch(self, runner: Runner) -> None:
        self._evaluation_begun = time.monotonic()

    before_test_epoch = before_val_epoch

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs: Sequence | None = None) -> None:
        self._show_evaluation(batch_idx + 1, len(runner.val_dataloader))

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs: Sequence | None = None) -> None:
        self._show_evaluation(batch_idx + 1, len(runner.test_dataloader))

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self._validation_seconds = time.monotonic() - self._evaluation_begun
        self._show_metrics(f'validation after iteration {runner.iter}', metrics)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self._show_metrics('evaluation', metrics)

    def _show_metrics(self, when: str, metrics: dict[str, float] | None) -> None:
        numbers = {name: value for name, value in (metrics or {}).items() if isinstance(value, Real)}
        shown = [name for name in numbers if name.endswith(_HEADLINES)] or list(numbers)[:_OTHERS]
        values = [f'{name.split("/")[-1]} {numbers[name]:.3f}' for name in shown]
        self._metrics = ''.join(f', {value}' for value in values)
        if self._is_due(important=True):
            self._show(f'  {when}: {", ".join(values) or "no metrics"}', True)

    def _show_evaluation(self, done: int, total: int) -> None:
        self._peak = max(self._peak, _peak_memory())
        if self._is_due():
            left = (time.monotonic() - self._evaluation_begun) / done * (total - done)
            self._show(f'  evaluating {done}/{total}, {self._memory()}, {_clock(left)} left')

    def _is_due(self, important: bool = False) -> bool:
        pause = _REWRITE if self.rewrites else self.seconds
        return is_main_process() and (important or time.monotonic() - self._last >= pause)

    def _time_left(self, runner: Runner) -> str:
        seconds = runner.message_hub.get_info('eta')
        if seconds is None:  # a config without IterTimerHook
            return ''
        if self._validation_seconds:
            seconds += self._validation_seconds * _validations_left(runner)
        return f', {_clock(seconds)} left'

    def _memory(self) -> str:
        return f'{self._peak / 2**30:.1f} GiB{" of GPU" if torch.cuda.is_available() else ""}'

    def _show(self, text: str, important: bool = False) -> None:
        self._last = time.monotonic()
        if self.rewrites:
            wipe_line()
            text = text[:shutil.get_terminal_size().columns - 1]
        print(text, end='' if self.rewrites and not important else '\n', flush=True)


def _peak_memory() -> int:
    """The most bytes in use, since MMEngine last asked on a GPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _validations_left(runner: Runner) -> int:
    """Validations after the iteration at hand and later, while the interval stays as it is."""
    by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
    done, end = (runner.epoch, runner.max_epochs) if by_epoch else (runner.iter, runner.max_iters)
    passed = max(done, runner.val_begin - 1)
    return end // runner.val_interval - passed // runner.val_interval + (end % runner.val_interval > 0)


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
