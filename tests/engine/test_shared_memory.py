"""A /dev/shm that is too small for the loaders is named before their workers die of it."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader, Dataset

from ralamala_mm.engine import loaders as shared_memory
from ralamala_mm.engine.loaders import check_shared_memory
from ralamala_mm.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
MIB = 2**20


class Images(Dataset):
    """Samples of 1 MiB, as a pipeline packs them; every other one is twice as large."""

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> dict:
        torch.rand(1)
        return dict(inputs=torch.zeros(MIB, dtype=torch.uint8), data_samples=dict(gt=[torch.zeros(3)], path='a.png'))


def with_free(monkeypatch: pytest.MonkeyPatch, mebibytes: float) -> None:
    """A mount with so much free."""
    real = os.statvfs

    def statvfs(path: str) -> os.statvfs_result:
        fields = list(real(path))
        fields[1], fields[4] = 4096, int(mebibytes * MIB / 4096)  # f_frsize, f_bavail
        return os.statvfs_result(fields)

    monkeypatch.setattr(os, 'statvfs', statvfs)


def loader(**settings: object) -> DataLoader:
    return DataLoader(Images(), **(dict(batch_size=4, num_workers=2, collate_fn=pseudo_collate) | settings))


@pytest.mark.parametrize(('settings', 'batches'), [({}, 5), (dict(prefetch_factor=4), 9), (dict(num_workers=1), 3)])
def test_what_a_loader_needs(settings: dict, batches: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """prefetch_factor batches per worker and one in use, of 4 images of 1 MiB and 4 KiB."""
    needed = batches * 4 * (1 + 1 / 256)
    with_free(monkeypatch, needed + 0.1)
    check_shared_memory(loader(**settings), 'train_dataloader', folder=str(tmp_path))
    with_free(monkeypatch, needed - 0.1)
    sentence = f'has {needed:.0f} MiB free, but the workers of train_dataloader keep some {needed:.0f} MiB'
    with pytest.raises(UserError, match=sentence):
        check_shared_memory(loader(**settings), 'train_dataloader', folder=str(tmp_path))


def test_the_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """What it says to do is enough."""
    with_free(monkeypatch, 13)
    with pytest.raises(UserError) as caught:
        check_shared_memory(loader(num_workers=2), 'val_dataloader', folder=str(tmp_path))
    assert str(caught.value) == (
        f'{tmp_path} has 13 MiB free, but the workers of val_dataloader keep some 20 MiB of batches ready in it, and would die '
        'of a bus error: give the container more (docker run --shm-size=1g, on Kubernetes an emptyDir with medium: Memory '
        'mounted there), or set val_dataloader.num_workers=1')
    check_shared_memory(loader(num_workers=1), 'val_dataloader', folder=str(tmp_path))
    check_shared_memory(loader(num_workers=0), 'val_dataloader', folder=str(tmp_path))


def test_all_processes_of_the_node_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(shared_memory.distributed, 'is_initialized', lambda: True)
    monkeypatch.setattr(shared_memory.distributed, 'get_world_size', lambda: 16)
    monkeypatch.setattr(shared_memory.distributed, 'get_rank', lambda: 0)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '8')
    with_free(monkeypatch, 100)
    with pytest.raises(UserError, match=r'workers of train_dataloader of 8 processes keep some 161 MiB .*num_workers=1'):
        check_shared_memory(loader(), 'train_dataloader', folder=str(tmp_path))


def test_batches_of_the_training_beside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Each loader alone would fit."""
    with_free(monkeypatch, 30)
    for name in ('train_dataloader', 'val_dataloader'):
        check_shared_memory(loader(), name, folder=str(tmp_path))
    sentence = r'some 20 MiB of batches ready in it, beside 20 MiB of those of the training, .*num_workers=0'
    with pytest.raises(UserError, match=sentence):
        check_shared_memory(loader(), 'val_dataloader', loader(), str(tmp_path))
    check_shared_memory(loader(), 'val_dataloader', loader(num_workers=0), str(tmp_path))


def test_nothing_is_loaded_where_there_is_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(shared_memory, '_batch_bytes', lambda loader: pytest.fail('a batch was estimated'))
    with_free(monkeypatch, 2000)
    check_shared_memory(loader(), 'train_dataloader', folder=str(tmp_path))


def test_no_random_number_is_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A training is the same with and without it."""
    with_free(monkeypatch, 100)
    before = torch.get_rng_state()
    check_shared_memory(loader(), 'train_dataloader', folder=str(tmp_path))
    assert torch.equal(torch.get_rng_state(), before)


def small_shared_memory(command: list[object], size: str, folder: Path) -> subprocess.CompletedProcess:
    """A command that has a /dev/shm of its own."""
    script = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
    probe = subprocess.run(['unshare', '-m', 'sh', '-c', script, 'sh', 'true'], capture_output=True, text=True, check=False) \
        if shutil.which('unshare') else None
    if probe is None or probe.returncode:
        pytest.skip(f'a /dev/shm of its own is not allowed here: {probe.stderr.strip() if probe else "no unshare"}')
    return subprocess.run(['unshare', '-m', 'sh', '-c', script, 'sh', *map(str, command)], cwd=folder, capture_output=True,
                          text=True, env=dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT)), timeout=300, check=False)


def test_a_bus_error_is_explained(tmp_path: Path):
    """What the check is for: without it, workers die."""
    code = """
        import argparse
        import torch
        from torch.utils.data import DataLoader
        from ralamala_mm.engine import run

        def main(args):
            large = [torch.zeros(4 * 2**20, dtype=torch.uint8)] * 16
            for batch in DataLoader(large, batch_size=2, num_workers=2):
                pass

        parser = argparse.ArgumentParser()
        parser.add_argument('--resume')
        parser.add_argument('--traceback', action='store_true')
        run(parser, main)
        """
    result = small_shared_memory([sys.executable, '-c', textwrap.dedent(code)], '8m', tmp_path)
    assert result.returncode == 1
    assert 'DataLoader worker' not in result.stderr.splitlines()[-1]
    assert result.stderr.splitlines()[-1].startswith('error: the shared memory of the data loader workers, /dev/shm, is full: ')


@pytest.mark.slow
def test_a_training_in_a_container(shapes_root: Path, tmp_path: Path):
    """Refused before the first iteration; with the workers that it names it runs."""
    command = [sys.executable, ROOT / 'tools/train.py', ROOT / 'tests/faults/configs/tiny_detector.py', '--data', shapes_root,
               '--work-dir', tmp_path, '--no-validate', '--cfg-options', 'train_cfg.max_epochs=1',
               'train_dataloader.batch_size=12']
    result = small_shared_memory(command, '1m', tmp_path)
    assert result.returncode == 1, result.stderr[-3000:]
    errors = [line for line in result.stderr.splitlines() if line.startswith('error: ')]
    assert len(errors) == 1
    assert errors[0].startswith('error: /dev/shm has 1 MiB free, but the workers of train_dataloader keep some')
    setting = errors[0].rstrip('.').split()[-1]
    assert setting in ('train_dataloader.num_workers=0', 'train_dataloader.num_workers=1')
    result = small_shared_memory([*command, setting], '1m', tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
