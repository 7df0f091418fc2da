"""PyTorch's two file formats taken apart: the pickle that describes the content, and the bytes of its tensors.

Written here, and not left to torch.load, because that takes a file's word for how much memory it needs, and does on some
releases, or with some environment variables, what the file asks for.
"""

import io
import re
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

import torch

from .pickle_allowlist import RefusedError, Storage
from .unpickling import DataUnpickler, check_nesting

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_ZIP_END = 2**16 + 22  # bytes within which an archive's directory is announced


class NotACheckpointError(ValueError):
    """The file is something else; the text completes 'checkpoint X …'."""


def load_data(path: Path, tensors: bool = True) -> object:
    """Reads a file that torch.save wrote, with tensors on the CPU, without running code from it.

    Args:
        path: the file.
        tensors: False leaves their bytes in a file of PyTorch 1.6 or later unread: they have their shapes, and any values.

    Raises:
        RefusedError: that takes more than data.
        NotACheckpointError: the file is recognised as something else.
        Exception: of nearly any type, where the file is damaged.
    """
    with path.open('rb') as file:
        content = _load_from(file, path.stat().st_size, tensors)
    check_nesting(content)
    return content


def is_zip(file: BinaryIO) -> bool:
    """Whether a file is a zip archive, left at its beginning; zipfile alone takes an error of the disk for another format."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(size - _ZIP_END, 0))
    file.read()
    found = zipfile.is_zipfile(file)
    file.seek(0)
    return found


def _load_from(file: BinaryIO, size: int, tensors: bool) -> object:
    if is_zip(file):
        return _load_zip(file, size, tensors)
    start = file.read(512)
    if start[:1] != b'\x80':  # which all pickles of a binary protocol begin with
        if start[257:262] == b'ustar':
            raise RefusedError('a tar archive, the format of before 2017')
        raise ValueError('neither a zip archive nor a pickle')
    file.seek(0)
    return _load_legacy(file, size)


def _load_zip(file: BinaryIO, size: int, tensors: bool) -> object:
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        pickles = [name for name in names if re.fullmatch(r'[^/]+/data\.pkl', name)]
        _check_kind(names, pickles)
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise NotACheckpointError('has compressed parts, as PyTorch writes none: unpack it, and pack it without compression')
        if sum(entry.file_size for entry in entries) > size:
            raise NotACheckpointError('says that it unpacks into more than it is long')
        folder = pickles[0].removesuffix('data.pkl')
        if f'{folder}byteorder' in names and archive.read(f'{folder}byteorder') != b'little':
            raise NotACheckpointError('is of a machine with the other byte order')
        storages: dict[str, Storage] = {}

        def read_storage(dtype: torch.dtype, key: str, count: int) -> Storage:
            if key not in storages:
                entry = archive.getinfo(f'{folder}data/{key}')
                if entry.file_size != count * dtype.itemsize:
                    raise ValueError(f'storage {key} is of another size than it should be')
                content = torch.empty(entry.file_size, dtype=torch.uint8)
                if tensors:
                    with archive.open(entry) as part:
                        _fill(content, part)
                storages[key] = Storage(content, dtype)
            return storages[key]

        description = archive.read(pickles[0])
        return DataUnpickler(io.BytesIO(description), len(description), read_storage).load()


def _check_kind(names: list[str], pickles: list[str]) -> None:
    if any(re.fullmatch(r'[^/]+/constants\.pkl', name) for name in names):
        raise RefusedError('a TorchScript archive, which is a program')
    if any(name.endswith('.npy') for name in names):
        raise NotACheckpointError("is an archive of NumPy's")
    if len(pickles) > 1:
        raise RefusedError(f'{len(pickles)} pickles in one archive')
    if not pickles:
        raise NotACheckpointError('is a zip archive, but not a PyTorch checkpoint')


def _load_legacy(file: BinaryIO, size: int) -> object:
    """Format of before 1.6: pickles of a magic number, a protocol, the system, the content, the keys; then the storages."""
    if DataUnpickler(file, size).load() != _LEGACY_MAGIC:
        raise NotACheckpointError('is a pickle, but not a PyTorch checkpoint')
    protocol, system = DataUnpickler(file, size).load(), DataUnpickler(file, size).load()
    if protocol != _LEGACY_PROTOCOL or not isinstance(system, dict) or not system.get('little_endian', True):
        raise NotACheckpointError('is of a PyTorch or a machine that is not known here')
    storages: dict[str, Storage] = {}
    left = size

    def declare_storage(dtype: torch.dtype, key: str, count: int) -> Storage:
        nonlocal left
        if key not in storages:
            left -= count * dtype.itemsize
            if left < 0:
                raise ValueError('storages larger than the file')
            storages[key] = Storage(torch.empty(count * dtype.itemsize, dtype=torch.uint8), dtype)
        return storages[key]

    content = DataUnpickler(file, size, declare_storage).load()
    keys = DataUnpickler(file, size).load()
    if type(keys) is not list or not all(type(key) is str for key in keys) or sorted(keys) != sorted(storages):
        raise ValueError('storages that are not there')
    for key in keys:
        storage = storages[key]
        (count,) = struct.unpack('<q', file.read(8))
        if count * storage.dtype.itemsize != len(storage.content):
            raise ValueError(f'storage {key} is of another size than it should be')
        _fill(storage.content, file)
    return content


def _fill(content: torch.Tensor, file: BinaryIO) -> None:
    """Reads the bytes of a storage, and checks that they are there."""
    buffer = memoryview(content.numpy())
    done = 0
    while done < len(buffer):
        count = file.readinto(buffer[done:done + 2**24])
        if not count:
            raise EOFError('the file is cut short')
        done += count
