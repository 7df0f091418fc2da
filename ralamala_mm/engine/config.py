"""From the command line to a config that is ready for a runner, and to a model without one."""

import argparse
from collections.abc import Iterator, Sequence
from copy import deepcopy
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner
from mmengine.utils import is_installed
from torch import nn

from ralamala_mm.checkpoints import check_file, fetch
from ralamala_mm.datasets.config import MODES, datasets_of, is_segmentation
from ralamala_mm.errors import UserError, did_you_mean
from ralamala_mm.families import family_of, resolve_linear_stages

_AMP_SETTINGS = ('type', 'dtype', 'loss_scale', 'use_fsdp')  # of an optimizer's wrapper, that depend on the precision
PRETRAINED_OPTION = 'model.backbone.pretrained'
# What MMDetection's own test.py takes when the config names nothing: flips, merged by NMS.
_DEFAULT_DETECTION_TTA = dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100))
_FLIP_META_KEYS = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
_REPLACED = ('DetLocalVisualizer', 'SegLocalVisualizer')
_VISUALIZER_SETTINGS = {'_scope_', 'type', 'name', 'vis_backends', 'save_dir'}  # of a visualizer whose drawing nobody has set up
_VISUALIZER = 'ralamala_mm.apis.drawing.SampleVisualizer'  # by its name, as apis stands above this package


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
        if near := did_you_mean(name, config.keys(), count=1, cutoff=0.85):
            raise UserError(f'--cfg-options {name}: the config has no such setting{near}')


def _near_configs(path: Path) -> str:
    folders = [path.parent, Path('configs'), Path(__file__).parents[2] / 'configs']
    known = {file.stem: str(file) for folder in reversed(folders) for file in folder.glob('*.py')}
    return did_you_mean(path.stem, known, cutoff=0.5, shown=known.get)


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
            raise UserError(f'train_cfg.{name} must be a positive integer, got {count!r}')
    if (config.get('visualizer') or {}).get('type') == 'SampleVisualizer':  # as test.py once wrote it into its copy
        config.visualizer.type = _VISUALIZER
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


def resolve_pretrained(config: Config) -> str | None:
    """Fetches the weights that a backbone of ours starts from; drops them where a complete checkpoint follows.

    Returns:
        A line for the user if the backbone starts from scratch, else None.

    Raises:
        UserError: the weights are not there; the text names the options for a local file and for none.
    """
    backbone = config.model.get('backbone') or {}
    family = family_of(backbone.get('type', ''))
    if family is None:
        return None
    if config.get('load_from'):
        backbone.pretrained = backbone.init_cfg = None
        return None
    if init_cfg := backbone.get('init_cfg'):  # the user's own, which takes the place of the released weights
        init_cfgs = [init_cfg] if isinstance(init_cfg, dict) else init_cfg
        sources = [init_cfg['checkpoint'] for init_cfg in init_cfgs if init_cfg.get('type') == 'Pretrained']
    else:
        sources = [backbone.pretrained] if backbone.get('pretrained') else []
    stages = resolve_linear_stages(backbone.get('linear_stages'), family)
    for source in sources:
        if family.released and source.startswith(family.released) and stages != family.linear_stages:
            raise UserError(f'the released weights {source} have linear_stages={family.linear_stages}, got {stages}: '
                            f'--cfg-options {PRETRAINED_OPTION}=None trains from scratch')
        _make_available(source)
    if sources:
        return None
    example = f', such as the file for size {backbone.get("arch")} from {family.released}' if family.released else ''
    return (f'{family.name} starts from scratch, without ImageNet weights, which the published results need: '
            f'--cfg-options {PRETRAINED_OPTION}=FILE gives some{example}')


def _make_available(source: str) -> None:
    """Fetches a URL, or checks that a local file is there."""
    if source.startswith(('http://', 'https://')):
        try:
            fetch(source)
        except UserError as error:
            reason = getattr(error.__cause__, 'reason', None) or error.__cause__ or error
            raise UserError(f'the ImageNet weights {source} could not be downloaded ({reason}): --cfg-options '
                            f'{PRETRAINED_OPTION}=FILE takes a local file, --cfg-options {PRETRAINED_OPTION}=None trains from '
                            'scratch') from error
    elif '://' not in source:
        check_file(Path(source), source)


