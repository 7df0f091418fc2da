"""What a pickle may make: a closed list of names, and for each a function of ours that checks what it is given."""

import argparse
import math
import pickle
import re
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

MAX_EXPANDED = 2**20  # elements of a tensor that repeats those of its storage
MAX_DIMENSIONS = 64
MAX_KEY = 64  # parts of a key that is a tuple, those of tuples in it too
MAX_ALIKE = 16  # keys of one hash; where there are more, a dict takes for ever to fill
_STATISTICS = ('min', 'max', 'current', 'mean')
_PLAIN_KEYS = (str, bytes, int, float, bool, type(None), torch.dtype, numpy.generic)


class RefusedError(pickle.UnpicklingError):
    """Reading would take more than data; the text names what."""


def named(value: object) -> str:
    """A short text in quotes, or only the type of what else a file holds: it may take for ever to print."""
    return repr(value[:40]) if isinstance(value, (str, bytes)) else f'of type {type(value).__name__}'


@dataclass
class Storage:
    """The bytes that tensors lie in, and the type of their elements."""

    content: Tensor  # [bytes], uint8
    dtype: torch.dtype


@dataclass(frozen=True)
class Maker:
    """What a name in a pickle stands for: a function of ours, the only thing that can be called."""

    make: Callable


@dataclass
class NumberType:
    """A numpy dtype on its way into an array or a scalar."""

    dtype: numpy.dtype

    def set_state(self, state: object) -> None:
        """As numpy writes it for plain types: only the byte order says anything."""
        _, order, *others = state
        if others[:3] != [None, None, None] or order not in ('<', '>', '|', '='):
            raise RefusedError('numpy.dtype with fields')
        self.dtype = self.dtype.newbyteorder(order)


def _number_type(code: str, *_) -> NumberType:
    if not isinstance(code, str) or not re.fullmatch(r'[<>|=]?(?:[biufcSU]\d{1,9}|\?)', code):
        raise RefusedError(f'numpy.dtype({named(code)})')
    return NumberType(numpy.dtype(code))


def _scalar(kind: NumberType, content: bytes) -> numpy.generic:
    if not isinstance(kind, NumberType) or not isinstance(content, bytes) or len(content) != kind.dtype.itemsize:
        raise ValueError('a numpy number of the wrong length')
    return _view(content, kind.dtype, ())[()]


def _view(content: bytes | bytearray, dtype: numpy.dtype, shape: tuple, order: str = 'C') -> numpy.ndarray:
    if dtype.kind == 'U' and content and (numpy.frombuffer(content, f'{dtype.str[0]}u4') > sys.maxunicode).any():
        raise ValueError('a text that is no Unicode')
    return numpy.ndarray(shape, dtype, content, order=order)


def _array(content: bytes | bytearray, kind: NumberType, shape: tuple, order: str, axes: object = None) -> numpy.ndarray:
    """How protocol 5 writes arrays; in the order 'K' with the axes as they lie in memory."""
    _check_array(content, kind, shape)
    if order == 'K' and are_sizes(axes):
        return _view(content, kind.dtype, shape).transpose(axes)
    if order not in ('C', 'F'):
        raise ValueError('a numpy array of an unknown order')
    return _view(content, kind.dtype, shape, order)


def _check_array(content: object, kind: object, shape: object) -> None:
    if not isinstance(kind, NumberType) or not isinstance(content, (bytes, bytearray)):
        raise RefusedError('numpy.ndarray of objects')
    if not are_sizes(shape) or math.prod(shape) * kind.dtype.itemsize != len(content):
        raise ValueError('a numpy array of the wrong length')


def _set_array(array: numpy.ndarray, state: tuple) -> None:
    _, shape, kind, is_fortran, content = state
    _check_array(content, kind, shape)
    if array.shape != (0,) or type(content) is not bytes:
        raise ValueError('a numpy array that is there already')
    _view(content, kind.dtype, shape)
    array.__setstate__((1, shape, kind.dtype, bool(is_fortran), content))


