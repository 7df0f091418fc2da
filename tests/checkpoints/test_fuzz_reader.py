"""The reader of checkpoints under random files: it reads them or says why not, runs nothing, and takes little time and memory.

RALAMALA_FUZZ_EXAMPLES sets how many examples each test takes.
"""

import argparse
import io
import os
import pickle
import sys
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from limits import limited
from mmengine.logging import HistoryBuffer

from ralamala_mm import RAVLT
from ralamala_mm.checkpoints import (
    find_weights,
    load_weights,
    read_checkpoint,
    recorded_backbone,
    recorded_classes,
)
from ralamala_mm.checkpoints.convert import inspect_checkpoint, write_clean
from ralamala_mm.checkpoints.integrity import newest_complete
from ralamala_mm.checkpoints.loading import load_backbone_checkpoint
from ralamala_mm.errors import UserError

EXAMPLES = int(os.environ.get('RALAMALA_FUZZ_EXAMPLES', '60'))
TINY = dict(embed_dims=[16, 16, 32, 32], depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2])
MEMORY = 2**28  # bytes that all that is done with a file of some kilobytes may add at most
SECONDS = 10
fuzz = settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))

# What runs code, opens files or imports, as the interpreter itself reports it.
ALARMS = ('os.system', 'os.exec', 'os.fork', 'os.posix_spawn', 'subprocess.Popen', 'exec', 'compile', 'socket.connect',
          'os.remove', 'shutil.rmtree', 'os.mkdir', 'pickle.find_class', 'ctypes.dlopen', 'code.__new__')
alarms: list[str] = []
watching = False


def _listen(event: str, arguments: tuple) -> None:
    if watching and event.startswith(ALARMS):
        alarms.append(f'{event} {arguments!r:.200}')


sys.addaudithook(_listen)


@pytest.fixture(scope='module')
def backbone() -> RAVLT:
    return RAVLT(TINY)


def whole(weights: dict) -> dict:
    """A checkpoint with all that the tools' own hold."""
    return {
        'meta': {'epoch': 1, 'iter': 3, 'seed': np.int64(3), 'time': '2026', 'dataset_meta': {'classes': ('a', 'b')},
                 'cfg': "model = dict(backbone=dict(type='RAVLT'))", 'args': argparse.Namespace(lr=1e-3)},
        'state_dict': OrderedDict(weights),
        'optimizer': {'state': {0: {'step': torch.tensor(3.0), 'exp_avg': torch.zeros(4)}},
                      'param_groups': [{'lr': 1e-3, 'params': [0]}]},
        'message_hub': {'log_scalars': OrderedDict(loss=HistoryBuffer([1.0, 2.0], [1, 1])),
                        'runtime_info': {'map': np.float32(0.25)}}}


