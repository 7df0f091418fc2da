"""A training that is told to end, from outside, as schedulers do it; and a data loader worker that the system kills."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
CONFIG = Path(__file__).resolve().parent / 'configs' / 'tiny_detector.py'

pytestmark = pytest.mark.slow


@pytest.fixture
def training(shapes_root: Path, tmp_path: Path) -> Iterator[subprocess.Popen]:
    """A long training in `tmp_path / 'work'` that has saved its first checkpoint; its own process group, as in a job."""
    command = [sys.executable, ROOT / 'tools/train.py', CONFIG, '--data', shapes_root, '--work-dir', tmp_path / 'work',
               '--no-validate', '--cfg-options', 'train_cfg.max_epochs=1000']
    with subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                          env=dict(os.environ, OMP_NUM_THREADS='1'), start_new_session=True) as process:
        deadline = time.monotonic() + 300
        while not (tmp_path / 'work' / 'epoch_1.pth').exists():
            assert process.poll() is None, process.stderr.read()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield process
        process.kill()


def ends(process: subprocess.Popen) -> tuple[int, list[str]]:
    """Exit code and what was told on stderr, which must not be frames."""
    code = process.wait(120)
    told = process.stderr.read()
    assert 'Traceback' not in told, told[-3000:]
    return code, [line for line in told.splitlines() if line.startswith('error: ')]


@pytest.mark.parametrize(('number', 'code'), [(signal.SIGTERM, 143), (signal.SIGUSR1, 75)])
def test_a_signal_to_the_whole_job(training: subprocess.Popen, tmp_path: Path, number: signal.Signals, code: int):
    """Workers of the data loader get it too, and the training is told twice, as launchers do."""
    time.sleep(0.3)
    os.killpg(training.pid, number)
    os.killpg(training.pid, number)
    found, errors = ends(training)
    assert found == code
    assert len(errors) == 1
    assert f'{number.name} stopped the training after iteration' in errors[0]
    newest = Path((tmp_path / 'work' / 'last_checkpoint').read_text())
    iteration = torch.load(newest, weights_only=False)['meta']['iter']
    assert f'after iteration {iteration};' in errors[0]


def test_a_worker_that_is_killed(training: subprocess.Popen):
    """As the system does when memory runs out."""
    workers = [int(pid) for pid in Path(f'/proc/{training.pid}/task/{training.pid}/children').read_text().split()]
    assert workers
    os.kill(workers[0], signal.SIGKILL)
    code, errors = ends(training)
    assert code == 1
    assert len(errors) == 1
    assert 'a data loader worker died, most often for want of memory: lower train_dataloader.num_workers' in errors[0]
