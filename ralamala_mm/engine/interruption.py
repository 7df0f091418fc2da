"""Ending a training early, by all ranks at the same iteration: signals of schedulers, and faults that do not pass."""

import enum
import os
import signal
from contextlib import suppress

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import distributed
from torch.distributed import distributed_c10d

from ralamala_mm.errors import UserError

_STOPPED_KEY = 'ralamala_mm/stopped'  # in the store where the processes met: the reason of one that ends during a validation


class StopReason(enum.IntEnum):
    """Why a training ends early; where processes differ the largest counts."""

    NO = 0
    TERMINATED = 1  # SIGTERM: a pre-emption, a cancelled job
    TIME_IS_UP = 2  # SIGUSR1: what schedulers send ahead of the end, so that the job can be queued again
    NOT_SAVED = 3
    NOT_FINITE = 4


_EXIT_CODES = {StopReason.TERMINATED: 128 + signal.SIGTERM, StopReason.TIME_IS_UP: 75}  # 75: EX_TEMPFAIL of sysexits.h, try again
_SIGNALS = {signal.SIGTERM: StopReason.TERMINATED, signal.SIGUSR1: StopReason.TIME_IS_UP}
_NAMES = {reason: number.name for number, reason in _SIGNALS.items()}


class TrainingStoppedError(UserError):
    """A training that ended before its last iteration; `exit_code` says why to those who started it."""

    def __init__(self, sentence: str, reason: StopReason):
        super().__init__(sentence)
        self.exit_code = _EXIT_CODES.get(reason, 1)


@HOOKS.register_module()
class StopHook(Hook):
    """Ends the training on `runner.request_stop(…)` of any process, and on SIGTERM and SIGUSR1 after saving a checkpoint.

    All processes agree at the end of each iteration on what was requested before it: one integer over gloo, which is waited
    for an iteration later, so that it costs no time. A validation begins with a checkpoint of what was trained, if there is
    none: it may take longer than a launcher waits, its processes cannot agree within it, and so each may end at any moment.
    Launchers may send a signal more than once, which changes nothing; SIGINT and SIGKILL end the process at once.
    """

    priority = 'LOWEST'  # all other hooks are through with the iteration

    def __init__(self):
        self._reason = StopReason.NO
        self._group = None
        self._pending: tuple[distributed.Work, torch.Tensor] | None = None
        self._trains = self._validates = self._is_saved = False

    def before_train(self, runner: Runner) -> None:
        self._trains = True
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

    def after_train(self, runner: Runner) -> None:
        # gloo's thread needs Python for the end of a message, and would abort a process that is ending by then.
        with suppress(RuntimeError):  # the others have left already
            self._await_pending()

    def before_val(self, runner: Runner) -> None:
        # Here, as averaged weights take the place of the model's right after this.
        if not self._trains:
            return
        reason = self._agreed_at_once(runner)
        if reason in _EXIT_CODES:
            self._stop(runner, reason, runner.epoch, runner.iter)
        self._is_saved = runner.save_interrupted(runner.epoch, runner.iter)
        self._validates = True

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self.end_validation_if_told(runner)

    def after_val(self, runner: Runner) -> None:
        self._validates = False

    def end_validation_if_told(self, runner: Runner) -> None:
        """Ends this process if it, or any other, was told to end during the validation at hand.

        Raises:
            TrainingStoppedError: so it was.
        """
        if not self._validates:
            return
        reason = runner.stop_reason
        if self._group is not None:
            store = distributed_c10d._get_default_store()
            with suppress(RuntimeError):  # the store goes with the process or launcher that keeps it
                if reason in _EXIT_CODES:
                    store.set(_STOPPED_KEY, str(int(reason)))
                elif store.check([_STOPPED_KEY]):
                    reason = StopReason(int(store.get(_STOPPED_KEY)))
        if reason in _EXIT_CODES:
            raise _stopped(reason, runner.iter, self._is_saved)

    def _agreed(self, runner: Runner) -> StopReason:
        if self._group is None:
            return runner.stop_reason
        before, self._pending = self._pending, None
        if before:
            before[0].wait()
        tensor = torch.tensor(int(runner.stop_reason))
        work = distributed.all_reduce(tensor, distributed.ReduceOp.MAX, group=self._group, async_op=True)
        self._pending = work, tensor
        return StopReason(int(before[1])) if before else StopReason.NO

    def _agreed_at_once(self, runner: Runner) -> StopReason:
        if self._group is None:
            return runner.stop_reason
        self._await_pending()
        tensor = torch.tensor(int(runner.stop_reason))
        distributed.all_reduce(tensor, distributed.ReduceOp.MAX, group=self._group)
        return StopReason(int(tensor))

    def _await_pending(self) -> None:
        if self._pending:
            self._pending[0].wait()
            self._pending = None

    def _stop(self, runner: Runner, reason: StopReason, epoch: int, iteration: int) -> None:
        runner.request_stop(reason)  # others may have been told, and not this process
        is_saved = reason in _EXIT_CODES and runner.save_interrupted(epoch, iteration)
        if self._group is not None:
            self._wait_for_the_others(runner)
        raise _stopped(reason, iteration, is_saved)

    def _wait_for_the_others(self, runner: Runner) -> None:
        """Lets no process leave before the checkpoint is written: launchers end the others when one is gone.

        However long that takes: how long a job may, launchers and schedulers know.
        """
        try:
            self._await_pending()
            distributed.barrier(group=self._group)
        except RuntimeError as error:
            runner.logger.warning(f'not all processes stopped together: {error}')

    @staticmethod
    def _on_signal(runner: Runner, received: int) -> None:
        known = runner.stop_reason
        runner.request_stop(_SIGNALS[received])
        if is_main_process() and not known:
            # Not by print, in the midst of which the signal may have come; and nobody may be reading.
            with suppress(OSError):
                os.write(1, f'{signal.Signals(received).name} received: stopping after this iteration\n'.encode())


def _stopped(reason: StopReason, iteration: int, is_saved: bool) -> TrainingStoppedError:
    """What ends the training; a signal after which nothing could be saved asks for no further run, which would end alike."""
    if reason not in _EXIT_CODES or is_saved:
        return TrainingStoppedError(stop_sentence(reason, iteration), reason)
    return TrainingStoppedError(
        f'{_NAMES[reason]} stopped the training after iteration {iteration}, and no checkpoint of it could be written (see '
        'above): free disk space, or see that the config has its checkpoint hook; --resume continues from the newest checkpoint',
        StopReason.NOT_SAVED)


def stop_sentence(reason: StopReason, iteration: int) -> str:
    """What the user is told at the end."""
    if reason == StopReason.NOT_SAVED:
        return (f'no checkpoint could be written several times in a row (see above), so the training stopped after iteration '
                f'{iteration}: free disk space, then continue with --resume')
    if reason == StopReason.NOT_FINITE:
        return (f'the training stopped after iteration {iteration}, as losses or gradients stayed non-finite (see above): lower '
                'the learning rate or clip gradients, and continue with --resume; non_finite=\'skip\' in the config never stops')
    return (f'{_NAMES[reason]} stopped the training after iteration {iteration}; the same command with --resume continues from '
            'there')
