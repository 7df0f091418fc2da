"""A config's model without a runner: to count it, or to compare weights with it."""

import copy
from importlib import import_module

from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from ralamala_mm.errors import UserError


def build_model(config: Config) -> nn.Module:
    """The config's model on the CPU in evaluation mode, with random weights.

    Raises:
        UserError: the config has no model.
    """
    if 'model' not in config:
        raise UserError(f'config {config.filename} has no model')
    model, preprocessor = copy.deepcopy((config.model, config.get('data_preprocessor')))
    if preprocessor is not None:
        model.setdefault('data_preprocessor', preprocessor)  # as MMEngine's runner does
    scope = config.get('default_scope') or 'mmengine'
    if scope in ('mmdet', 'mmseg'):
        import_module(f'{scope}.models')
    with DefaultScope.overwrite_default_scope(scope):
        return revert_sync_batchnorm(MODELS.build(model)).eval()