@pytest.fixture(scope='module')
def files(backbone: RAVLT, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Real files of a few kilobytes: both formats, both protocols, and what stands in the wild."""
    weights = {key: value for key, value in backbone.state_dict().items() if key.startswith('layers.0.')}
    made = []
    for legacy in (False, True):
        for protocol in (2, 5):
            for content in (whole(weights), {'model': weights}, weights, {'state_dict': {}, 'array': np.arange(3)}):
                stream = io.BytesIO()
                torch.save(content, stream, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
                made.append(stream.getvalue())
    path = a_file(tmp_path_factory)
    for content in made:  # what is imported on the way is imported once
        path.write_bytes(content)
        assert _everything(str(path), backbone)
    'a'.encode('cp437')  # by which zipfile reads names
    return made


def a_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The only one in its folder, as it is written anew each time."""
    folder = tmp_path_factory.getbasetemp() / 'fuzzed'
    folder.mkdir(exist_ok=True)
    return folder / 'a.pth'


def everything(path: Path, backbone: RAVLT) -> bool:
    """Takes a file through all that the package does with one; whether it held weights. Anything but a UserError comes out."""
    global watching
    alarms.clear()
    watching = True
    try:
        with warnings.catch_warnings(), limited(SECONDS, MEMORY):
            warnings.simplefilter('ignore')
            return _everything(str(path), backbone)
    finally:
        watching = False
        assert alarms == []


def _everything(path: str, backbone: RAVLT) -> bool:
    content, sentence = attempt(lambda: read_checkpoint(path))
    if sentence:
        assert path in sentence
        return False
    recorded_backbone(content)
    recorded_classes(content)
    uses: list[Callable] = [
        lambda: load_weights(backbone, find_weights(content, path), path),
        lambda: load_backbone_checkpoint(backbone, path, prefix='module'), lambda: newest_complete(Path(path).parent),
        lambda: write_clean(found := inspect_checkpoint(path), found.weights, path, Path(f'{path}.clean'))]
    for use in uses:
        str(attempt(use))
    return True


def attempt(use: Callable) -> tuple[object, str]:
    """What a function returns, or the sentence that it ends in."""
    try:
        found, sentence = use(), ''
    except UserError as error:
        found, sentence = None, error.sentence
    assert 'more memory than there is' not in sentence
    return found, sentence


@st.composite
def changes(draw: st.DrawFn) -> list[tuple]:
    """Edits of a file: bytes set, parts cut out, doubled or put elsewhere."""
    place = st.integers(0, 2**16)
    kinds = st.one_of(st.tuples(st.just('set'), place, st.binary(min_size=1, max_size=8)),
                      st.tuples(st.just('cut'), place, st.integers(1, 64)),
                      st.tuples(st.just('end'), place, st.just(0)),
                      st.tuples(st.just('copy'), place, st.tuples(place, st.integers(1, 64))))
    return draw(st.lists(kinds, min_size=1, max_size=6))


def changed(content: bytes, edits: list[tuple]) -> bytes:
    content = bytearray(content)
    for kind, place, what in edits:
        place %= max(len(content), 1)
        if kind == 'set':
            content[place:place + len(what)] = what
        elif kind == 'cut':
            del content[place:place + what]
        elif kind == 'end':
            del content[place:]
        else:
            source = what[0] % max(len(content), 1)
            content[place:place] = content[source:source + what[1]]
    return bytes(content)


@fuzz
@given(st.integers(0, 15), changes())
def test_changed_files(tmp_path_factory: pytest.TempPathFactory, files: list, backbone: RAVLT, which: int, edits: list):
    path = a_file(tmp_path_factory)
    path.write_bytes(changed(files[which % len(files)], edits))
    everything(path, backbone)


@fuzz
@given(st.integers(0, 15), changes())
def test_changed_pickles(tmp_path_factory: pytest.TempPathFactory, files: list, backbone: RAVLT, which: int, edits: list):
    """Changes within the pickle of an archive that is whole otherwise, which checksums would hide."""
    path = a_file(tmp_path_factory)
    with zipfile.ZipFile(io.BytesIO(files[which % 8])) as old, zipfile.ZipFile(path, 'w') as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, changed(content, edits) if name.endswith('data.pkl') else content)
    everything(path, backbone)


scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.binary(max_size=20),
                    st.sampled_from([np.int64(3), np.float32(np.nan), np.str_('a'), torch.float16, torch.Size([1, 2])]))
tensors = st.sampled_from([
    torch.zeros(()), torch.zeros(3, dtype=torch.int32), torch.full((16,), torch.nan), torch.zeros(2, 0, 3), torch.ones(4) > 0,
    torch.arange(12.0).view(3, 4).T[1:], torch.zeros(1).expand(1000), torch.zeros(2, dtype=torch.complex64),
    torch.zeros(4).bfloat16(), torch.nn.Parameter(torch.ones(2)), torch.zeros(3, device='meta'), torch.eye(3).to_sparse(),
    torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), torch.zeros(2, dtype=torch.float8_e4m3fn)])
arrays = st.sampled_from([np.arange(4), np.array('text'), np.array([1, 'a'], dtype=object), np.zeros((2, 0), dtype='>f4'),
                          np.zeros(2, dtype=[('a', 'i4')]), HistoryBuffer(), HistoryBuffer([1.0], [1])])
names = st.one_of(st.text(max_size=12), st.sampled_from([
    'state_dict', 'model', 'meta', 'optimizer', 'module.weight', 'layers.0.blocks.0.gamma_1', 'proj.weight', 'epoch', 'iter',
    'classes', 'backbone.layers.1.blocks.0.gamma_1', 'roi_head.mask_head.conv_logits.bias', 'roi_head.bbox_head.fc_cls.bias',
    'dataset_meta',
    'cfg', 'CLASSES', 'ralamala_mm', 'backbone', 'layers.0.RoPE.angle', 'extra_norms.0.norm.weight']))
