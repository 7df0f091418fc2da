"""Unpickling that makes nothing but data: a closed list of what may be made, and bounds on how much.

A pickle is a program: it names functions, and calls them. Here a name leads to one of the few functions below, each of which
checks what it is given, or to a refusal; nothing is imported or called because a file asks for it.
"""

import argparse
import math
import pickle
import re
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import BinaryIO

import numpy
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

MAX_STEPS = 20_000_000  # instructions of a pickle; checkpoints of detectors take some ten thousand
MAX_EXPANDED = 2**20  # elements of a tensor that repeats those of its storage
MAX_NESTING = 100
_STATISTICS = ('min', 'max', 'current', 'mean')
_PLAIN_KEYS = (str, bytes, int, float, bool, type(None), torch.dtype, numpy.generic)


class RefusedError(pickle.UnpicklingError):
    """Reading would take more than data; the text names what."""


def _named(value: object) -> str:
    """A short text in quotes, or only the type of what else a file holds: it may take for ever to print."""
    return repr(value[:40]) if isinstance(value, (str, bytes)) else f'of type {type(value).__name__}'


@dataclass
class Storage:
    """The bytes that tensors lie in, and the type of their elements."""

    content: Tensor  # [bytes], uint8
    dtype: torch.dtype


@dataclass(frozen=True)
class _Maker:
    """What a name in a pickle stands for: a function of ours, the only thing that can be called."""

    make: Callable


@dataclass
class _NumberType:
    """A numpy dtype on its way into an array or a scalar."""

    dtype: numpy.dtype

    def set_state(self, state: object) -> None:
        """As numpy writes it for plain types: only the byte order says anything."""
        _, order, *others = state
        if others[:3] != [None, None, None] or order not in ('<', '>', '|', '='):
            raise RefusedError('numpy.dtype with fields')
        self.dtype = self.dtype.newbyteorder(order)


def _number_type(code: str, *_) -> _NumberType:
    if not isinstance(code, str) or not re.fullmatch(r'[<>|=]?(?:[biufcSU]\d{1,9}|\?)', code):
        raise RefusedError(f'numpy.dtype({_named(code)})')
    return _NumberType(numpy.dtype(code))


def _scalar(kind: _NumberType, content: bytes) -> numpy.generic:
    if not isinstance(kind, _NumberType) or not isinstance(content, bytes) or len(content) != kind.dtype.itemsize:
        raise ValueError('a numpy number of the wrong length')
    return numpy.frombuffer(content, kind.dtype)[0]


def _set_array(array: numpy.ndarray, state: tuple) -> None:
    _, shape, kind, is_fortran, content = state
    if not isinstance(kind, _NumberType) or not isinstance(content, bytes):
        raise RefusedError('numpy.ndarray of objects')
    if not _are_sizes(shape) or math.prod(shape) * kind.dtype.itemsize != len(content):
        raise ValueError('a numpy array of the wrong length')
    array.__setstate__((1, shape, kind.dtype, bool(is_fortran), content))
    if array.dtype.kind == 'U':
        array.tolist()  # raises where text is no Unicode


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


def _are_sizes(values: object) -> bool:
    return isinstance(values, tuple) and all(type(value) is int and 0 <= value < 2**62 for value in values)


