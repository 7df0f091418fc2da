"""Writing a file so that it is there whole or not at all, whatever happens meanwhile."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from .errors import UserError

_UMASK = os.umask(0o077)
os.umask(_UMASK)  # it can only be read by setting it
UNFINISHED = '.unfinished'  # suffix of files and folders that are being written, and of what a killed process left of them


# What file systems answer that keep names and contents together and cannot synchronise a folder.
_NO_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)


def atomic_write(path: Path | str, write: Callable[[Path], object], durable: bool = False) -> Path:
    """Lets `write` fill a file of another name beside `path` and moves it there whole.

    Args:
        path: the file to write; its folder is made.
        write: receives the path of the unfinished file.
        durable: wait until the disk has it, so that it survives a power cut too.

    Raises:
        OSError: the disk is full, or does not take it; nothing is left of the unfinished file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name may be as long as the file system allows; 50 letters of it leave room for the rest in any alphabet.
    handle, name = tempfile.mkstemp(prefix=f'.{path.name[:50]}.', suffix=UNFINISHED, dir=path.parent)
    try:
        os.close(handle)
        write(Path(name))
        os.chmod(name, 0o666 & ~_UMASK)  # temporary files are for their owner alone
        if durable:
            _synchronise(name)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    if durable:
        try:
            _synchronise(path.parent)
        except OSError as error:
            if error.errno not in _NO_FOLDERS:
                raise
    return path


def check_folder(folder: Path, option: str) -> None:
    """Whether a folder is there or can be made, before what goes into it is computed.

    Args:
        folder: for results.
        option: by which it was asked for, with its value.

    Raises:
        UserError: a file is in the way.
    """
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir():
        raise UserError(f'{option} cannot be written, for {nearest} is a file: name another folder')


def _synchronise(path: Path | str) -> None:
    """Waits until the disk has a file's content, or a folder's list of names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_unfinished(folder: Path) -> None:
    """Removes files and folders that killed processes left unfinished; only where nobody else writes."""
    for path in folder.glob(f'.*{UNFINISHED}'):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
