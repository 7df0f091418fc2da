"""From a config and a checkpoint to a model that is ready for inference and knows its classes, colours and pipeline."""

import copy
import inspect
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from torch import nn

from ralamala_mm.checkpoints import find_weights, load_weights, read_checkpoint, recorded_backbone, recorded_classes
from ralamala_mm.datasets import use_checked_loading
from ralamala_mm.datasets.classes import config_classes, dataset_class, set_classes
from ralamala_mm.datasets.walking import datasets_of
from ralamala_mm.engine import build_model, load_config
from ralamala_mm.errors import UserError

from .drawing import is_palette, palette_of


def load_model(config: str | Path | Config, checkpoint: str | Path | None = None, device: str = 'auto',
               options: dict | None = None, fuse: bool = False) -> nn.Module:
    """Builds a config's detector or segmentor for inference.

    Args:
        config: path of a config file, or a config, which is copied.
        checkpoint: path or URL of the weights, of any form that `tools/test.py` takes. If it records other classes than the
            config's, the heads get as many outputs. None leaves the weights random.
        device: 'cpu', 'cuda', 'cuda:1', …; 'auto' takes a GPU if there is one.
        options: settings to override in the config, such as `{'model.test_cfg.rcnn.max_per_img': 300}`.
        fuse: take the backbone's norms into its convolutions, which is faster and changes results by rounding alone.

    Returns:
        The model in evaluation mode. `cfg` is its config, `dataset_meta` a dict of its `classes` and `palette`, as MMDetection's
        and MMSegmentation's own functions expect them, and of `reduce_zero_label`, whether 0 is no class in the data set's masks.

    Raises:
        UserError: config or checkpoint cannot be read or do not fit together, or there is no such device.
    """
    target = find_device(device)
    if isinstance(config, Config):
        config = copy.deepcopy(config)
        if options:
            config.merge_from_dict(options)
    else:
        config = load_config(str(config), options)
    _check_task(config)
    content = read_checkpoint(str(checkpoint)) if checkpoint else {}
    _use_classes(config, recorded_classes(content))
    use_checked_loading(config)
    if 'backbone' in config.model:
        config.model.backbone.init_cfg = None  # the checkpoint holds all weights
        if 'pretrained' in config.model.backbone:
            config.model.backbone.pretrained = None
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', category=UserWarning, module='mmseg')  # on losses, which inference does without
        model = build_model(config)
    if checkpoint:
        report = load_weights(model, find_weights(content, str(checkpoint)), str(checkpoint), complete=True,
                              recorded=recorded_backbone(content))
        print_log(str(report), 'current', logging.INFO if report.is_clean else logging.WARNING)
    else:
        print_log('no checkpoint: the weights are random, and so will be the predictions', 'current', logging.WARNING)
    if fuse and hasattr(getattr(model, 'backbone', None), 'fuse_for_inference'):
        model.backbone.fuse_for_inference()
    model.cfg = config
    model.dataset_meta = _dataset_meta(config, content)
    return model.to(target).eval()


def find_device(name: str) -> torch.device:
    """The device of a name; 'auto' is a GPU if there is one.

    Raises:
        UserError: there is no such device here.
    """
    if name == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        there = [f'cuda:{i}' for i in range(torch.cuda.device_count())]
        raise UserError(f'--device {name} is not to be had here, but {", ".join(["cpu", *there])}') from error
    return device


def is_segmentor(model: nn.Module) -> bool:
    """Whether a loaded model is of MMSegmentation."""
    return model.cfg.default_scope == 'mmseg'


def _check_task(config: Config) -> None:
    if not isinstance(config.get('model'), dict):
        raise UserError(f'config {config.filename} has no model')
    if config.get('default_scope') not in ('mmdet', 'mmseg'):
        raise UserError(f"config {config.filename} has default_scope {config.get('default_scope')!r}: inference is for "
                        "MMDetection's 'mmdet' and MMSegmentation's 'mmseg'")
    _, dataset = next(datasets_of(config, ['test']), (None, {}))
    if not dataset.get('pipeline'):
        raise UserError(f'config {config.filename} has no test_dataloader with a data set whose pipeline prepares the pictures')


def _use_classes(config: Config, recorded: Sequence[str] | None) -> None:
    """Gives the config the classes that the weights were trained on, if they are not as many as its own."""
    if recorded and len(recorded) != len(config_classes(config)):
        set_classes(config, recorded)


def _dataset_meta(config: Config, content: Mapping) -> dict:
    """Names and colours of the classes: of the checkpoint, else of the config's data set, else made up."""
    meta = content.get('meta') or {}
    recorded = meta.get('dataset_meta') if isinstance(meta.get('dataset_meta'), Mapping) else {}
    classes = recorded_classes(content) or config_classes(config)
    classes = classes or tuple(f'class {i}' for i in range(_head_classes(config.model)))
    palettes = (recorded.get('palette'), meta.get('PALETTE'), _config_palette(config, classes))
    palette = next((palette for palette in palettes if is_palette(palette, len(classes))), None)
    return dict(classes=classes, palette=palette_of(dict(classes=classes, palette=palette)),
                reduce_zero_label=bool(recorded.get('reduce_zero_label', _config_reduces(config))))


def _config_reduces(config: Config) -> bool:
    """`reduce_zero_label` of a config's data set, or of its class; that of detectors does not know it."""
    _, dataset = next(datasets_of(config, ['test']))
    parameters = [inspect.signature(kind).parameters for kind in getattr(dataset_class(config, dataset), '__mro__', ())[:-1]]
    defaults = (known['reduce_zero_label'].default for known in parameters if 'reduce_zero_label' in known)
    return dataset.get('reduce_zero_label', next(defaults, False))


def _config_palette(config: Config, classes: Sequence[str]) -> object:
    _, dataset = next(datasets_of(config, ['test']))
    if tuple(config_classes(config)) != tuple(classes):
        return None
    own = (dataset.get('metainfo') or {}).get('palette')
    return own or getattr(dataset_class(config, dataset), 'METAINFO', {}).get('palette')


def _head_classes(part: object) -> int:
    """The largest `num_classes` within a model's config."""
    values = part.values() if isinstance(part, dict) else part if isinstance(part, list | tuple) else ()
    own = part.get('num_classes') if isinstance(part, dict) else None
    return max([own if isinstance(own, int) else 0, *map(_head_classes, values)])
