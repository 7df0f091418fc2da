"""`--resume`: from the newest whole checkpoint, with what was left undone when the training ended."""

from collections.abc import Callable
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ralamala_mm.checkpoints import check_file, fetch
from ralamala_mm.checkpoints.whole import damage, newest_whole, training_progress
from ralamala_mm.errors import UserError
from ralamala_mm.files import write_in_one_move

from .saving import POINTER, checkpoint_folder, pointed_checkpoint

_LAST_VALIDATION = 'last_validation'  # beside the checkpoints: the iteration after which was validated last


def use_resume(config: Config, resume: str | None) -> list[str]:
    """`--resume` alone goes on from the newest whole checkpoint in the work directory, `--resume PATH` from that file.

    The run's seed becomes the checkpoint's, so that data and random numbers go on as they would have. All processes have to
    call this, when they have joined: the first one chooses.

    Args:
        config: changed in place: `resume`, `load_from` and the seed.
        resume: 'auto', a path or URL, or None for what the config says.

    Returns:
        Sentences for the user: where it goes on, and which checkpoints were passed over.

    Raises:
        UserError: the file is missing, damaged or no training's checkpoint; or none is whole, or they seem to lie elsewhere.
    """
    start = config.get('load_from')
    if resume is not None:
        config.resume, config.load_from = True, None if resume == 'auto' else resume
    if not config.get('resume'):
        return []
    given = config.get('load_from')
    if given and given.startswith(('http://', 'https://')):
        given = str(fetch(given))  # by each process, as each node keeps what it downloads
    path, seed, notes = _as_the_first(lambda: _choose(config, given))
    if path is None:
        config.resume, config.load_from = False, start
        return notes
    config.load_from = given or path
    if isinstance(seed, int):
        config.randomness = dict(config.get('randomness') or {}, seed=seed)
    return notes


def _as_the_first(choose: Callable[[], tuple]) -> tuple:
    """What the first process chooses, for all: a folder may look otherwise from another node, or a moment later.

    Raises:
        UserError: that process's own, in all of them.
    """
    found = [None, None]
    if is_main_process():
        try:
            found[0] = choose()
        except UserError as error:
            found[1] = error.sentence
    broadcast_object_list(found)
    if found[1]:
        raise UserError(found[1])
    return found[0]


def _choose(config: Config, given: str | None) -> tuple[str | None, int | None, list[str]]:
    """The checkpoint to go on from, None for a start at the beginning; its seed; sentences for the user."""
    if given is None:
        path, notes = _newest(config)
        if path is None:
            return None, None, notes
    else:
        path, notes = given, []
        if '://' not in path:
            check_file(Path(path), path)
            if problem := damage(Path(path)):
                raise UserError(f'checkpoint {path} is damaged: {problem}; --resume without a path takes the newest whole one')
    meta = training_progress(path)
    if meta is None:
        raise UserError(f'{path} holds weights but no training state to resume: start from it with '
                        f'--cfg-options load_from={path}, without --resume')
    return path, meta.get('seed'), [*notes, f'going on from {path}, after iteration {meta["iter"]}']


def _newest(config: Config) -> tuple[str | None, list[str]]:
    """The newest whole checkpoint of a training, and what is told of others, or of there being none."""
    folder, pointed = checkpoint_folder(config), pointed_checkpoint(config.work_dir)
    if '://' in folder and pointed:  # written to a store, which cannot be looked through here
        return pointed, []
    path, notes = (None, []) if '://' in folder else newest_whole(Path(folder))
    if path is not None:
        return str(path), notes
    if notes:
        raise UserError(f'--resume: no checkpoint in {folder} is whole ({"; ".join(notes)}); move them away to start from the '
                        'beginning')
    if pointed and ('://' in pointed or Path(pointed).parent.resolve() != Path(folder).resolve()):
        raise UserError(f'--resume: there is no checkpoint in {folder}, but {config.work_dir}/{POINTER} names {pointed}: see '
                        'that its folder is there and default_hooks.checkpoint.out_dir as it was, or give its path to --resume; '
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
        done = [record.read_text().strip() if record.is_file() else '']
        broadcast_object_list(done)  # all do the same, whatever another node still sees
        if runner.iter and runner.val_loop is not None and _is_due(runner) and done != [str(runner.iter)]:
            runner.logger.info(f'The training ended before the validation after iteration {runner.iter}; it is done first')
            runner.val_loop.run()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        if not is_main_process():
            return
        try:
            write_in_one_move(Path(runner.work_dir, _LAST_VALIDATION), lambda path: path.write_text(f'{runner.iter}\n'))
        except OSError as error:
            runner.logger.warning(f'{_LAST_VALIDATION} could not be written ({error.strerror}); --resume would validate again')


def _is_due(runner: Runner) -> bool:
    """Whether the loop validates at the place where it stands."""
    loop = runner.train_loop
    if getattr(loop, 'batches_done', 0):
        return False
    place, last = (loop.epoch, loop.max_epochs) if hasattr(loop, 'run_epoch') else (loop.iter, loop.max_iters)
    return place >= loop.val_begin and (place % loop.val_interval == 0 or place == last)
