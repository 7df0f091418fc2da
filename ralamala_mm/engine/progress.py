"""A training or test run in one line at a time: where it is, how it does, how long it still takes."""

import sys
import time
from collections.abc import Sequence
from datetime import timedelta

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

SMOOTHING = 0.05  # weight of the newest iteration in the time left


@HOOKS.register_module()
class ProgressHook(Hook):
    """Prints iteration, loss and time left: one line that is rewritten on a terminal, a line now and then elsewhere.

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

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        self._iteration_begun = time.monotonic()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        done, total = runner.iter + 1, runner.max_iters
        seconds = time.monotonic() - self._iteration_begun
        self._seconds_per_iteration += (seconds - self._seconds_per_iteration) * (SMOOTHING if self._counted else 1)
        self._counted += 1
        left = self._seconds_per_iteration * (total - done)
        loss = f', loss {float(outputs["loss"]):.3f}' if outputs and 'loss' in outputs else ''
        self._show(f'  training {done}/{total}{loss}, {_clock(left)} left', done == total)

    def before_val_epoch(self, runner: Runner) -> None:
        self._evaluation_begun = time.monotonic()

    before_test_epoch = before_val_epoch

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs: Sequence | None = None) -> None:
        self._show_evaluation(batch_idx + 1, len(runner.val_dataloader))

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs: Sequence | None = None) -> None:
        self._show_evaluation(batch_idx + 1, len(runner.test_dataloader))

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        values = [f'{name.split("/")[-1]} {value:.3f}' for name, value in (metrics or {}).items()
                  if name.endswith(('_mAP', 'mIoU'))]
        self._show(f'  validation after iteration {runner.iter}: {", ".join(values)}', True)

    def _show_evaluation(self, done: int, total: int) -> None:
        left = (time.monotonic() - self._evaluation_begun) / done * (total - done)
        self._show(f'  evaluating {done}/{total}, {_clock(left)} left', False)

    def _show(self, text: str, important: bool) -> None:
        if not is_main_process():
            return
        now = time.monotonic()
        if self.rewrites:
            if important or now - self._last > 0.2:
                print(f'\r{text:<78}', end='\n' if important else '', flush=True)
                self._last = now
        elif important or now - self._last >= self.seconds:
            print(text, flush=True)
            self._last = now


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))

