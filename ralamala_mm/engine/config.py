"""From the command line to a config that is ready for a runner."""

import argparse
import difflib
from importlib.util import find_spec
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.utils import is_installed

from ralamala_mm.datasets.walking import MODES
from ralamala_mm.errors import UserError

_AMP_SETTINGS = ('type', 'dtype', 'loss_scale', 'use_fsdp')  # of an optimiser's wrapper, that depend on the precision


class FormattedConfig(Config):
    """A config whose text is formatted once for each content that it has.

    yapf takes half a second of it, and MMEngine asks for the text four times when a run starts and with each checkpoint.
    """

    @property
    def pretty_text(self) -> str:
        content = repr(self.to_dict())
        # In __dict__, as attributes of a config are its settings.
        known = self.__dict__.get('_formatted')
        if known is None or known[0] != content:
            known = self.__dict__['_formatted'] = content, super().pretty_text
        return known[1]


def _find_mmseg_by_its_module() -> None:
    """Lets `_base_ = 'mmseg::…'` be found where MMSegmentation is installed under another name than `mmsegmentation`.

    So does OneDL, whose MMEngine 0.10.12 looks for the old name all the same; not reported there yet.
    """
    if not is_installed('mmsegmentation') and find_spec('mmseg'):
        MODULE2PACKAGE['mmseg'] = 'mmseg'


def load_config(path: str, options: dict | None = None) -> FormattedConfig:
    """Reads a config file and merges `--cfg-options` into it.

    Raises:
        UserError: there is no such file (near names are given), or it is not valid Python.
    """
    if not Path(path).is_file():
        raise UserError(f'config {path} does not exist{_near_configs(Path(path))}')
    _find_mmseg_by_its_module()
    try:
        # Not lazy: MMEngine 0.10.7 takes a config that imports anything for one of the new lazy style.
        read = Config.fromfile(path, lazy_import=False)
        config = FormattedConfig(read._cfg_dict, read.text, read.filename, read.env_variables)
    except FileNotFoundError as error:
        raise UserError(f'a base of config {path} does not exist: {error}') from error
    except SyntaxError as error:
        raise UserError(f'config {path} is not valid Python: {error.msg} in line {error.lineno}') from error
    except RecursionError as error:
        raise UserError(f'config {path} cannot be read: its _base_ leads back to itself') from error
    except Exception as error:  # configs are programs of the user's
        raise UserError(f'config {path} cannot be read ({type(error).__name__}: {error})') from error
    if options:
        _check_spelling(options, config)
        try:
            config.merge_from_dict(options)
        except (KeyError, IndexError, TypeError, AttributeError, AssertionError) as error:
            raise UserError(f'--cfg-options do not fit config {path} ({type(error).__name__}: {error})') from error
    return config


def _check_spelling(options: dict, config: Config) -> None:
    """MMEngine would add a mistyped setting as a new one, and train without it.

    Raises:
        UserError: a setting that the config lacks, and nearly has.
    """
    for name in {option.split('.')[0] for option in options} - set(config.keys()):
        if near := difflib.get_close_matches(name, config.keys(), n=1, cutoff=0.85):
            raise UserError(f'--cfg-options {name}: the config has no such setting; did you mean {near[0]}?')


def _near_configs(path: Path) -> str:
    folders = [path.parent, Path('configs'), Path(__file__).parents[2] / 'configs']
    known = {file.stem: str(file) for folder in reversed(folders) for file in folder.glob('*.py')}
    near = difflib.get_close_matches(path.stem, known, n=3, cutoff=0.5)
    return f'; did you mean {" or ".join(known[name] for name in near)}?' if near else ''


def prepare_config(args: argparse.Namespace) -> Config:
    """The config of `args.config` with the options that train and test share.

    Raises:
        UserError: see `load_config`.
    """
    config = load_config(args.config, args.cfg_options)
    if not isinstance(config.get('model'), dict):
        raise UserError(f'config {args.config} has no model')
    for name, count in (config.get('train_cfg') or {}).items():
        if name in ('max_epochs', 'max_iters') and (not isinstance(count, int) or count < 1):
            raise UserError(f'train_cfg.{name} is {count!r}: it takes a whole number from 1')
    config.launcher = args.launcher
    config.work_dir = args.work_dir or config.get('work_dir') or str(Path('work_dirs', Path(args.config).stem))
    for mode in MODES:
        loader = config.get(f'{mode}_dataloader')
        if loader and not loader.get('num_workers'):
            loader.persistent_workers = False  # which torch refuses without workers
    return config


def use_amp(config: Config, dtype: str) -> None:
    """Automatic mixed precision: 'float16' with a dynamic loss scale, as in MMDetection's `--amp`, or 'bfloat16' without.

    Raises:
        UserError: float16 without a GPU, or bfloat16 on a GPU that does not have it.
    """
    settings = {key: value for key, value in config.optim_wrapper.items() if key not in _AMP_SETTINGS}
    if dtype == 'bfloat16':
        # Below capability 8.0 PyTorch says that it is supported, and emulates it.
        if torch.cuda.is_available() and torch.version.cuda and torch.cuda.get_device_capability() < (8, 0):
            raise UserError('--amp-dtype bfloat16: this GPU does not support it; give --amp alone, for float16')
        # By its whole name, which dumped configs are read by wherever this package is installed.
        config.optim_wrapper = dict(settings, type='ralamala_mm.engine.bfloat16.BFloat16OptimWrapper')
        return
    if not torch.cuda.is_available():
        raise UserError('--amp needs a GPU, and torch sees none here: leave it out to train in fp32 on the CPU')
    config.optim_wrapper = dict(settings, type='AmpOptimWrapper', dtype=dtype, loss_scale='dynamic')


def use_auto_scale_lr(config: Config) -> None:
    """Scales the learning rate with the batch, accumulated gradients included, from the batch that the config names.

    Raises:
        UserError: the config does not name it.
    """
    if 'base_batch_size' not in config.get('auto_scale_lr', {}):
        raise UserError('--auto-scale-lr needs auto_scale_lr = dict(base_batch_size=…) in the config')
    config.auto_scale_lr.enable = True
    # MMEngine scales by GPUs × images; an update's batch is as many times larger as gradients are accumulated for it.
    accumulated = config.optim_wrapper.get('accumulative_counts', 1)
    if accumulated > 1:
        config.auto_scale_lr.base_batch_size /= accumulated


def drop_validation(config: Config) -> None:
    """`--no-validate`: trains without evaluating in between."""
    config.val_cfg = config.val_dataloader = config.val_evaluator = None
