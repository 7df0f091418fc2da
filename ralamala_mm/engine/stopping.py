"""Ending a training early, by all processes at the same iteration: signals of schedulers, and faults that do not pass."""

import enum
import signal
from datetime import timedelta

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import distributed

from ralamala_mm.errors import UserError

_PATIENCE = timedelta(seconds=60)  # for processes that did not get the signal


class Stop(enum.IntEnum):
    """Why a training ends early; where processes differ the largest counts."""

    NO = 0
    TERMINATED = 1  # SIGTERM: a pre-emption, a cancelled job
    TIME_IS_UP = 2  # SIGUSR1: what schedulers send ahead of the end, so that the job can be queued again
    NOT_SAVED = 3
    NOT_FINITE = 4


_EXIT_CODES = {Stop.TERMINATED: 128 + signal.SIGTERM, Stop.TIME_IS_UP: 75}  # 75: EX_TEMPFAIL of sysexits.h, try again
_SIGNALS = {signal.SIGTERM: Stop.TERMINATED, signal.SIGUSR1: Stop.TIME_IS_UP}


class TrainingStoppedError(UserError):
    """A training that ended before its last iteration; `exit_code` says why to those who started it."""

    def __init__(self, sentence: str, reason: Stop):
        super().__init__(sentence)
        self.exit_code = _EXIT_CODES.get(reason, 1)


@HOOKS.register_module()
class StopHook(Hook):
    """Ends the training on `runner.request_stop(…)` of any process, and on SIGTERM and SIGUSR1 after saving a checkpoint.

    All processes agree at the end of each iteration on what was requested before it: one integer over gloo, which is waited
    for an iteration later, so that it costs no time. Launchers may send a signal more than once, which changes nothing;
    SIGINT and SIGKILL end the process at once.
    """

    priority = 'LOWEST'  # all other hooks are through with the iteration

    def __init__(self):
        self._reason = Stop.NO
        self._group = None
        self._pending: tuple[distributed.Work, torch.Tensor] | None = None

    def before_train(self, runner: Runner) -> None:
        if distributed.is_available() and distributed.is_initialized():
            self._group = distributed.new_group(backend='gloo')
        for number in _SIGNALS:
            signal.signal(number, lambda received, frame: self._on_signal(runner, received))

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        self._reason = self._agreed(runner)
        if self._reason and not getattr(runner.train_loop, 'ends_epoch', False):
            self._stop(runner, self._reason, runner.epoch, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        # Here, as what belongs to the end of an epoch, its checkpoint first of all, is done by then.
        if self._reason and runner.iter < runner.max_iters:
            self._stop(runner, self._reason, runner.epoch + 1, runner.iter)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        # Without agreement: every process got the signal, and nothing is trained here on which they could differ.
        if runner.stop_reason in _EXIT_CODES:
            self._stop(runner, runner.stop_reason, runner.epoch, runner.iter)

    def _agreed(self, runner: Runner) -> Stop:
        if self._group is None:
            return runner.stop_reason
        before, self._pending = self._pending, None
        if before:
            before[0].wait()
        tensor = torch.tensor(int(runner.stop_reason))
        work = distributed.all_reduce(tensor, distributed.ReduceOp.MAX, group=self._group, async_op=True)
        self._pending = work, tensor
        return Stop(int(before[1])) if before else Stop.NO

    def _stop(self, runner: Runner, reason: Stop, epoch: int, iteration: int) -> None:
        if reason in _EXIT_CODES:
            runner.save_interrupted(epoch, iteration)
        if self._group is not None:
            self._wait_for_the_others(runner)
        raise TrainingStoppedError(stop_sentence(runner, reason, iteration), reason)

    def _wait_for_the_others(self, runner: Runner) -> None:
        """Lets no process leave before the checkpoint is written: launchers end the others when one is gone."""
        if self._pending:
            self._pending[0].wait()
        try:
            distributed.barrier(group=self._group, async_op=True).wait(_PATIENCE)
        except RuntimeError as error:
            runner.logger.warning(f'not all processes stopped together: {error}')

    @staticmethod
    def _on_signal(runner: Runner, received: int) -> None:
        known = runner.stop_reason
        runner.request_stop(_SIGNALS[received])
        if is_main_process() and not known:
            print(f'{signal.Signals(received).name} received: stopping after this iteration', flush=True)


def stop_sentence(runner: Runner, reason: Stop, iteration: int) -> str:
    """What the user is told at the end."""
    if reason == Stop.NOT_SAVED:
        return (f'no checkpoint could be written to {runner.work_dir} several times in a row, so the training stopped after '
                f'iteration {iteration}: make room there, then go on with --resume')
    if reason == Stop.NOT_FINITE:
        return (f'the training stopped after iteration {iteration}, as losses or gradients stayed non-finite (see above): lower '
                'the learning rate or clip gradients, and go on with --resume; non_finite=\'skip\' in the config never stops')
    name = 'SIGTERM' if reason == Stop.TERMINATED else 'SIGUSR1'
    return f'{name} stopped the training after iteration {iteration}; the same command with --resume goes on from there'
