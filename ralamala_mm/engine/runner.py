"""MMEngine's Runner where it is not dependable enough: loading, saving and going on, data that cannot be used, CPU processes."""

import logging
import multiprocessing
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import MMLogger
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import HOOKS, LOOPS, RUNNERS, Registry
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, FlexibleRunner, IterBasedTrainLoop
from mmengine.runner import Runner as MMEngineRunner
from mmengine.visualization import Visualizer
from torch import nn
from torch.utils.data import DataLoader

from ralamala_mm.checkpoints import check_file, find_weights, load_weights, read_checkpoint, recorded_backbone
from ralamala_mm.checkpoints.integrity import RESUME_KEYS, training_progress
from ralamala_mm.datasets.diagnosis import check_dataset, explain_dataset_error
from ralamala_mm.errors import UserError

from .checkpointing import GRADIENTS, DependableCheckpointHook, ValidationHook
from .config import schedule_notes
from .distributed import gather_batch_norms
from .interruption import StopHook, StopReason, TrainingStoppedError, stop_sentence
from .loaders import check_shared_memory, shield_workers
from .non_finite import NonFiniteHook
from .progress import Console, ConsoleFilter, ProgressHook, libraries_to_log
from .reproducibility import ContinuingEpochLoop, ContinuingIterLoop, continuing_loader
from .work_dir import DependableLocalVisBackend

# MMEngine's loops, and what takes their place; a config may also say by_epoch alone.
_LOOPS = {EpochBasedTrainLoop: ContinuingEpochLoop, IterBasedTrainLoop: ContinuingIterLoop, True: ContinuingEpochLoop,
          False: ContinuingIterLoop}
_NON_FINITE = 10  # iterations in a row with a loss or gradient that is not finite, after which a training stops


