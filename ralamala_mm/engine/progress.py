"""A training or test run in one line at a time: where it is, how it does, how long it still takes."""

import logging
import resource
import shutil
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import FrameType

import mmengine
import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

SMOOTHING = 0.05  # weight of the newest iteration in the time left
_REWRITE = 0.2  # seconds between two states of the line on a terminal
_HEADLINES = ('_mAP', 'mIoU')  # how the metrics end that are shown in the line


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

    The memory is the most that the first GPU's allocator held, or the most that the process held without a GPU.

    Args:
        seconds: time between two lines where the output is not a terminal.
    """

    priority = 'VERY_LOW'

    def __init__(self, seconds: float = 15.0):
        self.seconds = seconds
        self.rewrites = sys.stdout.isatty()
        self._last = 0.0
        self._iteration_begun = 0.0
        self._seconds_per_iteration = 0.0  # smoothed; validation and saving are not part of it
        self._counted = 0
        self._evaluation_begun = 0.0
        self._metrics = ''

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        self._iteration_begun = time.monotonic()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        done, total = runner.iter + 1, runner.max_iters
        seconds = time.monotonic() - self._iteration_begun
        self._seconds_per_iteration += (seconds - self._seconds_per_iteration) * (SMOOTHING if self._counted else 1)
        self._counted += 1
        if not self._is_due(done == total):
            return
        left = self._seconds_per_iteration * (total - done)
        # Taken only for a line that is shown: reading it waits for the GPU.
        loss = f', loss {float(torch.as_tensor(outputs["loss"]).detach()):.3f}' if outputs and 'loss' in outputs else ''
        self._show(f'  training {done}/{total}{loss}{self._metrics}, {_memory()}, {_clock(left)} left', done == total)

    def before_val_epoch(self, runner: Runner) -> None:
        self._evaluation_begun = time.monotonic()

    before_test_epoch = before_val_epoch

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs: Sequence | None = None) -> None:
        self._show_evaluation(batch_idx + 1, len(runner.val_dataloader))

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs: Sequence | None = None) -> None:
        self._show_evaluation(batch_idx + 1, len(runner.test_dataloader))

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self._show_metrics(f'validation after iteration {runner.iter}', metrics)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self._show_metrics('evaluation', metrics)

    def _show_metrics(self, when: str, metrics: dict[str, float] | None) -> None:
        values = [f'{name.split("/")[-1]} {value:.3f}' for name, value in (metrics or {}).items() if name.endswith(_HEADLINES)]
        self._metrics = ''.join(f', {value}' for value in values)
        if self._is_due(important=True):
            self._show(f'  {when}: {", ".join(values)}', True)

    def _show_evaluation(self, done: int, total: int) -> None:
        if self._is_due():
            left = (time.monotonic() - self._evaluation_begun) / done * (total - done)
            self._show(f'  evaluating {done}/{total}, {_memory()}, {_clock(left)} left')

    def _is_due(self, important: bool = False) -> bool:
        pause = _REWRITE if self.rewrites else self.seconds
        return is_main_process() and (important or time.monotonic() - self._last >= pause)

    def _show(self, text: str, important: bool = False) -> None:
        self._last = time.monotonic()
        if self.rewrites:
            wipe_line()
            text = text[:shutil.get_terminal_size().columns - 1]
        print(text, end='' if self.rewrites and not important else '\n', flush=True)


def _memory() -> str:
    if torch.cuda.is_available():
        return f'{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB of GPU'
    return f'{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB'


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