keys = st.one_of(names, st.integers(), st.none(), st.tuples(st.integers(), st.text(max_size=3)))
anything = st.recursive(st.one_of(scalars, tensors, arrays), lambda inner: st.one_of(
    st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=4), st.tuples(inner, inner),
    st.dictionaries(names, inner, max_size=4).map(OrderedDict),
    st.dictionaries(st.text('abc', min_size=1, max_size=2), inner, max_size=2).map(lambda d: argparse.Namespace(**d))),
    max_leaves=12)


def paths_in(content: object, above: tuple = ()) -> list[tuple]:
    """The places of all values in nested dicts."""
    inside = content.items() if isinstance(content, dict) else ()
    return [path for key, value in inside for path in [(*above, key), *paths_in(value, (*above, key))]]


def shared_containers(depth: int, width: int, pair: Callable, leaf: object) -> object:
    """A container of the same container several times, and so on: short to write, and without end for those who walk over it."""
    for _ in range(depth):
        leaf = pair([leaf] * width)
    return leaf


# Its arguments, not itself, which hypothesis could not print.
shared = st.tuples(st.sampled_from([2, 5, 20, 60]), st.sampled_from([2, 3, 100]), st.sampled_from(
    [tuple, list, lambda items: dict(enumerate(items)), lambda items: OrderedDict(enumerate(items)),
     lambda items: argparse.Namespace(**{f'a{i}': item for i, item in enumerate(items)})]), scalars)


@fuzz
@given(st.data())
def test_other_content(tmp_path_factory: pytest.TempPathFactory, files: list, backbone: RAVLT, data: st.DataObject):
    """Anything in the place of a part of a complete checkpoint, or of all of it."""
    content = whole(backbone.state_dict())
    for _ in range(data.draw(st.integers(1, 3))):
        places = paths_in(content)
        *above, last = data.draw(st.sampled_from(places))
        target = content
        for key in above:
            target = target[key]
        target[last] = data.draw(anything)
    if data.draw(st.booleans()):
        target[last] = shared_containers(*data.draw(shared))
    content = data.draw(st.one_of(st.just(content), st.just(content), anything))
    path = a_file(tmp_path_factory)
    protocol, legacy = data.draw(st.integers(2, 5)), data.draw(st.booleans())
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    everything(path, backbone)


def text(words: str) -> bytes:
    return b'X' + len(words.encode()).to_bytes(4, 'little') + words.encode()


GLOBALS = [
    'os system', 'posix system', 'builtins eval', 'builtins exec', 'builtins getattr', 'builtins __import__', 'builtins open',
    'builtins bytearray', 'builtins set', 'builtins map', '__builtin__ apply', 'subprocess Popen', 'operator attrgetter',
    'functools partial', 'collections OrderedDict', 'collections Counter', 'collections defaultdict', 'argparse Namespace',
    'argparse ArgumentParser', '_codecs encode', 'numpy ndarray', 'numpy dtype', 'numpy load',
    'numpy._core.multiarray scalar', 'numpy._core.multiarray _reconstruct', 'numpy.core.multiarray _reconstruct',
    'torch FloatStorage', 'torch Size', 'torch device', 'torch float32', 'torch Tensor', 'torch.storage UntypedStorage',
    'torch.storage _load_from_bytes', 'torch._utils _rebuild_tensor_v2', 'torch._utils _rebuild_tensor_v3',
    'torch._utils _rebuild_parameter', 'torch._utils _rebuild_qtensor', 'torch._tensor _rebuild_from_type_v2',
    'torch.nn.parameter Parameter', 'torch load', 'mmengine.logging.history_buffer HistoryBuffer', 'mmengine.config Config',
    'runpy run_path', 'importlib import_module', 'torch.jit load', 'torch.hub load', 'copyreg _reconstructor',
    'types FunctionType', 'types CodeType', 'pickle loads']
CONSTANTS = [b'N', b'\x88', b'\x89', b'K\x02', b'K\x00', b'M\xff\xff', b'J\xff\xff\xff\x7f', b'J\xff\xff\xff\xff',
             b'\x8a\x08' + b'\xff' * 7 + b'\x7f', b'G' + bytes(8), b']', b'}', b')', b'\x8f', b'C\x04abcd', b'\x8c\x01a',
             text('storage'), text('mean'), text('0'), text('cpu'), text('f8'), text('O8'), text('U2'), text('<'),
             text('latin1'), text('utf-32'),
             text('__setstate__'), text('__class__'), text('touch executed'), text('_metadata'), text('state_dict'), text('meta')]
