"""`--resume`: from the newest whole checkpoint, with what was left undone when the training ended."""

from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ralamala_mm.checkpoints import check_file, fetch
from ralamala_mm.checkpoints.whole import damage, newest_whole, training_progress
from ralamala_mm.errors import UserError
from ralamala_mm.files import write_in_one_move

_LAST_VALIDATION = 'last_validation'  # beside the checkpoints: the iteration after which was validated last


def use_resume(config: Config, resume: str | None) -> list[str]:
    """`--resume` alone goes on from the newest whole checkpoint in the work directory, `--resume PATH` from that file.

    The run's seed becomes the checkpoint's, so that data and random numbers go on as they would have.

    Args:
        config: changed in place: `resume`, `load_from` and the seed.
        resume: 'auto', a path or URL, or None for what the config says.

    Returns:
        Sentences for the user: where it goes on, and which checkpoints were passed over.

    Raises:
        UserError: the file is missing, damaged or no training's checkpoint, or none in the work directory is whole.
    """
    start = config.get('load_from')
    if resume is not None:
        config.resume, config.load_from = True, None if resume == 'auto' else resume
    if not config.get('resume'):
        return []
    if config.get('load_from'):
        path, notes = config.load_from, []
        if path.startswith(('http://', 'https://')):
            path = str(fetch(path))
        if '://' not in path:
            check_file(Path(path), path)
            if problem := damage(Path(path)):
                raise UserError(f'checkpoint {path} is damaged: {problem}; --resume without a path takes the newest whole one')
    else:
        path, notes = newest_whole(Path(config.work_dir))
        if path is None and notes:
            raise UserError(f'--resume: no checkpoint in {config.work_dir} is whole ({"; ".join(notes)}); move them away to '
                            'start from the beginning')
        if path is None:
            config.resume, config.load_from = False, start
            return [f'--resume: there is no checkpoint in {config.work_dir}; the training starts at its beginning']
    meta = training_progress(path)
    if meta is None:
        raise UserError(f'{path} holds weights but no training state to resume: start from it with '
                        f'--cfg-options load_from={path}, without --resume')
    config.load_from = str(path)
    if isinstance(meta.get('seed'), int):
        config.randomness = dict(config.get('randomness') or {}, seed=meta['seed'])
    return [*notes, f'going on from {path}, after iteration {meta["iter"]}']


@HOOKS.register_module()
class ValidationHook(Hook):
    """Makes up for a validation that was due when the training was killed; its checkpoint is written before it.

    The end of each validation is recorded in the work directory.
    """

    priority = 'LOWEST'  # the checkpoint hook has to be ready, and done

    def before_train(self, runner: Runner) -> None:
        record = Path(runner.work_dir, _LAST_VALIDATION)
        done = record.read_text().strip() if record.is_file() else ''
        if runner.iter and runner.val_loop is not None and _is_due(runner) and done != str(runner.iter):
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
