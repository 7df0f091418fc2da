"""MMEngine's own ways to a checkpoint, led through our reader: `Pretrained` of any module, `load_checkpoint`, model zoos.

The command lines call `read_safely_everywhere`; importing the package alone does not, so that those who only take the
backbones from here find MMEngine as they know it.
"""

import difflib
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping

import numpy
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import (
    CheckpointLoader,
    _get_mmengine_home,
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
)
from torch import Tensor

from ralamala_mm.errors import UserError

from .reading import find_weights, read_checkpoint

_PLACES = ('', 'http://', 'https://', 'pavi://', r'(\S+\:)?s3://', r'(\S+\:)?petrel://')  # as MMEngine names them
_MODEL_ZOOS: dict[str, Callable[[], dict[str, str]]] = {
    'torchvision://': get_torchvision_models, 'modelzoo://': get_torchvision_models, 'open-mmlab://': get_external_models,
    'openmmlab://': get_external_models, 'mmcls://': get_mmcls_models}


def read_safely_everywhere() -> None:
    """Puts our reader in the place of every loader that MMEngine has for checkpoints, for the rest of this process.

    `init_cfg=dict(type='Pretrained', …)` of any module and `mmengine.runner.load_checkpoint` then read without running code,
    in both stacks: MMEngine relies on PyTorch's default, on which an environment variable and releases before 2.6 have their
    own view, and OneDL's reads again with code allowed where that fails.
    """
    CheckpointLoader.register_scheme(_PLACES, load_from_data_alone, force=True)
    CheckpointLoader.register_scheme(tuple(_MODEL_ZOOS), load_from_model_zoo, force=True)


def load_from_data_alone(filename: str, map_location: object = None) -> dict:
    """A loader as MMEngine calls it; tensors are on the CPU, from where it copies them to the model.

    Raises:
        UserError: see `read_checkpoint`; or there are no weights.
    """
    content = read_checkpoint(filename)
    weights = content.get('state_dict', content)
    if isinstance(content, dict) and isinstance(weights, Mapping) and weights and all(
            isinstance(key, str) and isinstance(value, Tensor) for key, value in weights.items()):
        return content
    return dict(content, state_dict=OrderedDict(find_weights(content, filename)))


def load_from_model_zoo(filename: str, map_location: object = None) -> dict:
    """The weights that a model zoo knows by a name: `torchvision://resnet50`.

    Raises:
        UserError: it does not know the name; or see `read_checkpoint`.
    """
    scheme, _, name = filename.partition('//')
    known = _MODEL_ZOOS[f'{scheme}//']()
    name = get_deprecated_model_names().get(name, name) if known and 'lab' in scheme else name
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        raise UserError(f'{filename}: {scheme.rstrip(":")} has no weights of this name'
                        + (f'; did you mean {" or ".join(near)}?' if near else ''))
    location = known[name] if '://' in known[name] else os.path.join(_get_mmengine_home(), known[name])
    content = load_from_data_alone(location)
    if scheme != 'mmcls:':
        return content
    weights = content.get('state_dict', content)
    return dict(state_dict=OrderedDict((key.removeprefix('backbone.'), value) for key, value in weights.items()
                                       if key.startswith('backbone.')))


class _RecordedHistory(HistoryBuffer):
    """Becomes a history with the recorded numbers; its functions are not taken from the file."""

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update({key: state[key] for key in ('max_length', '_log_history', '_count_history')})
        self.__class__ = HistoryBuffer


def _statistic(owner: type, name: str) -> Callable:
    """Stands in for `getattr`, by which a history names its four functions; OneDL allows MMEngine's own class for ours."""
    if owner not in (_RecordedHistory, HistoryBuffer) or name not in ('min', 'max', 'current', 'mean'):
        raise ValueError(f'getattr({owner}, {name}) was not allowed')
    return getattr(owner, name)


def _let_mmengine_resume() -> None:
    """MMEngine 0.10.7 cannot read its own checkpoints on torch >= 2.6 (open-mmlab/mmengine issue 1641): teaches PyTorch's
    safe loading the types that they hold, for those who train with MMEngine's own tools."""
    if tuple(int(part) for part in torch.__version__.split('.')[:2]) < (2, 6):  # which cannot be taught a name for a function
        return
    core = numpy._core if hasattr(numpy, '_core') else numpy.core
    allowed = [(_RecordedHistory, 'mmengine.logging.history_buffer.HistoryBuffer'), (_statistic, 'builtins.getattr'),
               (numpy.ndarray, 'numpy.ndarray'), (numpy.dtype, 'numpy.dtype')]
    for module in ('numpy._core.multiarray', 'numpy.core.multiarray'):  # as numpy 2 and numpy 1 name it
        allowed += [(core.multiarray._reconstruct, f'{module}._reconstruct'), (core.multiarray.scalar, f'{module}.scalar')]
    for name in ('float64', 'float32', 'int64', 'int32', 'uint32', 'bool'):
        kind = type(numpy.dtype(name))
        allowed.append((kind, f'{kind.__module__}.{kind.__qualname__}'))
    torch.serialization.add_safe_globals(allowed)


_let_mmengine_resume()
