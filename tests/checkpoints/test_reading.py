"""What the reader takes for data, in every protocol, and the reason that it gives where it cannot read a file."""

import argparse
import errno
import io
import pickle
import sys
import types
from collections import Counter, OrderedDict
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch
from limits import limited
from mmengine.logging import HistoryBuffer

from ralamala_mm.checkpoints import find_weights, read_checkpoint, trust_checkpoints
from ralamala_mm.checkpoints.integrity import damage, newest_complete
from ralamala_mm.checkpoints.reading import RefusedFileError, UnreadableFileError
from ralamala_mm.errors import UserError

PROTOCOLS = (2, 3, 4, 5)
SHARED = {'lr': 0.1}
DATA = {
    'texts': ['', 'é€𝄞', np.str_(''), np.str_('é€'), b'', b'\x00\xff', np.bytes_(b''), bytearray(b''), bytearray(b'\x00a')],
    'numbers': [0, -1, 2**70, -2**63, 1.5, float('inf'), True, None, 1 + 2j, np.float32(0.5), np.int64(-3), np.bool_(True)],
    'keys': {('a', ('b', 1)): 1, (1, 2): 2, 3: 3, None: 4, 1.5: 5, b'a': 6, np.int64(7): 7, torch.float16: 8, torch.Size([1]): 9},
    'many keys': {i: i for i in range(3000)} | {i / 8: i for i in range(300)} | {(i, -i): i for i in range(300)},
    'sets': [set(), {1, 'a', (2, 'b')}, frozenset(), frozenset({1.5})],
    'containers': [(), [[]], OrderedDict(a=1), Counter('abca'), argparse.Namespace(lr=0.1, names=['a']), torch.Size([2, 3])],
    'shared': [SHARED] * 1000,
    'types': [torch.float32, torch.bfloat16, torch.device('cpu')],
}
ARRAYS = [
    np.arange(6), np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3)), np.zeros((2, 0), dtype='f4'),
    np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2), np.arange(24, dtype='>i2')[::-2], np.array(3.5), np.array(['a', 'é€']),
    np.array([b'a', b'bc']), np.array([True, False]), np.array([1 + 2j]), np.array(['', '']),
    np.random.RandomState(3).get_state()[1],
]
TENSORS = [
    torch.arange(12.0).view(3, 4), torch.arange(12.0).view(3, 4).T[1:], torch.zeros(()), torch.zeros(2, 0, 3), torch.ones(3) > 0,
    torch.nn.Parameter(torch.ones(2)), torch.arange(3).bfloat16(), torch.zeros(1).expand(1000),
    torch.zeros(2, dtype=torch.complex64),
]


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_data_in_every_protocol(protocol: int, legacy: bool, tmp_path: Path):
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    torch.save(dict(DATA, arrays=ARRAYS, tensors=TENSORS, histories=[history, HistoryBuffer()]), tmp_path / 'a.pth',
               pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    content = read_checkpoint(str(tmp_path / 'a.pth'))
    for name, value in DATA.items():
        assert content[name] == value
        if isinstance(value, list):
            assert [type(item) for item in content[name]] == [type(item) for item in value]
    for found, array in zip(content['arrays'], ARRAYS, strict=True):
        assert found.dtype.newbyteorder('=') == array.dtype.newbyteorder('=')  # which protocol 2 to 4 write as this machine's
        np.testing.assert_array_equal(found, array)
    for found, tensor in zip(content['tensors'], TENSORS, strict=True):
        assert found.dtype == tensor.dtype
        assert torch.equal(found, tensor)
    assert content['histories'][0].statistics('mean') == history.mean()
    assert len(content['histories'][1].data[0]) == 0


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_a_training_state_in_every_protocol(protocol: int, tmp_path: Path):
    """As MMEngine and timm write them; an optimizer takes its state from it."""
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW([{'params': [model.weight], 'lr': 0.1}, {'params': [model.bias]}], lr=0.2)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    weights = model.state_dict()
    torch.save(dict(state_dict=weights, ema_state_dict={f'module.{key}': value for key, value in weights.items()},
                    optimizer=optimizer.state_dict(), message_hub=dict(log_scalars=OrderedDict(loss=HistoryBuffer([0.5], [1])),
                                                                       runtime_info={'map': np.float32(0.25)}),
                    param_schedulers=[dict(last_step=3, base_values=[0.1])], amp_scaler=dict(scale=65536.0, growth_tracker=3),
                    meta=dict(epoch=1, iter=3, seed=np.int64(3), dataset_meta=dict(classes=('a',), palette=[(1, 2, 3)])),
                    args=argparse.Namespace(lr=0.1)), tmp_path / 'a.pth', pickle_protocol=protocol)
    content = read_checkpoint(str(tmp_path / 'a.pth'))
    assert content['state_dict']._metadata == weights._metadata
    other = torch.optim.AdamW([{'params': [model.weight], 'lr': 0.3}, {'params': [model.bias]}], lr=0.4)
    other.load_state_dict(content['optimizer'])
    assert other.param_groups[0]['lr'] == 0.1
    assert torch.equal(other.state[model.bias]['exp_avg'], optimizer.state[model.bias]['exp_avg'])
    assert content['message_hub']['log_scalars']['loss'].current() == 0.5


def test_a_file_of_averaged_weights(tmp_path: Path):
    """As timm leaves it where only those are kept."""
    torch.save({'epoch': 3, 'state_dict_ema': {'module.a': torch.ones(2)}}, tmp_path / 'a.pth')
    assert find_weights(read_checkpoint(str(tmp_path / 'a.pth')), 'a.pth').keys() == {'a'}


@pytest.mark.parametrize('keys', [{10**5000: 1}, {(1, 2): 1}, {}])
def test_entries_that_have_no_names(keys: dict):
    with pytest.raises(UserError, match='holds no weights; its entries are none with a name'):
        find_weights(keys, 'a.pth')


def test_the_home_of_nobody():
    with pytest.raises(UserError, match=r'checkpoint ~nobody_at_all/a\.pth does not exist'):
        read_checkpoint('~nobody_at_all/a.pth')


@pytest.fixture
def unknown_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with an object of a package that is not installed."""
    module = types.ModuleType('their_package')
    module.Settings = type('Settings', (), {'__module__': 'their_package'})
    monkeypatch.setitem(sys.modules, 'their_package', module)
    torch.save({'state_dict': {'a': torch.ones(1)}, 'settings': module.Settings()}, tmp_path / 'a.pth')
    monkeypatch.delitem(sys.modules, 'their_package')
    return tmp_path / 'a.pth'


def test_a_package_that_trust_needs(unknown_class: Path):
    with pytest.raises(RefusedFileError, match=r'their_package\.Settings'):
        read_checkpoint(str(unknown_class))
    with pytest.raises(UserError, match=r'cannot be read with code allowed either \(ModuleNotFoundError: .*their_package'):
        read_checkpoint(str(unknown_class), trusted=True)


def test_more_than_there_is_memory(tmp_path: Path):
    """A file of a GiB, of which the disk keeps next to nothing."""
    path, count = tmp_path / 'a.pth', 2**28
    legacy = b''.join(pickle.dumps(part, 2) for part in (0x1950a86a20f9469cfc6c, 1001, {}))
    storage = (b'(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuJ'
               + count.to_bytes(4, 'little') + b'tQ')
    tensor = b'ctorch._utils\n_rebuild_tensor_v2\n(' + storage + b'K\x00K\x01\x85K\x01\x85\x89NtR'
    path.write_bytes(legacy + b'\x80\x02}X\x01\x00\x00\x00a' + tensor + b's.' + pickle.dumps(['0'], 2)
                     + count.to_bytes(8, 'little'))
    with path.open('r+b') as file:
        file.truncate(path.stat().st_size + 4 * count)
    with limited(60, 2**28), pytest.raises(UserError, match='takes more memory than there is'):
        read_checkpoint(str(path))


class FailingDisk(io.RawIOBase):
    """Gives the first bytes of a file, and an error for the others."""

    def __init__(self, file: BinaryIO, good: int):
        self.file, self.good = file, good

    def readable(self) -> bool:
        return True

    seekable = readable

    def seek(self, *place) -> int:
        return self.file.seek(*place)

    def readinto(self, buffer: bytearray) -> int:
        if self.file.tell() + len(buffer) > self.good:
            raise OSError(errno.EIO, 'Input/output error')
        return self.file.readinto(buffer)

    def close(self) -> None:
        self.file.close()
        super().close()


def fail(path: Path, good: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes reading a file fail from some byte on."""
    opened = Path.open

    def open_failing(self: Path, *arguments, **options) -> io.IOBase:
        file = opened(self, *arguments, **options)
        return io.BufferedReader(FailingDisk(file, good), buffer_size=64) if self == path else file

    monkeypatch.setattr(Path, 'open', open_failing)


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('good', [0, 600, -100])
def test_a_disk_that_fails_is_not_damage(good: int, legacy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Resuming does not pass over the newest checkpoint because a network's disk does not answer."""
    for iteration in (1, 2):
        state = dict(meta=dict(epoch=1, iter=iteration, saved_at=float(iteration)), optimizer={}, message_hub={},
                     state_dict={'a': torch.ones(500)})
        torch.save(state, tmp_path / f'iter_{iteration}.pth', _use_new_zipfile_serialization=not legacy)
    newest = tmp_path / 'iter_2.pth'
    assert newest_complete(tmp_path) == (newest, [])
    fail(newest, good % newest.stat().st_size, monkeypatch)
    for read in (lambda: read_checkpoint(str(newest)), lambda: newest_complete(tmp_path)):
        with pytest.raises(UnreadableFileError, match=r'iter_2.pth cannot be read \(Input/output error\)'):
            read()
    if good == 0 or not legacy:
        with pytest.raises(UnreadableFileError, match='cannot be read'):
            damage(newest)


@pytest.mark.parametrize('call', ['exists', 'open'])
def test_a_right_that_is_wanting(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    torch.save({'a': torch.ones(1)}, tmp_path / 'a.pth')

    def refuse(*_, **__) -> None:
        raise PermissionError(errno.EACCES, 'Permission denied')

    monkeypatch.setattr(Path, call, refuse)
    with pytest.raises(UnreadableFileError, match=r'a.pth cannot be read \(Permission denied\)'):
        read_checkpoint(str(tmp_path / 'a.pth'))


class Touches:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def test_what_nobody_named_is_not_trusted(tmp_path: Path):
    """Looking for the checkpoint to continue from runs no code, with --trust-checkpoint neither."""
    executed = tmp_path / 'executed'
    state = dict(meta=dict(epoch=1, iter=3, extra=Touches(executed)), optimizer={}, message_hub={}, state_dict={})
    torch.save(state, tmp_path / 'a.pth')
    trust_checkpoints(True)
    try:
        path, (note,) = newest_complete(tmp_path)
        assert path is None
        assert 'only a file that is named is ever trusted' in note
        assert '--trust-checkpoint' in note
        assert not executed.exists()
        read_checkpoint(str(tmp_path / 'a.pth'))
    finally:
        trust_checkpoints(False)
    assert executed.exists()


def test_pickles_end_where_they_say(tmp_path: Path):
    """Bytes are not taken at their word for how many they are."""
    (tmp_path / 'a.pth').write_bytes(pickle.dumps(bytearray(100), 5)[:-50])
    with pytest.raises(UserError, match='damaged or cut short'):
        read_checkpoint(str(tmp_path / 'a.pth'))