def _set_history(history: HistoryBuffer, state: Mapping) -> None:
    """Numbers alone: MMEngine's own way would replace the class's functions by those that the file names."""
    logs, counts, length = state['_log_history'], state['_count_history'], state['max_length']
    for values in (logs, counts):
        if not isinstance(values, numpy.ndarray) or values.ndim != 1 or values.dtype.kind not in 'biuf':
            raise ValueError('a history of what are no numbers')
    if len(logs) != len(counts) or type(length) is not int:
        raise ValueError('a history of the wrong length')
    history._log_history, history._count_history, history.max_length = logs, counts, length


def _set_metadata(weights: OrderedDict, state: Mapping) -> None:
    """The versions of the layers, by which PyTorch reads old weights."""
    versions = state.get('_metadata') if isinstance(state, Mapping) else None
    if isinstance(versions, Mapping):
        weights._metadata = OrderedDict((key, dict(version=value['version'])) for key, value in versions.items()
                                        if isinstance(value, Mapping) and type(value.get('version')) is int)


def _set_namespace(namespace: argparse.Namespace, state: Mapping) -> None:
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise ValueError('arguments without names')
    vars(namespace).update(state)


def _statistic(owner: object, name: str) -> None:
    """Stands in for `getattr`, by which protocol 2 names the four functions of a history."""
    if owner is not _HISTORY or name not in _STATISTICS:
        raise RefusedError('builtins.getattr')


def are_sizes(values: object) -> bool:
    """Whether something is a shape, or what else goes by dimensions."""
    return (isinstance(values, tuple) and len(values) <= MAX_DIMENSIONS
            and all(type(value) is int and 0 <= value < 2**62 for value in values))


