"""A disk that fills up while a training runs on it: real ENOSPC, on a small file system of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ralamala_mm.checkpoints.integrity import newest_complete, training_progress

ROOT = Path(__file__).resolve().parents[2]
CONFIG = Path(__file__).resolve().parent / 'configs' / 'tiny_detector.py'
EPOCHS = 12

pytestmark = pytest.mark.slow


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB; a checkpoint takes 2."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=16m', 'tmpfs', folder], capture_output=True, text=True,
                             check=False)
    if mounted.returncode:
        pytest.skip(f'mounting a file system needs root: {mounted.stderr.strip()}')
    yield folder
    subprocess.run(['umount', '--lazy', folder], check=True)


def fill(folder: Path) -> Path:
    """Takes all room that is left."""
    ballast = folder / 'ballast'
    with ballast.open('wb', buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return ballast


def train(disk: Path, shapes_root: Path, when_told: Callable[[], None], fills: bool = True) -> subprocess.CompletedProcess:
    """Trains with its work directory on the disk.

    Args:
        disk: the small file system.
        shapes_root: the data.
        when_told: called when the training has said that it cannot save.
        fills: whether the disk fills up after the second epoch.
    """
    work_dir, output = disk / 'work', disk.parent / 'output.txt'
    command = [sys.executable, ROOT / 'tools/train.py', CONFIG, '--data', shapes_root, '--work-dir', work_dir, '--resume',
               '--no-validate', '--cfg-options', f'train_cfg.max_epochs={EPOCHS}']
    with output.open('w') as file, subprocess.Popen([str(word) for word in command], stdout=file, stderr=subprocess.STDOUT,
                                                    env=dict(os.environ, OMP_NUM_THREADS='1')) as process:
        is_full = was_told = False
        while process.poll() is None:
            time.sleep(0.05)
            if fills and not is_full and (work_dir / 'epoch_2.pth').exists():
                fill(disk)
                is_full = True
            if is_full and not was_told and 'COULD NOT BE WRITTEN' in output.read_text():
                when_told()
                was_told = True
    assert is_full == fills
    return subprocess.CompletedProcess(command, process.returncode, output.read_text())


def saved(disk: Path) -> int:
    return training_progress(newest_complete(disk / 'work')[0])['epoch']


def test_a_disk_that_is_full_for_a_while(disk: Path, shapes_root: Path):
    result = train(disk, shapes_root, lambda: (disk / 'ballast').unlink())
    assert result.returncode == 0, result.stdout[-3000:]
    assert 'THE CHECKPOINT COULD NOT BE WRITTEN' in result.stdout
    assert 'No space left on device' in result.stdout
    assert 'Traceback' not in result.stdout
    assert saved(disk) == EPOCHS


def test_a_disk_that_stays_full(disk: Path, shapes_root: Path):
    result = train(disk, shapes_root, lambda: None)
    assert result.returncode == 1, result.stdout[-3000:]
    assert result.stdout.count('THE CHECKPOINT COULD NOT BE WRITTEN') == 3
    assert 'error: no checkpoint could be written' in result.stdout
    assert 'Traceback' not in result.stdout
    assert saved(disk) in (2, 3)
    assert not list((disk / 'work').glob('.*unfinished'))
    (disk / 'ballast').unlink()
    result = train(disk, shapes_root, lambda: None, fills=False)
    assert result.returncode == 0, result.stdout[-3000:]
    assert saved(disk) == EPOCHS
