"""MMEngine's Runner where it is not dependable enough: loading weights, data that cannot be used, CPU processes."""

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import BaseTTAModel, is_model_wrapper, revert_sync_batchnorm
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop
from mmengine.runner import Runner as MMEngineRunner
from torch import nn
from torch.utils.data import DataLoader

from ralamala_mm.checkpoints import check_file, find_weights, load_weights, read_checkpoint, recorded_family
from ralamala_mm.datasets.diagnosis import check_dataset, explain_dataset_error
from ralamala_mm.errors import UserError

from .schedule import schedule_notes

_RESUME_KEYS = {'meta', 'message_hub', 'optimizer'}


@RUNNERS.register_module()
class DependableRunner(MMEngineRunner):
    """A Runner that reads checkpoints without running code from them and refuses weights that do not fit."""

    @property
    def iter(self) -> int:
        """The current iteration; 0 when no training loop was built, which MMEngine would build, with its data, to say so."""
        return self._train_loop.iter if isinstance(self._train_loop, BaseLoop) else 0

    @property
    def epoch(self) -> int:
        """The current epoch, as `iter`."""
        return self._train_loop.epoch if isinstance(self._train_loop, BaseLoop) else 0

    def dump_config(self) -> None:
        """Writes the config to the work directory; that of an evaluation beside its log, as the training's may lie there."""
        if not self.cfg.get('evaluates_only'):
            super().dump_config()
            return
        Path(self.log_dir).mkdir(parents=True, exist_ok=True)
        self.cfg.dump(Path(self.log_dir, Path(self.cfg.filename or 'config.py').name))

    def build_train_loop(self, loop: dict | BaseLoop) -> BaseLoop:
        """Builds the training loop; warns when the learning rate's schedule is longer than the training."""
        loop = super().build_train_loop(loop)
        for note in schedule_notes(self.cfg.get('param_scheduler'), loop.max_iters):
            self.logger.warning(note)
        return loop

    def build_logger(self, *args, **kwargs) -> MMLogger:
        """Builds the logger; `quiet_console = True` in the config leaves the console to a progress display."""
        logger = super().build_logger(*args, **kwargs)
        if self.cfg.get('quiet_console'):
            for handler in logger.handlers:
                if not isinstance(handler, logging.FileHandler):
                    handler.setLevel(logging.WARNING)
        return logger

    def load_checkpoint(self, filename: str, map_location: str | Callable = 'cpu', strict: bool = False,
                        revise_keys: list | None = None) -> dict:
        """Loads a checkpoint into the model; head layers may differ only when training starts from other weights.

        `map_location`, `strict` and `revise_keys` are those of MMEngine and change nothing: tensors are copied to where
        the model is, what does not fit is reported or refused, and prefixes are recognised.

        Raises:
            UserError: the file cannot be read, does not fit the model, or holds too little to resume from.
        """
        checkpoint = dict(read_checkpoint(filename))
        if self._resume and not checkpoint.keys() >= _RESUME_KEYS:
            raise UserError(f'{filename} holds weights but no training state to resume: start from it with '
                            f'--cfg-options load_from={filename}, without --resume')
        # MMEngine would run the config in it as Python, and takes nothing from it that the present config lacks.
        checkpoint['meta'] = {key: value for key, value in checkpoint.get('meta', {}).items() if key != 'config'}
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        model = self.model
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        # train() builds the loop before it loads; until then this is the config of it, in test() too.
        fine_tuning = isinstance(self._train_loop, BaseLoop) and not self._resume
        report = load_weights(model, find_weights(checkpoint, filename), filename, allow_other_heads=fine_tuning,
                              family=recorded_family(checkpoint), complete=not fine_tuning)
        self._has_loaded = True
        self.logger.info(str(report))
        return checkpoint

    @staticmethod
    def build_dataloader(dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False) -> DataLoader:
        """Builds a data loader.

        Raises:
            UserError: its annotations cannot be used; the text says which file and why.
        """
        try:
            loader = MMEngineRunner.build_dataloader(dataloader, seed, diff_rank_seed)
        except Exception as error:
            if isinstance(dataloader, dict):
                explain_dataset_error(dataloader['dataset'], error)
            raise
        check_dataset(loader.dataset)
        return loader

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Wraps for distributed training; without a GPU, synchronised batch norms become plain ones first."""
        if not torch.cuda.is_available():
            # They have no CPU kernel, and DDP refuses them there.
            model = revert_sync_batchnorm(model)
        return super().wrap_model(model_wrapper_cfg, model)


def build_runner(config: Config) -> MMEngineRunner:
    """The config's own `runner_type` if it names one, else ours.

    Raises:
        UserError: the weights to start from are not there.
    """
    start = config.get('load_from')
    if start and '://' not in start:
        check_file(Path(start), start)
    return RUNNERS.build(config) if 'runner_type' in config else DependableRunner.from_cfg(config)