def _tensor(storage: Storage, offset: int, size: tuple, stride: tuple, *others, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor within its storage, which PyTorch would enlarge. Hooks and whether it needs a gradient are left out."""
    if not isinstance(storage, Storage) or not are_sizes((offset,)) or not are_sizes(size) or not are_sizes(stride):
        raise ValueError('a tensor without a storage')
    if any(isinstance(other, dict) and other and not isinstance(other, OrderedDict) for other in others):
        raise RefusedError('a conjugate or negative view of a tensor')
    values = storage.content.view(dtype or storage.dtype)
    count = math.prod(size)
    end = offset + (sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1 if count else 0)
    if end > len(values) or (count > len(values) and count > MAX_EXPANDED):
        raise ValueError('a tensor beyond its storage')
    return values.as_strided(size, stride, offset)


def _tensor_of_type(storage: Storage, offset: int, size: tuple, stride: tuple, gradient: bool, hooks: Mapping,
                    dtype: torch.dtype, *metadata) -> Tensor:
    if not isinstance(dtype, torch.dtype) or dtype.itemsize == 0:
        raise ValueError('a tensor of no type')
    return _tensor(storage, offset, size, stride, *metadata, dtype=dtype)


def _parameter(data: Tensor, *_) -> Tensor:
    if not isinstance(data, Tensor):
        raise ValueError('a parameter without a tensor')
    return data


def _latin1(text: str, encoding: str) -> bytes:
    """How protocol 2 writes bytes."""
    if encoding not in ('latin1', 'latin-1'):
        raise RefusedError(f'_codecs.encode to {named(encoding)}')
    return text.encode('latin1')


def _of(kind: type | tuple, make: Callable, at_most: int = 1) -> Callable:
    """`make`, for no more than `at_most` arguments, each of a type."""

    def checked(*arguments) -> object:
        if len(arguments) > at_most or not all(isinstance(argument, kind) for argument in arguments):
            raise ValueError('arguments of a wrong type')
        return make(*arguments)

    return checked


def _set(items: list = ()) -> set:
    check_keys(items, {})
    return set(items)


def _pairs(items: list = ()) -> OrderedDict:
    check_keys([key for key, _ in items], {})
    return OrderedDict(items)


def check_keys(keys: Iterable, known: dict[int, list]) -> None:
    """Whether keys are quick to hash and to tell from one another.

    Args:
        keys: to be put into a dict or a set.
        known: earlier ones by their hashes, texts left out; they are added.

    Raises:
        RefusedError: they are not.
    """
    for key in keys:
        if type(key) is str:  # hashed once, and with a secret
            continue
        if not _is_plain_key(key):
            raise RefusedError(f'a {type(key).__name__} as a key, or a long one')
        alike = known.setdefault(hash(key), [])
        if key not in alike:
            alike.append(key)
        if len(alike) > MAX_ALIKE:
            raise RefusedError('many keys of one hash')


def _is_plain_key(key: object) -> bool:
    waiting, count = [key], 0
    while waiting:
        part = waiting.pop()
        if not isinstance(part, (tuple, *_PLAIN_KEYS)) or (isinstance(part, int) and not -2**63 <= part < 2**64):
            return False
        count += len(part) if isinstance(part, tuple) else 0
        if count > MAX_KEY:
            return False
        waiting += part if isinstance(part, tuple) else ()
    return True


def _makers() -> dict[str, object]:
    """Every name that a pickle may use, and what it stands for."""
    makers = {
        'collections.OrderedDict': _of(list, _pairs), 'collections.Counter': _of(dict, Counter), 'builtins.set': _of(list, _set),
        'builtins.frozenset': _of(list, lambda *items: frozenset(_set(*items))), 'builtins.bytearray': _of(bytes, bytearray),
        'builtins.bytes': _of(bytes, bytes), 'builtins.complex': _of((int, float), complex, 2), '_codecs.encode': _latin1,
        'builtins.getattr': _statistic, 'argparse.Namespace': _of((), argparse.Namespace, 0),
        'numpy.dtype': _number_type, 'torch.Size': _of((tuple, list), lambda size: torch.Size(map(int, size))),
        'torch.device': _of((str, int), torch.device, 2), 'torch._utils._rebuild_tensor': _tensor,
        'torch._utils._rebuild_tensor_v2': _tensor, 'torch._utils._rebuild_tensor_v3': _tensor_of_type,
        'torch._utils._rebuild_parameter': _parameter, 'torch._utils._rebuild_parameter_with_state': _parameter,
        'torch.nn.parameter.Parameter': _parameter}
    for module in ('numpy._core.multiarray', 'numpy.core.multiarray'):  # as numpy 2 and numpy 1 name it
        makers |= {f'{module}._reconstruct': lambda *_: numpy.empty(0), f'{module}.scalar': _scalar}
    makers |= {f'numpy.{core}.numeric._frombuffer': _array for core in ('_core', 'core')}
    names = {name: Maker(make) for name, make in makers.items()}
    history = 'mmengine.logging.history_buffer.HistoryBuffer'
    names |= {history: _HISTORY} | {f'{history}.{name}': None for name in _STATISTICS}  # the latter are not taken from files
    names['numpy.ndarray'] = 'numpy.ndarray'  # only ever an argument
    names |= {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype) and _IS_NUMBER(str(value))}
    return names | {f'torch.{name}': dtype for name, dtype in _STORAGES.items()}


# Quantised types, and those smaller than a byte, are left out.
_IS_NUMBER = re.compile(r'torch\.(bool|u?int(8|16|32|64)|b?float(8|16|32|64)\w*|complex\d+)').fullmatch
_HISTORY = Maker(_of((), HistoryBuffer, 0))
_STORAGES = {
    'DoubleStorage': torch.float64, 'FloatStorage': torch.float32, 'HalfStorage': torch.float16,
    'BFloat16Storage': torch.bfloat16, 'LongStorage': torch.int64, 'IntStorage': torch.int32, 'ShortStorage': torch.int16,
    'CharStorage': torch.int8, 'ByteStorage': torch.uint8, 'BoolStorage': torch.bool, 'ComplexFloatStorage': torch.complex64,
    'ComplexDoubleStorage': torch.complex128, 'storage.UntypedStorage': torch.uint8}
NAMES = _makers()
SETTERS = {numpy.ndarray: _set_array, HistoryBuffer: _set_history, OrderedDict: _set_metadata,
            argparse.Namespace: _set_namespace, NumberType: NumberType.set_state}