def use_test_time_augmentation(config: Config) -> None:
    """`--tta`: the config's own augmentation; detectors without one are tested flipped and not, merged by NMS.

    Raises:
        UserError: a segmentation config without one, or a detector with masks, which MMDetection cannot merge.
    """
    if config.model.get('roi_head', {}).get('mask_head') or config.model.get('mask_head'):
        raise UserError('--tta: MMDetection merges boxes, but not masks; test this model without it')
    if is_segmentation(config) and ('tta_model' not in config or 'tta_pipeline' not in config):
        raise UserError('--tta needs tta_model and tta_pipeline in the config')
    datasets = [dataset for _, dataset in datasets_of(config, ['test'])]
    if 'tta_pipeline' not in config:
        config.tta_pipeline = deepcopy(datasets[0].pipeline)
        config.tta_pipeline[-1] = dict(type='TestTimeAug', transforms=[
            [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)],
            [dict(type='PackDetInputs', meta_keys=_FLIP_META_KEYS)]])
    config.model = ConfigDict(**config.get('tta_model', _DEFAULT_DETECTION_TTA), module=config.model)
    for dataset in datasets:
        dataset.pipeline = config.tta_pipeline


def use_visualization(config: Config, show: bool, show_dir: str | None, wait_time: float) -> None:
    """`--show` and `--show-dir`: draws predictions in a window or into WORK_DIR/TIMESTAMP/SHOW_DIR.

    A visualizer that the config has set up by itself stays, and so does MMDetection's for panoptic segmentation.

    Args:
        config: changed in place.
        show: in windows.
        show_dir: a folder, or None.
        wait_time: of each window, in seconds.

    Raises:
        UserError: the config has no visualization hook to do it.
    """
    if not show and not show_dir:
        return
    hook = config.default_hooks.get('visualization')
    if hook is None:
        raise UserError('--show and --show-dir need default_hooks.visualization in the config')
    hook.draw = True
    hook.show = show
    hook.wait_time = wait_time
    visualizer = config.setdefault('visualizer', dict(type=_REPLACED[is_segmentation(config)]))
    if is_segmentation(config):
        hook.interval = 1  # MMSegmentation draws every 50th image otherwise
    if show_dir and is_segmentation(config):
        visualizer.save_dir = show_dir
    elif show_dir:
        hook.test_out_dir = show_dir
    is_default = str(visualizer.type).split('.')[-1] in _REPLACED and visualizer.keys() <= _VISUALIZER_SETTINGS
    if is_default and 'panoptic_fusion_head' not in config.model:
        visualizer.type = _VISUALIZER


def check_output(config: Config, out: str | None) -> None:
    """Whether `--out` suits the task, before anything is computed.

    Raises:
        UserError: detection, and it is not a pickle's name.
    """
    if out and not is_segmentation(config) and not out.endswith(('.pkl', '.pickle')):
        raise UserError(f'--out {out}: predictions of a detector are written to a .pkl file')


def use_segmentation_output(config: Config, out: str | None) -> None:
    """`--out` for segmentation: a folder that receives the predicted masks."""
    if out and is_segmentation(config):
        config.test_evaluator.output_dir = out
        config.test_evaluator.keep_results = True


def use_detection_output(config: Config, runner: Runner, out: str | None) -> None:
    """`--out` for detection: a pickle of all predictions."""
    if out and not is_segmentation(config):
        from mmdet.evaluation import DumpDetResults

        runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=out))


def schedule_notes(schedulers: Sequence[dict] | dict | None, max_iters: int) -> Iterator[str]:
    """A sentence for each scheduler, counted in iterations, that continues for long after the training ends.

    Args:
        schedulers: the config's `param_scheduler`.
        max_iters: iterations of the training.
    """
    for i, scheduler in enumerate(schedulers if isinstance(schedulers, list | tuple) else []):
        key = next((key for key in ('end', 'T_max') if scheduler.get(key)), None)
        end = scheduler[key] if key else 0
        if scheduler.get('by_epoch', True) or end <= max_iters:
            continue
        does = 'still warms up' if scheduler.get('type') == 'LinearLR' else 'still falls'
        yield (f'the training takes {max_iters} iterations, and the learning rate {does} until iteration {end}: '
               f'--cfg-options param_scheduler.{i}.{key}=… fits it')


def build_model(config: Config) -> nn.Module:
    """The config's model on the CPU in evaluation mode, with random weights.

    Raises:
        UserError: the config has no model.
    """
    if 'model' not in config:
        raise UserError(f'config {config.filename} has no model')
    model, preprocessor = deepcopy((config.model, config.get('data_preprocessor')))
    if preprocessor is not None:
        model.setdefault('data_preprocessor', preprocessor)  # as MMEngine's runner does
    scope = config.get('default_scope') or 'mmengine'
    if scope in ('mmdet', 'mmseg'):
        import_module(f'{scope}.models')
    with DefaultScope.overwrite_default_scope(scope):
        return revert_sync_batchnorm(MODELS.build(model)).eval()
