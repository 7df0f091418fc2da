"""Checkpoints that survive a crash, and `--resume` from the newest complete one."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import TextIO

import torch
from mmengine.config import Config
from mmengine.dist import all_reduce, broadcast, is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from ralamala_mm.checkpoints import check_file, fetch
from ralamala_mm.checkpoints.integrity import damage, newest_complete, training_progress
from ralamala_mm.errors import UserError
from ralamala_mm.files import atomic_write

from .distributed import from_rank_0
from .interruption import StopReason
from .work_dir import claim_work_dir

INTERRUPTED = 'interrupted.pth'  # between regular checkpoints, until the next of them takes its place
POINTER = 'last_checkpoint'
GRADIENTS = 'accumulated_gradients'
FEWEST_KEPT = 2
FAILURES_BEFORE_STOP = 3
_LAST_VALIDATION = 'last_validation'  # beside the checkpoints: the iteration after which was validated last


class DurableBackend(LocalBackend):
    """The local disk, where a file that is put is there whole or not at all."""

    def __init__(self):
        super().__init__()
        self._removed_later: list[str] | None = None

    def put(self, obj: bytes | memoryview, filepath: str | Path) -> None:
        """Writes bytes; waits until the disk has them.

        Raises:
            OSError: the disk is full, or does not take them.
        """
        atomic_write(filepath, lambda unfinished: unfinished.write_bytes(obj), durable=True)

    def remove(self, filepath: str | Path) -> None:
        """Removes a file, within `removing_last` at its end."""
        if self._removed_later is None:
            super().remove(filepath)
        else:
            self._removed_later.append(str(filepath))

    @contextmanager
    def removing_last(self) -> Iterator[None]:
        """Puts off what is removed within it until all of it went well."""
        self._removed_later = removed = []
        try:
            yield
        finally:
            self._removed_later = None
        for path in removed:
            super().remove(path)


register_backend('durable', DurableBackend)


def checkpoint_folder(config: Config) -> str:
    """The folder, or URL, of a config's checkpoints: its work directory, or one of that name in the hook's `out_dir`."""
    hook = (config.get('default_hooks') or {}).get('checkpoint')
    out_dir = hook.get('out_dir') if isinstance(hook, dict) else None
    work_dir = os.path.abspath(config.work_dir)
    return config.work_dir if out_dir in (None, work_dir) else os.path.join(str(out_dir), os.path.basename(work_dir))


def claim_folders(config: Config) -> list[TextIO]:
    """Makes the work directory, and the folder of the checkpoints if that is another one, this training's own.

    Returns:
        The locks' files; see `claim_work_dir`.

    Raises:
        UserError: another training is using one of them, or it cannot be written to.
    """
    folders = dict.fromkeys([config.work_dir, checkpoint_folder(config)])
    return [claim_work_dir(folder) for folder in folders if '://' not in folder]


def pointed_checkpoint(work_dir: Path | str) -> str | None:
    """The checkpoint that was written last, by a work directory's pointer; None without one."""
    pointer = Path(work_dir, POINTER)
    return pointer.read_text().strip() or None if pointer.is_file() else None


def accumulated_gradients(runner: Runner) -> dict[str, Tensor]:
    """Gradients that are added up for an update to come, by parameter, on the CPU; empty between updates.

    Each process has added up those of its own images: their mean over the processes, given to all, makes the update what it
    would have been. All processes have to call this.
    """
    wrapper = runner.optim_wrapper
    parts = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    if all(part.should_update() for part in parts):
        return {}
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    used = torch.tensor([parameter.grad is not None for parameter in trained.values()], dtype=torch.int32)
    used = used.to(next(iter(trained.values())).device)
    all_reduce(used, 'max')
    gradients = {}
    for (name, parameter), is_used in zip(trained.items(), used.tolist(), strict=True):
        if is_used:  # by any process; the optimizer passes the others over
            mean = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
            all_reduce(mean, 'mean')
            gradients[name] = mean.cpu()
    return gradients


