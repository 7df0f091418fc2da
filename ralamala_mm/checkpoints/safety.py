"""Unpickling without running code: PyTorch's safe loading, taught the plain types that checkpoints hold beside tensors.

Importing this also lets MMEngine 0.10.7 resume its own checkpoints on torch >= 2.6 (open-mmlab/mmengine issue 1641).
"""

import argparse
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy
import torch
from mmengine.logging import HistoryBuffer
from torch import _weights_only_unpickler

_numpy_core = numpy._core if hasattr(numpy, '_core') else numpy.core
_STATISTICS = ('min', 'max', 'current', 'mean')


def _statistic_of_history(owner: type, name: str) -> Callable:
    """Stands in for `getattr`, by which a HistoryBuffer names its four methods; anything else is refused."""
    if owner is not HistoryBuffer or name not in _STATISTICS:
        raise pickle.UnpicklingError(f'Unsupported global: GLOBAL getattr({owner}, {name}) was not allowed')
    return getattr(owner, name)


def _plain_types() -> dict[str, object]:
    """What may stand in a checkpoint beside PyTorch's own types, by the name in the pickle; all of it is data."""
    names = {f'{kind.__module__}.{kind.__qualname__}': kind for kind in (
        HistoryBuffer, argparse.Namespace, numpy.ndarray, numpy.dtype,
        *(type(numpy.dtype(name)) for name in ('float64', 'float32', 'int64', 'int32', 'uint32', 'bool')))}
    for module in ('numpy._core.multiarray', 'numpy.core.multiarray'):  # as numpy 2 and numpy 1 name it
        names[f'{module}._reconstruct'] = _numpy_core.multiarray._reconstruct
        names[f'{module}.scalar'] = _numpy_core.multiarray.scalar
    return names | {'builtins.getattr': _statistic_of_history}


_PLAIN_TYPES = _plain_types()
_TORCH_RELEASE = tuple(int(part) for part in torch.__version__.split('+')[0].split('.')[:2])
# Older releases cannot be taught a name for a function, and some cannot be taught at all.
_TORCH_CAN_BE_TAUGHT = _TORCH_RELEASE >= (2, 6)
if _TORCH_CAN_BE_TAUGHT:
    torch.serialization.add_safe_globals([(value, name) for name, value in _PLAIN_TYPES.items()])


class _RestrictedUnpickler(pickle.Unpickler):
    """For older releases of torch: finds what their safe loading allows, and the plain types."""

    def find_class(self, module: str, name: str) -> object:
        full_name = f'{module}.{name}'.replace('__builtin__.', 'builtins.')
        allowed = {**_weights_only_unpickler._get_allowed_globals(), **_PLAIN_TYPES, '_codecs.encode': _encode_latin1}
        if full_name not in allowed:
            raise pickle.UnpicklingError(f'Unsupported global: GLOBAL {full_name} was not allowed')
        return allowed[full_name]


def _encode_latin1(text: str, encoding: str) -> bytes:
    """How protocol 2 writes bytes."""
    return text.encode('latin1')


def load_with_restricted_pickle(path: Path) -> object:
    """Reads a checkpoint with a pickle module that finds nothing but what is allowed."""
    module = SimpleNamespace(__name__='restricted', Unpickler=_RestrictedUnpickler,
                             load=lambda file, **options: _RestrictedUnpickler(file, **options).load())
    return torch.load(path, map_location='cpu', pickle_module=module, weights_only=False)


def load_safely(path: Path) -> object:
    """Reads a checkpoint's content with tensors on the CPU.

    Raises:
        pickle.UnpicklingError: it would need something that is not plain data, see `refused_name`, or is no pickle.
    """
    if not _TORCH_CAN_BE_TAUGHT:
        return load_with_restricted_pickle(path)
    return torch.load(path, map_location='cpu', weights_only=True)


def load_trusting(path: Path) -> object:
    """Reads a checkpoint as Python's pickle does, running what it asks for."""
    return torch.load(path, map_location='cpu', weights_only=False)


def refused_name(error: Exception) -> str | None:
    """What was refused, if that is why reading failed."""
    match = re.search(r'(?:Unsupported global: GLOBAL|Unsupported class|load unsupported GLOBAL) (\S+)', str(error))
    return match.group(1) if match else None

