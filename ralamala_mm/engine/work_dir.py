"""The work directory: one training at a time in it, and the losses and metrics that are written there."""

import errno
import fcntl
import os
import socket
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import VISBACKENDS
from mmengine.visualization import LocalVisBackend

from ralamala_mm.errors import UserError
from ralamala_mm.files import remove_unfinished

_LOCK = '.training.lock'
_PATIENCE = 10  # seconds; a training that was ended a moment ago may still be leaving
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
# Option, MMEngine's backend, and the package that it needs.
_BACKENDS = dict(tensorboard=('TensorboardVisBackend', 'tensorboard'), wandb=('WandbVisBackend', 'wandb'))
RECORDERS = tuple(_BACKENDS)


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


@VISBACKENDS.register_module()
class DependableLocalVisBackend(LocalVisBackend):
    """MMEngine's `LocalVisBackend` that continues when the disk does not take what it writes, and says so once."""

    _has_failed = False

    def add_config(self, config, **kwargs) -> None:
        self._try(super().add_config, config, **kwargs)

    def add_scalar(self, *args, **kwargs) -> None:
        self._try(super().add_scalar, *args, **kwargs)

    def add_scalars(self, *args, **kwargs) -> None:
        self._try(super().add_scalars, *args, **kwargs)

    def _try(self, write, *args, **kwargs) -> None:
        try:
            write(*args, **kwargs)
        except OSError as error:
            if not self._has_failed:
                self._has_failed = True
                MMLogger.get_current_instance().error(f'losses and metrics cannot be written to {self._save_dir} '
                                                      f'({error.strerror or error}): some will be missing there')


def use_recorders(config: Config, names: list[str]) -> None:
    """Records losses, learning rates and metrics elsewhere too.

    Args:
        config: changed in place.
        names: of `RECORDERS`; without any the config stays as it is. TensorBoard's files lie in WORK_DIR/TIMESTAMP/vis_data;
            Weights & Biases takes its account and mode from its own environment variables (`WANDB_MODE=offline`), and the run
            is named after the work directory.

    Raises:
        UserError: the package is not installed.
    """
    if not names:
        return
    visualizer = config.get('visualizer') or dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
    backends = visualizer.get('vis_backends') or []
    backends = [backends] if isinstance(backends, dict) else list(backends)
    for name in dict.fromkeys(names):
        kind, package = _BACKENDS[name]
        if find_spec(package) is None:
            raise UserError(f'--log-to {name} needs the package {package}: pip install {package}')
        if any(backend.get('type') == kind for backend in backends):
            continue  # the config has settings of its own for it
        backend = dict(type=kind)
        if name == 'wandb':
            backend['init_kwargs'] = dict(project='ralamala_mm', name=Path(config.work_dir).name)
        backends.append(backend)
    config.visualizer = dict(visualizer, vis_backends=backends)
