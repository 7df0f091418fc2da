"""One training at a time in a work directory."""

import errno
import fcntl
import os
import socket
import sys
import time
from pathlib import Path
from typing import TextIO

from ralamala_mm.errors import UserError
from ralamala_mm.files import remove_unfinished

_LOCK = '.training.lock'
_PATIENCE = 10  # seconds; a training that was ended a moment ago may still be leaving
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def claim_work_dir(path: str) -> TextIO:
    """Makes a work directory this process's own until it ends; tidies what a killed training left unfinished there.

    The lock is the process's alone: data loader workers do not inherit it, and the system releases it however the process
    ends. It works between the machines that share a file system over NFS too.

    Args:
        path: the work directory, made if it is not there.

    Returns:
        The lock's file. The lock is gone when it is closed.

    Raises:
        UserError: another training is using the directory, or it cannot be written to.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / _LOCK).open('a+')
    except OSError as error:
        raise UserError(f'work directory {path} cannot be written to ({error.strerror}): --work-dir takes another') from error
    deadline = time.monotonic() + _PATIENCE
    while (locked := _lock(file)) is False:
        if time.monotonic() > deadline:
            file.seek(0)
            raise UserError(f'another training uses {path} ({file.read().strip() or "on another machine"}): give this one '
                            'another --work-dir, or stop that one')
        time.sleep(0.2)
    file.truncate(0)
    file.write(f'process {os.getpid()} on {socket.gethostname()}\n')
    file.flush()
    if locked:
        remove_unfinished(folder)
    else:
        print(f'WARNING: the file system of {path} has no locks: nothing keeps a second training out of it.', file=sys.stderr)
    return file


def _lock(file: TextIO) -> bool | None:
    """Whether the lock could be taken; None on file systems without locks."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return None
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        raise
    return True
