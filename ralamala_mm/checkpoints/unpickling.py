"""Unpickling that makes nothing but data, and no more of it than a file of its size may.

A pickle is a program: it names functions, and calls them. Here a name leads to one of the few functions of `pickle_allowlist`,
each of which checks what it is given, or to a refusal; nothing is imported or called because a file asks for it.
"""

import argparse
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import BinaryIO

import torch

from .pickle_allowlist import NAMES, SETTERS, Maker, RefusedError, Storage, are_sizes, check_keys, named

# What is made is paid for by its bytes in memory, about. Every byte of a file is good for so many, as most are for tensors' names
# and places; no file gets more than 2 GiB, beside its tensors.
_BASE, _PER_BYTE, _LARGEST = 2**26, 48, 2**31
_PER_READ = 32  # an instruction, or its argument
_PER_ITEM = 64  # of a container that is copied
_PER_CALL = 512
_PER_STATE = 6  # times the size of a state, of which some make a dict for each entry
_PER_CONTAINER = dict(EMPTY_SET=256, EMPTY_LIST=64, EMPTY_DICT=64, MEMOIZE=96)

MAX_NESTING = 100
MAX_WALK = 2**20  # items met in walking over everything, beside those that are there
# What torch.save writes in its protocol 2 and in 3 to 5. Left out: text instead of binary, and further ways to call.
_INSTRUCTIONS = (
    'PROTO', 'FRAME', 'STOP', 'MARK', 'NONE', 'NEWTRUE', 'NEWFALSE', 'BININT', 'BININT1', 'BININT2', 'LONG1', 'LONG4', 'BINFLOAT',
    'BINSTRING', 'SHORT_BINSTRING', 'BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8', 'BINBYTES', 'SHORT_BINBYTES', 'BINBYTES8',
    'EMPTY_LIST', 'EMPTY_DICT', 'EMPTY_SET', 'EMPTY_TUPLE', 'TUPLE', 'TUPLE1', 'TUPLE2', 'TUPLE3', 'APPEND', 'APPENDS', 'SETITEM',
    'SETITEMS', 'ADDITEMS', 'GLOBAL', 'STACK_GLOBAL', 'REDUCE', 'NEWOBJ', 'BUILD', 'BINPUT', 'LONG_BINPUT', 'MEMOIZE', 'BINGET',
    'LONG_BINGET', 'BINPERSID', 'BYTEARRAY8', 'FROZENSET')


def check_nesting(content: object) -> None:
    """Whether those who walk over something come to an end, and soon.

    Raises:
        ValueError: it holds itself, is nested too deeply, or shares containers so that walks meet far more than there is.
    """
    depths: dict[int, int] = {}  # by id; 0 while what is inside is inspected
    lengths: dict[int, int] = {}  # by id: how many items a walk meets
    count = 0
    stack = [content]
    while stack:
        thing = stack[-1]
        if depths.get(id(thing)):  # met before, on another way
            stack.pop()
            continue
        items = _items(thing)
        inside = [item for item in items if isinstance(item, _CONTAINER_TYPES)]
        if id(thing) not in depths:
            depths[id(thing)] = 0
            count += len(items)
            stack += [item for item in inside if id(item) not in depths]
            continue
        if any(depths[id(item)] == 0 for item in inside):
            raise ValueError('a container that holds itself')
        depths[id(thing)] = 1 + max((depths[id(item)] for item in inside), default=0)
        lengths[id(thing)] = len(items) + sum(lengths[id(item)] for item in inside)
        if depths[id(thing)] > MAX_NESTING:
            raise ValueError('containers nested too deeply')
        stack.pop()
    if lengths[id(content)] > MAX_WALK + 16 * count:
        raise ValueError('containers shared too often')


_CONTAINER_TYPES = (dict, list, tuple, set, frozenset, argparse.Namespace)


def _items(thing: object) -> Collection:
    if isinstance(thing, argparse.Namespace):
        thing = vars(thing)
    return list(thing.values()) if isinstance(thing, dict) else thing if isinstance(thing, _CONTAINER_TYPES) else ()


def _size(thing: object) -> int:
    """Bytes in memory of a copy, about."""
    if isinstance(thing, (str, bytes, bytearray)):
        return len(thing)
    return _PER_ITEM * len(thing) if isinstance(thing, (list, tuple, dict)) else 0


class _Source:
    """A file that gives what it has, and only as much as its size is good for."""

    def __init__(self, file: BinaryIO, end: int):
        self.file, self.end, self.memory_left = file, end, min(_BASE + _PER_BYTE * end, _LARGEST)

    def charge(self, count: int) -> None:
        self.memory_left -= count
        if self.memory_left < 0:
            raise RefusedError('far more objects than files of its size have')

    def read(self, count: int) -> bytes:
        self.charge(_PER_READ)
        if count > self.end - self.file.tell():
            raise EOFError('the pickle is cut short')
        return self.file.read(count)

    def readline(self) -> bytes:
        return self.file.readline(1000)

    def readinto(self, buffer: bytearray) -> int:
        return self.file.readinto(buffer)


