"""Small files made to keep a reader busy for ever or to fill the memory: each ends soon, in a sentence."""

import bz2
import itertools
import lzma
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from limits import limited

from ralamala_mm.checkpoints import read_checkpoint
from ralamala_mm.checkpoints.integrity import newest_complete
from ralamala_mm.errors import UserError

FOREVER = 60  # how deep tuples of twice the same thing are nested: walked over, more than anybody waits for
LEGACY = pickle.dumps(0x1950a86a20f9469cfc6c, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
NAMESPACE = b'cargparse\nNamespace\n)\x81'
HISTORY = b'cmmengine.logging.history_buffer\nHistoryBuffer\nq\x01'
COUNTER = b'ccollections\nCounter\n}\x85R'
PAIRS = b'ccollections\nOrderedDict\n)R'
TENSOR = (b'ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000'
          b'X\x03\x00\x00\x00cpuK\x01tQK\x00')
ARRAY = b'cnumpy.core.multiarray\n_reconstruct\n)R(K\x01'
PRIME = 2**61 - 1  # whose multiples have the same hash, 0


def doubled(content: bytes, times: int = FOREVER) -> bytes:
    """Instructions for a tuple of twice a tuple of twice … something."""
    return content + b''.join(b'q' + bytes([100 + i]) + b'h' + bytes([100 + i]) + b'\x86' for i in range(times))


def entries(count: int, key: Callable[[int], bytes]) -> bytes:
    """Instructions for a dict."""
    return b'}(' + b''.join(key(i) + b'N' for i in range(count)) + b'u'


def name(i: int) -> bytes:
    return f'X\x08\x00\x00\x00{i:08}'.encode()


def number(value: int) -> bytes:
    content = pickle.encode_long(value)
    return b'\x8a' + bytes([len(content)]) + content


def numbers(values: tuple[int, ...]) -> bytes:
    return b'(' + b''.join(map(number, values)) + b't'


HUGE_SIZE = b'(' + number(2**61) + b'q\x01' + b'h\x01' * 200_000 + b't'
VERSIONS = entries(5000, name).replace(b'N', b'}X\x07\x00\x00\x00versionK\x01s')
PICKLES = {
    'sum of tuples in a counter': COUNTER + b'(' + name(0) + doubled(b'N') + b'u',
    'lists of lists': b']q\x01(' + b'N' * 20_000 + b'e](' + b'h\x01' * 20_000 + b'e\x86',
    'dimensions of a tensor': TENSOR + HUGE_SIZE + b')\x89' + PAIRS + b'tR',
    'dimensions of an array': ARRAY + HUGE_SIZE + b'cnumpy\ndtype\nX\x02\x00\x00\x00f8\x89\x88\x87R\x89C\x00tb',
    'arguments': b'](' + entries(5000, name) + b'q\x01' + (NAMESPACE + b'h\x01b') * 20_000 + b'e',
    'versions of layers': b'](X\x09\x00\x00\x00_metadata' + b'q\x02' + VERSIONS + b'q\x01' + (
        PAIRS + b'}h\x02h\x01sb') * 2_000 + b'e',
    'sets': b'](' + b'\x8f' * 1_500_000 + b'e',
    'marks': b'(' * 4_500_000,
    'memo': b'N' + b'\x94' * 3_000_000,
    'histories': b'](' + HISTORY + b')\x81' + b'h\x01)\x81' * 700_000 + b'e',
    'numbers of one hash': entries(100_000, lambda i: number(i * PRIME)),
    'tuples of one hash': b'}(' + b''.join(numbers(tuple(i * PRIME for i in key)) + b'N'
                                           for key in itertools.product(range(8), repeat=5)) + b'u',
    'members of one hash': b'\x8f(' + b''.join(number(i * PRIME) for i in range(100_000)) + b'\x90',
    'a long tuple as a key': b'(' + b'N' * 60_000 + b'tq\x01}(' + b'h\x01N' * 60_000 + b'u',
    'a long number as a key': b'\x8b' + struct.pack('<i', 200_000) + b'\x01' * 200_000 + b'q\x01}(' + b'h\x01N' * 200_000 + b'u',
    'tuples in a list': b']' + doubled(b'N') + b'a',
    'room for bytes': b'\x96' + struct.pack('<Q', 2**40),
}


def zipped(path: Path, content: bytes) -> None:
    """An archive whose pickle is a dict with something as `meta`."""
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('a/data.pkl', b'\x80\x05}X\x04\x00\x00\x00meta' + content + b's.')
        archive.writestr('a/data/0', bytes(4))


def refused(path: Path, seconds: float = 30, memory: int = 2**28) -> str:
    """The sentence in which reading ends."""
    with limited(seconds, memory), pytest.raises(UserError) as caught:
        read_checkpoint(str(path))
    assert 'more memory than there is' not in caught.value.sentence
    return caught.value.sentence


@pytest.mark.parametrize('kind', PICKLES)
def test_pickles_that_would_not_end(kind: str, tmp_path: Path):
    zipped(tmp_path / 'a.pth', PICKLES[kind])
    assert 'holds more than data' in (sentence := refused(tmp_path / 'a.pth')) or 'damaged' in sentence


@pytest.mark.parametrize(('compress', 'format_'), [(bz2.compress, 'bzip2'), (lzma.compress, 'xz')])
def test_archives_with_long_names(compress: Callable[[bytes], bytes], format_: str, tmp_path: Path):
    """Four hundred bytes from which Python's tarfile takes a name of 128 MiB."""
    header = tarfile.TarInfo('././@LongLink')
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2**27
    content = header.tobuf(tarfile.GNU_FORMAT) + bytes(2**27 + 1024)
    (tmp_path / 'a.pth').write_bytes(compress(content))
    assert f'is compressed with {format_}; unpack it' in refused(tmp_path / 'a.pth', memory=2**26)
    (tmp_path / 'a.pth').write_bytes(content[:2**20])
    assert 'a tar archive' in refused(tmp_path / 'a.pth', memory=2**26)


@pytest.mark.parametrize('keys', [b'](' + doubled(b'N') + b'e.', doubled(b'N') + b'.', b'](K\x01e.'])
def test_names_of_storages_that_are_none(keys: bytes, tmp_path: Path):
    (tmp_path / 'a.pth').write_bytes(LEGACY + b'\x80\x02}.\x80\x02' + keys)
    assert 'damaged' in refused(tmp_path / 'a.pth')


@pytest.mark.parametrize('time', [doubled(b'N'), b']', b'K\x05'])
def test_times_that_are_none(time: bytes, tmp_path: Path):
    """A work directory with a checkpoint whose time is no text is looked through, and to its end."""
    state = dict(meta=dict(epoch=1, iter=3, time='20260101_120000'), optimizer={}, message_hub={}, state_dict={})
    torch.save(state, tmp_path / 'good.pth')
    with zipfile.ZipFile(tmp_path / 'bad.pth', 'w') as archive:
        meta = b'}(X\x05\x00\x00\x00epochK\x01X\x04\x00\x00\x00iterK\x02X\x04\x00\x00\x00time' + time + b'u'
        archive.writestr('a/data.pkl', b'\x80\x02}(X\x04\x00\x00\x00meta' + meta + b'X\x09\x00\x00\x00optimizer}'
                         b'X\x0b\x00\x00\x00message_hub}u.')
    with limited(30, 2**28):
        assert newest_complete(tmp_path)[0] == tmp_path / 'good.pth'