def _goes_by_metrics(runner: Runner) -> bool:
    """Whether a scheduler, such as MMEngine's ReduceOnPlateauLR, takes a step at each validation."""
    groups = runner.param_schedulers
    groups = groups.values() if isinstance(groups, dict) else [groups or []]
    return any(getattr(scheduler, 'need_val_args', False) for schedulers in groups for scheduler in schedulers)


def _rank_0_says(fact: bool) -> bool:
    """A fact that rank 0 knows, as it alone writes, on all ranks, which all have to call this."""
    answer = torch.tensor(int(fact))
    broadcast(answer)
    return bool(answer)


@HOOKS.register_module()
class DependableCheckpointHook(CheckpointHook):
    """MMEngine's `CheckpointHook` in an order that loses nothing: checkpoint, pointer, removal of older ones.

    At least two regular checkpoints are kept. If one cannot be written, training continues with those there are; it ends when
    several in a row, or the last one, could not.

    Args:
        options: those of `CheckpointHook`.
    """

    def __init__(self, **options):
        super().__init__(**options)
        if self.max_keep_ckpts > 0:
            self.max_keep_ckpts = max(self.max_keep_ckpts, FEWEST_KEPT)
        self._gradients: dict[str, Tensor] = {}
        self.saved_iter = self._tried_iter = -1  # iteration of the newest checkpoint, and of the last attempt to save one
        self.failures = 0  # in a row
        self._saved_at = 0.0

    def before_train(self, runner: Runner) -> None:
        if '://' not in str(self.out_dir or runner.work_dir) and not (self.backend_args or self.file_client_args):
            self.backend_args = dict(backend='durable')
        super().before_train(runner)
        if runner._resume:
            pointed = pointed_checkpoint(runner.work_dir)
            if _rank_0_says(pointed is not None and os.path.abspath(pointed) == os.path.abspath(runner._load_from)):
                self.saved_iter, self.last_ckpt = runner.iter, runner._load_from

    def save_interrupted(self, runner: Runner, epoch: int, iteration: int) -> bool:
        """Saves a training that is to continue from here, unless a checkpoint of this iteration was written, or could not be.

        Args:
            runner: the training.
            epoch: epochs that are complete.
            iteration: iterations that are complete.

        Returns:
            Whether there is a checkpoint of this iteration.
        """
        if iteration not in (self.saved_iter, self._tried_iter):
            self._save(runner, INTERRUPTED, dict(epoch=epoch, iter=iteration))
        return self.saved_iter == iteration

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        saved_at = checkpoint['meta'].get('saved_at')
        if runner._resume and isinstance(saved_at, float):
            self._saved_at = saved_at

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Adds how much of the epoch is done, when this was, and gradients that still wait for an update."""
        meta = checkpoint['meta']
        # Later than all before it, also if the clock was put back or is another node's.
        meta['saved_at'] = self._saved_at = max(time.time(), self._saved_at + 1e-3)
        loader = runner.train_dataloader
        begun = meta['iter'] > 0 and meta['epoch'] == runner.epoch and loader is not None
        meta['batches'] = (getattr(runner.train_loop, 'batches_done', 0) if begun else 0, len(loader))
        if self._gradients:
            checkpoint[GRADIENTS] = self._gradients

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        """Saves again what was saved just before the validation, if a schedule went by the metrics."""
        super().after_val_epoch(runner, metrics)
        if metrics and self.saved_iter == runner.iter and _goes_by_metrics(runner):
            self._save(runner, os.path.basename(self.last_ckpt), dict(epoch=runner.epoch, iter=runner.iter))

    def after_train(self, runner: Runner) -> None:
        if self.failures:
            runner.request_stop(StopReason.NOT_SAVED)
        super().after_train(runner)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        """What `CheckpointHook` calls for each regular checkpoint, in another order."""
        others = [other for other in runner.message_hub.runtime_info.get('keep_ckpt_ids', []) if other != step]
        kept = [*others, step] if self.max_keep_ckpts > 0 else []
        # With those that are about to be removed: a training that is killed before that removes them when it continues.
        runner.message_hub.update_info('keep_ckpt_ids', kept)
        if not self._save(runner, self.filename_tmpl.format(step), meta):
            runner.message_hub.update_info('keep_ckpt_ids', others)
            return
        outdated, kept = (kept[:-self.max_keep_ckpts], kept[-self.max_keep_ckpts:]) if kept else ([], [])
        runner.message_hub.update_info('keep_ckpt_ids', kept)
        if is_main_process():
            for name in [*map(self.filename_tmpl.format, outdated), INTERRUPTED]:
                path = self.file_backend.join_path(self.out_dir, name)
                if self.file_backend.exists(path):
                    self.file_backend.remove(path)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        """Removes the best checkpoint so far only when its successor is written."""
        if not isinstance(self.file_backend, DurableBackend):
            super()._save_best_checkpoint(runner, metrics)
            return
        known = runner.message_hub.runtime_info
        before = {key: value for key, value in known.items() if key.startswith('best_')}
        paths = {name: copy(getattr(self, name)) for name in ('best_ckpt_path', 'best_ckpt_path_dict') if hasattr(self, name)}
        try:
            with self.file_backend.removing_last():
                super()._save_best_checkpoint(runner, metrics)
        except OSError as error:
            # It has noted the score, and a file that is not there.
            for key in [key for key in known if key.startswith('best_')]:
                known.pop(key)
            known.update(before)
            vars(self).update(paths)
            self._tell_failure(runner, error)

    def _save(self, runner: Runner, filename: str, meta: dict) -> bool:
        """Writes a checkpoint and the pointer to it; False, in all processes, if that failed."""
        path = self.file_backend.join_path(self.out_dir, filename)
        before, self.last_ckpt = self.last_ckpt, path
        runner.message_hub.update_info('last_ckpt', path)
        self._gradients = accumulated_gradients(runner)
        self._tried_iter = meta['iter']
        failure = None
        try:
            runner.save_checkpoint(
                self.out_dir, filename, self.file_client_args, save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler, meta=meta, by_epoch=self.by_epoch,
                backend_args=self.backend_args, **self.args)
            if is_main_process():
                atomic_write(Path(runner.work_dir, POINTER), lambda unfinished: unfinished.write_text(path), durable=True)
        except OSError as error:
            failure = error
        if not _rank_0_says(failure is None):
            self.last_ckpt = before
            self._tell_failure(runner, failure)
            return False
        self.saved_iter, self.failures = meta['iter'], 0
        return True

    def _tell_failure(self, runner: Runner, error: OSError | None) -> None:
        """Counts a failure; rank 0, which has the error, tells it."""
        self.failures += 1
        if error:
            runner.logger.error(
                f'THE CHECKPOINT COULD NOT BE WRITTEN to {self.out_dir} ({error.strerror or error}). '
                f'Training {"stops" if runner.stop_reason else "continues"}; the newest checkpoint is '
                f'{self.last_ckpt or "none"}. Failures in a row: {self.failures} of {FAILURES_BEFORE_STOP}')
        if self.failures >= FAILURES_BEFORE_STOP:
            runner.request_stop(StopReason.NOT_SAVED)


def use_resume(config: Config, resume: str | None) -> list[str]:
    """`--resume` alone continues from the newest complete checkpoint in the work directory, `--resume PATH` from that file.

    The run's seed becomes the checkpoint's, so that data and random numbers continue as they would have. All processes have to
    call this, when they have joined: rank 0 chooses.

    Args:
        config: changed in place: `resume`, `load_from` and the seed.
        resume: 'auto', a path or URL, or None for what the config says.

    Returns:
        Sentences for the user: where it continues, and which checkpoints were passed over.

    Raises:
        UserError: the file is missing, damaged or no training's checkpoint; or none is complete, or they seem to lie elsewhere.
    """
    start = config.get('load_from')
    if resume is not None:
        config.resume, config.load_from = True, None if resume == 'auto' else resume
    if not config.get('resume'):
        return []
    given = config.get('load_from')
    if given and given.startswith(('http://', 'https://')):
        given = str(fetch(given))  # by each process, as each node keeps what it downloads
    path, seed, notes = from_rank_0(lambda: _choose(config, given))
    if path is None:
        config.resume, config.load_from = False, start
        return notes
    config.load_from = given or path
    if isinstance(seed, int):
        config.randomness = dict(config.get('randomness') or {}, seed=seed)
    return notes


def _choose(config: Config, given: str | None) -> tuple[str | None, int | None, list[str]]:
    """The checkpoint to continue from, None for a start at the beginning; its seed; sentences for the user."""
    if given is None:
        path, notes = _newest(config)
        if path is None:
            return None, None, notes
    else:
        path, notes = given, []
        if '://' not in path:
            check_file(Path(path), path)
            if problem := damage(Path(path)):
                raise UserError(f'checkpoint {path} is damaged: {problem}; --resume without a path takes the newest complete one')
    meta = training_progress(path)
    if meta is None:
        raise UserError(f'{path} holds weights but no training state to resume: start from it with '
                        f'--cfg-options load_from={path}, without --resume')
    return path, meta.get('seed'), [*notes, f'resuming from {path} at iteration {meta["iter"]}']


def _newest(config: Config) -> tuple[str | None, list[str]]:
    """The newest complete checkpoint of a training, and what is said of others, or of there being none."""
    folder, pointed = checkpoint_folder(config), pointed_checkpoint(config.work_dir)
    if '://' in folder and pointed:  # written to a store, which cannot be looked through here
        return pointed, []
    path, notes = (None, []) if '://' in folder else newest_complete(Path(folder))
    if path is not None:
        return str(path), notes
    if notes:
        raise UserError(f'--resume: no checkpoint in {folder} is complete ({"; ".join(notes)}); move them away to start from the '
                        'beginning')
    if pointed and ('://' in pointed or Path(pointed).parent.resolve() != Path(folder).resolve()):
        raise UserError(f'--resume: there is no checkpoint in {folder}, but {config.work_dir}/{POINTER} names {pointed}: see '
                        'that its folder exists and default_hooks.checkpoint.out_dir is unchanged, or give its path to --resume; '
                        f'remove {POINTER} to start from the beginning')
    return None, [f'--resume: there is no checkpoint in {folder}; the training starts at its beginning']


@HOOKS.register_module()
class ValidationHook(Hook):
    """Makes up for a validation that was due when the training was killed; its checkpoint is written before it.

    The end of each validation is recorded in the work directory.
    """

    priority = 'LOWEST'  # the checkpoint hook has to be ready, and done

    def before_train(self, runner: Runner) -> None:
        record = Path(runner.work_dir, _LAST_VALIDATION)
        done = from_rank_0(lambda: record.read_text().strip() if record.is_file() else '')
        if runner.iter and runner.val_loop is not None and _is_due(runner) and done != str(runner.iter):
            runner.logger.info(f'validating iteration {runner.iter} first: the last run ended before it')
            runner.val_loop.run()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        if not is_main_process():
            return
        try:
            atomic_write(Path(runner.work_dir, _LAST_VALIDATION), lambda path: path.write_text(f'{runner.iter}\n'))
        except OSError as error:
            runner.logger.warning(f'{_LAST_VALIDATION} could not be written ({error.strerror}); --resume would validate again')


def _is_due(runner: Runner) -> bool:
    """Whether the loop validates at the place where it stands."""
    loop = runner.train_loop
    if getattr(loop, 'batches_done', 0):
        return False
    place, last = (loop.epoch, loop.max_epochs) if hasattr(loop, 'run_epoch') else (loop.iter, loop.max_iters)
    return place >= loop.val_begin and (place % loop.val_interval == 0 or place == last)