@RUNNERS.register_module()
class DependableRunner(MMEngineRunner):
    """A Runner that loses nothing of a training, reads checkpoints without running code, and refuses weights that do not fit.

    A training's config may set `non_finite`: see `NonFiniteHook`; 'off' leaves losses and gradients unwatched.

    Args:
        args: those of MMEngine's Runner.
        console: what is shown of the run.
        evaluates: whether it is for `test()` alone.
        kwargs: those of MMEngine's Runner.
    """

    stop_reason = StopReason.NO

    def __init__(self, *args, console: Console = Console.LOG, evaluates: bool = False, **kwargs):
        self._console, self._evaluates = console, evaluates
        super().__init__(*args, **kwargs)

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
        if not self._evaluates:
            super().dump_config()
            return
        Path(self.log_dir).mkdir(parents=True, exist_ok=True)
        self.cfg.dump(Path(self.log_dir, Path(self.cfg.filename or 'config.py').name))

    def register_hooks(self, default_hooks: dict | None = None, custom_hooks: list[Hook | dict] | None = None) -> None:
        """Registers the config's hooks, with our checkpoint hook for MMEngine's, and those that a training is watched by."""
        default_hooks = dict(default_hooks or {})
        checkpoint = default_hooks.get('checkpoint', dict(type='CheckpointHook', interval=1))
        if isinstance(checkpoint, dict) and _resolved(HOOKS, checkpoint.get('type')) is CheckpointHook:
            default_hooks['checkpoint'] = dict(checkpoint, type=DependableCheckpointHook)
        with self._library_output():
            super().register_hooks(default_hooks, custom_hooks)
        if self._train_dataloader is None or self._evaluates:
            return
        self.register_hook(StopHook())  # ahead of the validation that may be made up for
        self.register_hook(ValidationHook())
        policy = self.cfg.get('non_finite', _NON_FINITE)
        if policy != 'off':
            self.register_hook(NonFiniteHook(policy))

    def build_train_loop(self, loop: dict | BaseLoop) -> BaseLoop:
        """Builds the training loop; warns when the learning rate's schedule is longer than the training."""
        if isinstance(loop, dict) and (ours := _LOOPS.get(_resolved(LOOPS, loop.get('type', loop.get('by_epoch'))))):
            loop = ConfigDict({key: value for key, value in loop.items() if key != 'by_epoch'}, type=ours)
            if isinstance(self._train_dataloader, dict):
                done = training_progress(self._load_from)['iter'] if self._resume and ours is ContinuingIterLoop else 0
                self._train_dataloader = continuing_loader(self._train_dataloader, done)
        loop = super().build_train_loop(loop)
        _check_loader(loop, 'train_dataloader')
        for note in schedule_notes(self.cfg.get('param_scheduler'), loop.max_iters):
            self.logger.warning(note)
        return loop

    def build_val_loop(self, loop: dict | BaseLoop) -> BaseLoop:
        """Builds the validation loop, whose loader needs shared memory too."""
        loop = super().build_val_loop(loop)
        keeps_batches = isinstance(self._train_loop, IterBasedTrainLoop)
        _check_loader(loop, 'val_dataloader', self._train_loop.dataloader if keeps_batches else None)
        return loop

    def build_test_loop(self, loop: dict | BaseLoop) -> BaseLoop:
        """Builds the test loop, whose loader needs shared memory too."""
        loop = super().build_test_loop(loop)
        _check_loader(loop, 'test_dataloader')
        return loop

    def build_visualizer(self, visualizer: Visualizer | dict | None = None) -> Visualizer:
        """Builds the visualiser; what it records to files does not end a training on a full disk."""
        if isinstance(visualizer, dict):
            backends = [dict(backend, type=DependableLocalVisBackend) if backend.get('type') == 'LocalVisBackend' else backend
                        for backend in visualizer.get('vis_backends') or []]
            visualizer = dict(visualizer, vis_backends=backends)
        return super().build_visualizer(visualizer)

    def request_stop(self, reason: StopReason) -> None:
        """Asks for the training to end after the iteration at hand, on all processes."""
        self.stop_reason = max(self.stop_reason, reason)

    def save_interrupted(self, epoch: int, iteration: int) -> bool:
        """Saves a checkpoint to continue from, after so many epochs and iterations; whether there is one of these then."""
        hooks = [hook for hook in self.hooks if isinstance(hook, DependableCheckpointHook)]
        return any(hook.save_interrupted(self, epoch, iteration) for hook in hooks)

    def train(self) -> nn.Module:
        """Trains.

        Raises:
            TrainingStoppedError: it ended early, or its last checkpoint could not be written.
        """
        try:
            with self._library_output():
                model = super().train()
        except RuntimeError:
            # What a process sees whose others ended during a validation, while it waits for them.
            for hook in self.hooks:
                if isinstance(hook, StopHook):
                    hook.end_validation_if_told(self)
            raise
        if self.stop_reason == StopReason.NOT_SAVED:
            raise TrainingStoppedError(stop_sentence(self.stop_reason, self.iter), self.stop_reason)
        return model

    def val(self) -> dict:
        """Validates."""
        with self._library_output():
            return super().val()

    def test(self) -> dict:
        """Tests."""
        with self._library_output():
            return super().test()

    def resume(self, filename: str, *args, **kwargs) -> None:
        """Goes on with a training from a checkpoint, within its epoch and with the gradients that wait for an update.

        Raises:
            UserError: what the file says of the training does not fit this one.
        """
        try:
            super().resume(filename, *args, **kwargs)
            if isinstance(self.train_loop, ContinuingEpochLoop):
                self.train_loop.begin_at(*self._batches)
            parameters = dict(self._unwrapped_model().named_parameters())
            for name, gradient in self._gradients.items():
                parameters[name].grad = gradient.to(parameters[name].device)
        except (KeyError, ValueError, TypeError, AttributeError, IndexError, AssertionError, RuntimeError) as error:
            raise UserError(f'the training state in {filename} does not fit this training ({type(error).__name__}: {error}): '
                            f'start from its weights with --cfg-options load_from={filename}, without --resume') from error
        self._gradients = {}

    def build_logger(self, *args, **kwargs) -> MMLogger:
        """Builds the logger, which shows on the console what was asked for."""
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler):
                continue
            if not self._console.shows_news:
                handler.addFilter(ConsoleFilter(theirs=logging.ERROR, ours=logging.WARNING))
            elif self._console.shows_progress:  # the metrics' tables are what an evaluation is for
                handler.addFilter(ConsoleFilter(libraries=['mmengine']) if self._evaluates else ConsoleFilter())
        return logger

    def _library_output(self) -> AbstractContextManager:
        """A block within which what libraries print and warn of goes to the log file, but for the tables of test.py."""
        if self._console is Console.LOG:
            return nullcontext()
        return libraries_to_log(self.logger, prints=not (self._console.shows_news and self._evaluates))

    def load_checkpoint(self, filename: str, map_location: str | Callable = 'cpu', strict: bool = False,
                        revise_keys: list | None = None) -> dict:
        """Loads a checkpoint into the model; head layers may differ only when training starts from other weights.

        `map_location`, `strict` and `revise_keys` are those of MMEngine and change nothing: tensors are copied to where
        the model is, what does not fit is reported or refused, and prefixes are recognised.

        Raises:
            UserError: the file cannot be read, does not fit the model, or holds too little to resume from.
        """
        checkpoint = dict(read_checkpoint(filename))
        if self._resume and not checkpoint.keys() >= RESUME_KEYS:
            raise UserError(f'{filename} holds weights but no training state to resume: start from it with '
                            f'--cfg-options load_from={filename}, without --resume')
        # MMEngine would run the config in it as Python, and takes nothing from it that the present config lacks.
        checkpoint['meta'] = {key: value for key, value in checkpoint.get('meta', {}).items() if key != 'config'}
        self._batches = checkpoint['meta'].get('batches', (0, 0))
        self._gradients = checkpoint.get(GRADIENTS, {})
        if 'state_dict' not in checkpoint:
            checkpoint['state_dict'] = find_weights(checkpoint, filename)  # where hooks look for it
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        model = self._unwrapped_model()
        # train() builds the loop before it loads; until then this is the config of it, in test() too.
        fine_tuning = isinstance(self._train_loop, BaseLoop) and not self._resume
        report = load_weights(model, find_weights(checkpoint, filename), filename, allow_other_heads=fine_tuning,
                              recorded=recorded_backbone(checkpoint), complete=not fine_tuning)
        self._has_loaded = True
        self.logger.info(str(report))
        return checkpoint

    def _unwrapped_model(self) -> nn.Module:
        model = self.model
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        return model

    @staticmethod
    def build_dataloader(dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False) -> DataLoader:
        """Builds a data loader; its workers are forked unless the config, or `env_cfg.mp_cfg`, names another start method.

        Python 3.14 no longer forks by default, and data sets of MMDetection and MMSegmentation need not be picklable.

        Raises:
            UserError: its annotations cannot be used; the text says which file and why.
        """
        if isinstance(dataloader, dict) and dataloader.get('num_workers'):
            method = multiprocessing.get_start_method(allow_none=True) or 'fork'
            dataloader = dict(dict(multiprocessing_context=method), **dataloader)
        try:
            loader = MMEngineRunner.build_dataloader(dataloader, seed, diff_rank_seed)
        except Exception as error:
            if isinstance(dataloader, dict):
                explain_dataset_error(dataloader['dataset'], error)
            raise
        check_dataset(loader.dataset)
        shield_workers(loader)
        return loader

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Wraps for distributed training; without a GPU, synchronised batch norms become ones that work on the CPU."""
        if torch.cuda.is_available() or not self.distributed:
            return super().wrap_model(model_wrapper_cfg, model)
        # PyTorch's and MMCV's have no CPU kernel, and DDP refuses them there; `sync_bn` would have MMEngine make more of them.
        sync_bn = self.cfg.pop('sync_bn', None)
        model = super().wrap_model(model_wrapper_cfg, gather_batch_norms(model, also_plain=sync_bn is not None))
        if sync_bn is not None:
            self.cfg.sync_bn = sync_bn
        return model


def _check_loader(loop: BaseLoop, name: str, beside: DataLoader | None = None) -> None:
    loader = getattr(loop, 'dataloader', None)  # a loop of the user's may have several
    if isinstance(loader, DataLoader):
        check_shared_memory(loader, name, beside)


def _resolved(registry: Registry, kind: object) -> object:
    """The class of a config's `type`, which may be its name, with or without a scope or package, or the class itself."""
    return registry.get(kind) if isinstance(kind, str) else kind


def build_runner(config: Config, console: Console = Console.LOG, evaluates: bool = False) -> MMEngineRunner:
    """The config's own `runner_type` if it names one, MMEngine's for a `strategy` such as FSDP's, else ours.

    Args:
        config: of the whole run.
        console: what is shown of the run; other runners than ours show MMEngine's lines too.
        evaluates: whether the runner is for `test()` alone, so that nothing watches a training.

    Raises:
        UserError: the weights to start from are not there, or there is no GPU for the strategy.
    """
    start = config.get('load_from')
    if start and '://' not in start:
        check_file(Path(start), start)
    if config.get('strategy'):
        if not torch.cuda.is_available():
            raise UserError(f'strategy {config.strategy.get("type")} shards a model over GPUs, and torch sees none here: leave '
                            'strategy out of the config')
        runner = FlexibleRunner.from_cfg(config)
    elif 'runner_type' in config:
        runner = RUNNERS.build(config)
    else:
        # MMEngine's classmethod takes a config apart, and calls what it was called on with the parts.
        make = partial(DependableRunner, console=console, evaluates=evaluates)
        runner = DependableRunner.from_cfg.__func__(make, config)
    if console.shows_progress:
        runner.register_hook(ProgressHook())
    return runner