def _tensor(storage: Storage, offset: int, size: tuple, stride: tuple, *others, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor within its storage, which PyTorch would enlarge. Hooks and whether it needs a gradient are left out."""
    if not isinstance(storage, Storage) or not _are_sizes((offset,)) or not _are_sizes(size) or not _are_sizes(stride):
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
        raise RefusedError(f'_codecs.encode to {_named(encoding)}')
    return text.encode('latin1')


def _of(kind: type | tuple, make: Callable, at_most: int = 1) -> Callable:
    """`make`, for no more than `at_most` arguments, each of a type."""

    def checked(*arguments) -> object:
        if len(arguments) > at_most or not all(isinstance(argument, kind) for argument in arguments):
            raise ValueError('arguments of a wrong type')
        return make(*arguments)

    return checked


def _set(items: list) -> set:
    _check_keys(items)
    return set(items)


def _pairs(items: list = ()) -> OrderedDict:
    _check_keys([key for key, _ in items])
    return OrderedDict(items)


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
    names = {name: _Maker(make) for name, make in makers.items()}
    history = 'mmengine.logging.history_buffer.HistoryBuffer'
    names |= {history: _HISTORY} | {f'{history}.{name}': None for name in _STATISTICS}  # the latter are not taken from files
    names['numpy.ndarray'] = 'numpy.ndarray'  # only ever an argument
    names |= {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype) and _IS_NUMBER(str(value))}
    return names | {f'torch.{name}': dtype for name, dtype in _STORAGES.items()}


# Quantised types, and those smaller than a byte, are left out.
_IS_NUMBER = re.compile(r'torch\.(bool|u?int(8|16|32|64)|b?float(8|16|32|64)\w*|complex\d+)').fullmatch
_HISTORY = _Maker(_of((), HistoryBuffer, 0))
_STORAGES = {
    'DoubleStorage': torch.float64, 'FloatStorage': torch.float32, 'HalfStorage': torch.float16,
    'BFloat16Storage': torch.bfloat16, 'LongStorage': torch.int64, 'IntStorage': torch.int32, 'ShortStorage': torch.int16,
    'CharStorage': torch.int8, 'ByteStorage': torch.uint8, 'BoolStorage': torch.bool, 'ComplexFloatStorage': torch.complex64,
    'ComplexDoubleStorage': torch.complex128, 'storage.UntypedStorage': torch.uint8}
_NAMES = _makers()
_SETTERS = {numpy.ndarray: _set_array, HistoryBuffer: _set_history, OrderedDict: _set_metadata,
            argparse.Namespace: _set_namespace, _NumberType: _NumberType.set_state}
# What torch.save writes in its protocol 2 and in 3 to 5. Left out: text instead of binary, and further ways to call.
_INSTRUCTIONS = (
    'PROTO', 'FRAME', 'STOP', 'MARK', 'NONE', 'NEWTRUE', 'NEWFALSE', 'BININT', 'BININT1', 'BININT2', 'LONG1', 'LONG4', 'BINFLOAT',
    'BINSTRING', 'SHORT_BINSTRING', 'BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8', 'BINBYTES', 'SHORT_BINBYTES', 'BINBYTES8',
    'EMPTY_LIST', 'EMPTY_DICT', 'EMPTY_SET', 'EMPTY_TUPLE', 'TUPLE', 'TUPLE1', 'TUPLE2', 'TUPLE3', 'APPEND', 'APPENDS', 'SETITEM',
    'SETITEMS', 'ADDITEMS', 'GLOBAL', 'STACK_GLOBAL', 'REDUCE', 'NEWOBJ', 'BUILD', 'BINPUT', 'LONG_BINPUT', 'MEMOIZE', 'BINGET',
    'LONG_BINGET', 'BINPERSID')


def _check_keys(keys: list) -> None:
    """Nested tuples take for ever to hash."""
    for key in keys:
        parts = key if type(key) is tuple else (key,)
        if not all(isinstance(part, _PLAIN_KEYS) for part in parts):
            raise ValueError(f'a {type(key).__name__} as a key')


def check_nesting(content: object) -> None:
    """Raises ValueError for containers that hold themselves or are nested too deeply for those who walk over them."""
    depths: dict[int, int] = {}  # by id; 0 while what is inside is looked at
    stack = [content]
    while stack:
        thing = stack[-1]
        inside = _inside(thing)
        waiting = [item for item in inside if id(item) not in depths]
        if id(thing) not in depths:
            depths[id(thing)] = 0
            stack += waiting
            continue
        if any(depths[id(item)] == 0 for item in inside):
            raise ValueError('a container that holds itself')
        depths[id(thing)] = 1 + max((depths[id(item)] for item in inside), default=0)
        if depths[id(thing)] > MAX_NESTING:
            raise ValueError('containers nested too deeply')
        stack.pop()


def _inside(thing: object) -> list:
    """The containers directly inside one."""
    if isinstance(thing, argparse.Namespace):
        thing = vars(thing)
    items = list(thing.values()) if isinstance(thing, dict) else thing if isinstance(thing, (list, tuple)) else ()
    return [item for item in items if isinstance(item, (dict, list, tuple, argparse.Namespace))]


class _Source:
    """A file that gives what it has, and only so many times."""

    def __init__(self, file: BinaryIO, end: int):
        self.file, self.end, self.steps = file, end, 0

    def read(self, count: int) -> bytes:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise RefusedError(f'a pickle of more than {MAX_STEPS} instructions')
        if count > self.end - self.file.tell():
            raise EOFError('the pickle is cut short')
        return self.file.read(count)

    def readline(self) -> bytes:
        return self.file.readline(1000)

    def readinto(self, buffer: bytearray) -> int:
        return self.file.readinto(buffer)


class DataUnpickler(pickle._Unpickler):
    """Python's own unpickler with fewer instructions, and with the names above.

    Args:
        file: at the beginning of a pickle; left at its end.
        size: bytes of the whole file.
        storage: gives the storage for what a pickle says of it: type, key, place, number of elements, ….
    """

    dispatch = {getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]] for name in _INSTRUCTIONS}

    def __init__(self, file: BinaryIO, size: int, storage: Callable[..., Storage] | None = None):
        super().__init__(_Source(file, size), encoding='utf-8')
        self.make_storage = storage
        self.memory_left = 4 * size + 2**24

    def load(self) -> object:
        """The object that the pickle describes.

        Raises:
            RefusedError: it would take more than data.
        """
        try:
            return super().load()
        except KeyError as error:
            if error.args and error.args[0] in _REFUSED_INSTRUCTIONS:
                raise RefusedError(f'instruction {_REFUSED_INSTRUCTIONS[error.args[0]]}') from error
            raise

    def find_class(self, module: str, name: str) -> object:
        full_name = f'{module}.{name}'.replace('__builtin__.', 'builtins.')
        if full_name not in _NAMES:
            raise RefusedError(full_name)
        return _NAMES[full_name]

    def persistent_load(self, identity: object) -> Storage:
        kind, *others = identity if isinstance(identity, tuple) else (None,)
        if kind not in ('storage', b'storage') or self.make_storage is None:
            raise RefusedError(f'a persistent id {_named(kind)}')
        dtype, key, _, count, *view = others
        if not isinstance(dtype, torch.dtype) or not isinstance(key, (str, bytes)) or not _are_sizes((count,)) or any(view):
            raise ValueError('a storage without type or size')
        return self.make_storage(dtype, key.decode() if isinstance(key, bytes) else key, count)

    def _call(self) -> None:
        arguments = self.stack.pop()
        maker = self.stack[-1]
        if not isinstance(maker, _Maker) or not isinstance(arguments, tuple):
            raise RefusedError(f'a call of a {type(maker).__name__}')
        self.memory_left -= sum(len(argument) for argument in arguments if isinstance(argument, (str, bytes, list, dict, tuple)))
        if self.memory_left < 0:
            raise ValueError('far more data than the file has bytes')
        self.stack[-1] = maker.make(*arguments)

    def _build(self) -> None:
        state = self.stack.pop()
        thing = self.stack[-1]
        setter = _SETTERS.get(type(thing))
        if setter is None:
            raise RefusedError(f'a state for a {type(thing).__name__}')
        if type(thing) is numpy.ndarray:
            self.memory_left -= len(state[-1])
            if self.memory_left < 0:
                raise ValueError('far more data than the file has bytes')
        setter(thing, state)

    def _set_item(self) -> None:
        self._set_items_of([self.stack.pop(-2), self.stack.pop()])

    def _set_items(self) -> None:
        self._set_items_of(self.pop_mark())

    def _set_items_of(self, items: list) -> None:
        target = self.stack[-1]
        if type(target) not in (dict, OrderedDict, Counter):
            raise RefusedError(f'entries for a {type(target).__name__}')
        _check_keys(items[::2])
        target.update(zip(items[::2], items[1::2], strict=True))

    def _append(self) -> None:
        self._append_to([self.stack.pop()])

    def _appends(self) -> None:
        self._append_to(self.pop_mark())

    def _append_to(self, items: list) -> None:
        if type(self.stack[-1]) is not list:
            raise RefusedError(f'items for a {type(self.stack[-1]).__name__}')
        self.stack[-1].extend(items)

    def _add_items(self) -> None:
        items = self.pop_mark()
        if type(self.stack[-1]) is not set:
            raise RefusedError(f'members for a {type(self.stack[-1]).__name__}')
        _check_keys(items)
        self.stack[-1].update(items)

    def _skip_frame_size(self) -> None:
        """A frame only says how much to read ahead."""
        struct.unpack('<Q', self.read(8))

    dispatch |= {getattr(pickle, name)[0]: function for name, function in dict(
        REDUCE=_call, NEWOBJ=_call, BUILD=_build, SETITEM=_set_item, SETITEMS=_set_items, APPEND=_append, APPENDS=_appends,
        ADDITEMS=_add_items, FRAME=_skip_frame_size).items()}


_REFUSED_INSTRUCTIONS = {code: pickle._Unpickler.dispatch[code].__name__.removeprefix('load_').upper()
                         for code in pickle._Unpickler.dispatch.keys() - DataUnpickler.dispatch.keys()}