OTHERS = [bytes([code]) for code in b'(tlde0123abusRoibQ\x81\x85\x86\x87\x90\x91\x92\x93\x94\x95\x96\x97\x98']
# Containers and numbers that are long, or hold the same thing many times; places 10 to 99 of the memo are theirs.
REPEATED = st.builds(lambda start, again, times, end: start + again * times + end, *map(st.sampled_from, (
    [b'(', b'](', b'}(', b'\x8f(', b'N', b'('], [b'h\x00', b'h\x01', b'N', b'\x8f', b']', b'(', b'\x94', b'h\x00N', b'h\x01h\x00',
                                                b'cargparse\nNamespace\n)\x81h\x00b', b'h\x01)\x81', b'h\x00h\x01b',
                                                b'ccollections\nOrderedDict\n)Rh\x00b', b'q\x0ah\x0a\x86', b'q\x0a](h\x0ah\x0ae'],
    [2, 60, 2000, 20_000], [b't', b'e', b'u', b'\x90', b'', b'\x91', b'l', b'd'])))
COLLIDING = st.integers(10, 5000).map(lambda count: b'}(' + b''.join(
    b'\x8a\x0c' + (i * (2**61 - 1)).to_bytes(12, 'little') + b'N' for i in range(count)) + b'u')
# One of them inside of something that inspects what it is given.
FILLED = st.builds(lambda target, inner, end: target + inner + end, st.sampled_from([
    b'ccollections\nCounter\n}\x85R(K\x01', b'}(K\x01', b'}(', b'](', b'\x8f(', b'(',
    b'cargparse\nNamespace\n)\x81}(' + text('a'), b'ccollections\nOrderedDict\n)R}(' + text('_metadata')]),
    REPEATED, st.sampled_from([b'u', b'e', b'\x90', b't', b'ub', b'NNu']))
instruction = st.one_of(
    st.one_of(REPEATED, FILLED, COLLIDING),
    st.sampled_from(GLOBALS).map(lambda name: 'c{}\n{}\n'.format(*name.split(' ')).encode()), st.sampled_from(CONSTANTS),
    st.sampled_from(CONSTANTS), st.sampled_from(OTHERS), st.integers(0, 9).map(lambda i: b'q' + bytes([i])),
    st.integers(0, 9).map(lambda i: b'h' + bytes([i])), st.sampled_from(GLOBALS).map(lambda name: 'i{}\n{}\n'.format(
        *name.split(' ')).encode()),
    # What a tensor, a number and an array look like.
    st.sampled_from([b'ctorch._utils\n_rebuild_tensor_v2\n((' + text('storage') + b'ctorch\nFloatStorage\n' + text('0')
                     + text('cpu') + b'K\x01tQK\x00K\x01\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR',
                     b'cnumpy\ndtype\n' + text('f8') + b'\x89\x88\x87R', b'cnumpy\nndarray\nK\x00\x85C\x01b\x87R',
                     b'cmmengine.logging.history_buffer\nHistoryBuffer\n)\x81', b'cargparse\nNamespace\n)\x81']),
    st.tuples(st.sampled_from(GLOBALS), st.sampled_from(CONSTANTS), st.sampled_from(CONSTANTS)).map(
        lambda parts: 'c{}\n{}\n'.format(*parts[0].split(' ')).encode() + parts[1] + parts[2] + b'\x86R'))


@fuzz
@given(st.lists(instruction, min_size=1, max_size=40), st.sampled_from(['archive', 'legacy', 'names of storages']),
       st.sampled_from([2, 5]))
def test_pickles_of_instructions(tmp_path_factory: pytest.TempPathFactory, files: list, backbone: RAVLT, instructions: list,
                                 place: str, protocol: int):
    """Streams of instructions with dangerous names, harmless ones, and both mixed."""
    path, stream = a_file(tmp_path_factory), b'\x80' + bytes([protocol]) + b'}(' + text('a') + b''.join(instructions) + b'u.'
    start = pickle.dumps(0x1950a86a20f9469cfc6c, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
    if place == 'legacy':
        path.write_bytes(start + stream + pickle.dumps(['0'], 2) + b'\x01' + bytes(7) + bytes(4))
    elif place == 'names of storages':
        path.write_bytes(start + pickle.dumps({}, 2) + b'\x80' + bytes([protocol]) + b'](' + b''.join(instructions) + b'e.')
    else:
        with zipfile.ZipFile(path, 'w') as archive:
            archive.writestr('a/data.pkl', stream)
            archive.writestr('a/data/0', bytes(4))
    everything(path, backbone)
    assert not Path('executed').exists()