def _paying(name: str, cost: int) -> Callable:
    instruction = pickle._Unpickler.dispatch[getattr(pickle, name)[0]]

    def paying(unpickler: 'DataUnpickler') -> None:
        unpickler.charge(cost)
        instruction(unpickler)

    return paying


class DataUnpickler(pickle._Unpickler):
    """Python's own unpickler with fewer instructions, and with the names above.

    Args:
        file: at the beginning of a pickle; left at its end.
        size: bytes of the whole file.
        storage: gives the storage for what a pickle says of it: type, key, place, number of elements, ….
    """

    dispatch = {getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]] for name in _INSTRUCTIONS}

    def __init__(self, file: BinaryIO, size: int, storage: Callable[..., Storage] | None = None):
        source = _Source(file, size)
        super().__init__(source, encoding='utf-8')
        self.make_storage, self.charge = storage, source.charge
        self.known_keys: dict[int, list] = {}

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
        if full_name not in NAMES:
            raise RefusedError(full_name[:200])
        return NAMES[full_name]

    def persistent_load(self, identity: object) -> Storage:
        kind, *others = identity if isinstance(identity, tuple) else (None,)
        if kind not in ('storage', b'storage') or self.make_storage is None:
            raise RefusedError(f'a persistent id {named(kind)}')
        dtype, key, _, count, *view = others
        if not isinstance(dtype, torch.dtype) or not isinstance(key, (str, bytes)) or not are_sizes((count,)) or any(view):
            raise ValueError('a storage without type or size')
        return self.make_storage(dtype, key.decode() if isinstance(key, bytes) else key, count)

    def _mark(self) -> None:
        if len(self.metastack) > 2 * MAX_NESTING:
            raise ValueError('containers nested too deeply')
        self.load_mark()

    def _call(self) -> None:
        arguments = self.stack.pop()
        maker = self.stack[-1]
        if not isinstance(maker, Maker) or not isinstance(arguments, tuple):
            raise RefusedError(f'a call of a {type(maker).__name__}')
        self.charge(_PER_CALL + sum(map(_size, arguments)))
        self.stack[-1] = maker.make(*arguments)

    def _build(self) -> None:
        state = self.stack.pop()
        thing = self.stack[-1]
        setter = SETTERS.get(type(thing))
        if setter is None:
            raise RefusedError(f'a state for a {type(thing).__name__}')
        parts = state.values() if isinstance(state, dict) else state if isinstance(state, tuple) else ()
        self.charge(_PER_STATE * (_size(state) + sum(map(_size, parts))))
        setter(thing, state)

    def _set_item(self) -> None:
        self._set_items_of([self.stack.pop(-2), self.stack.pop()])

    def _set_items(self) -> None:
        self._set_items_of(self.pop_mark())

    def _set_items_of(self, items: list) -> None:
        target = self.stack[-1]
        if type(target) not in (dict, OrderedDict):
            raise RefusedError(f'entries for a {type(target).__name__}')
        check_keys(items[::2], self.known_keys)
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
        check_keys(items, self.known_keys)
        self.stack[-1].update(items)

    def _push_frozenset(self) -> None:
        items = self.pop_mark()
        check_keys(items, self.known_keys)
        self.append(frozenset(items))

    def _skip_frame_size(self) -> None:
        """A frame only says how much to read ahead."""
        struct.unpack('<Q', self.read(8))

    def _push_bytearray(self) -> None:
        """Python's own way makes room for as much as the file says, before it reads."""
        (count,) = struct.unpack('<Q', self.read(8))
        self.append(bytearray(self.read(count)))

    dispatch |= {getattr(pickle, name)[0]: function for name, function in dict(
        {name: _paying(name, cost) for name, cost in _PER_CONTAINER.items()},
        MARK=_mark, REDUCE=_call, NEWOBJ=_call, BUILD=_build, SETITEM=_set_item, SETITEMS=_set_items, APPEND=_append,
        APPENDS=_appends, ADDITEMS=_add_items, FRAME=_skip_frame_size, BYTEARRAY8=_push_bytearray,
        FROZENSET=_push_frozenset).items()}


_REFUSED_INSTRUCTIONS = {code: pickle._Unpickler.dispatch[code].__name__.removeprefix('load_').upper()
                         for code in pickle._Unpickler.dispatch.keys() - DataUnpickler.dispatch.keys()}
