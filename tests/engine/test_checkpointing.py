"""Checkpoints are written whole, pointed to, and only then are older ones removed; a full disk ends nothing at once."""

import errno
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.fileio import get_file_backend, register_backend
from mmengine.hooks import Hook
from mmengine.registry import METRICS
from toy_training import ToyMetric, run_toy, toy_config

from ralamala_mm.engine import checkpointing as saving
from ralamala_mm.engine.checkpointing import DurableBackend
from ralamala_mm.engine.interruption import TrainingStoppedError
from ralamala_mm.files import UNFINISHED, atomic_write, remove_unfinished


@METRICS.register_module(force=True)
class RisingMetric(ToyMetric):
    """Better with each evaluation."""

    def __init__(self, **options):
        super().__init__(**options)
        self.values = itertools.count(0.1, 0.1)

    def compute_metrics(self, results: list) -> dict:
        return dict(mean_acc=next(self.values))


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob('*.pth'))


class FullDisk(DurableBackend):
    """Refuses the puts whose number, from 0, is in `refused`, after half of the bytes."""

    refused: tuple[int, ...] = ()
    puts = 0

    def put(self, obj: bytes, filepath: str) -> None:
        number, FullDisk.puts = FullDisk.puts, FullDisk.puts + 1

        def write(unfinished: Path) -> None:
            unfinished.write_bytes(obj[:len(obj) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        if number not in self.refused:
            super().put(obj, filepath)
        else:
            atomic_write(filepath, write, durable=True)


@pytest.fixture
def full_disk():
    register_backend('durable', FullDisk, force=True)
    FullDisk.puts = 0
    yield FullDisk
    FullDisk.refused = ()
    register_backend('durable', DurableBackend, force=True)


def test_a_file_is_whole_or_not_there(tmp_path: Path):
    def fail(unfinished: Path) -> None:
        unfinished.write_text('half')
        raise KeyError('in the middle')

    atomic_write(tmp_path / 'a' / 'file', lambda path: path.write_text('first'), durable=True)
    with pytest.raises(KeyError):
        atomic_write(tmp_path / 'a' / 'file', fail)
    assert (tmp_path / 'a' / 'file').read_text() == 'first'
    assert [path.name for path in (tmp_path / 'a').iterdir()] == ['file']


def test_what_a_killed_process_left_is_removed(tmp_path: Path):
    (tmp_path / f'.epoch_1.pth.abc{UNFINISHED}').touch()
    (tmp_path / 'epoch_1.pth').touch()
    remove_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['epoch_1.pth']


def test_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Seen at every step on the disk: a pointer to a checkpoint that is there, and two checkpoints once there were two."""
    steps = []

    def look(step: str) -> None:
        pointer = tmp_path / 'last_checkpoint'
        assert not pointer.exists() or Path(pointer.read_text()).exists(), step
        steps.append((step, len(checkpoints(tmp_path))))

    put, remove = DurableBackend.put, DurableBackend.remove

    def seen_put(self, obj: bytes, filepath: str) -> None:
        look('before putting')
        put(self, obj, filepath)
        look('put')

    def seen_remove(self, filepath: str) -> None:
        assert (tmp_path / 'last_checkpoint').read_text() != filepath
        look('before removing')
        remove(self, filepath)

    monkeypatch.setattr(DurableBackend, 'put', seen_put)
    monkeypatch.setattr(DurableBackend, 'remove', seen_remove)
    run_toy(toy_config(tmp_path, **{'default_hooks.checkpoint.max_keep_ckpts': 1}))
    assert [count for step, count in steps if step == 'before putting'] == [0, 1, 2, 2]
    assert [count for step, count in steps if step == 'put'] == [1, 2, 3, 3]
    assert [count for step, count in steps if step == 'before removing'] == [3, 3]
    assert checkpoints(tmp_path) == ['epoch_3.pth', 'epoch_4.pth']  # two, though one was asked for
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_4.pth')


def test_the_best_checkpoint_is_replaced_not_removed_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    best = []
    put = DurableBackend.put

    def seen(self, obj: bytes, filepath: str) -> None:
        best.append(len(list(tmp_path.glob('best_*'))))
        put(self, obj, filepath)

    monkeypatch.setattr(DurableBackend, 'put', seen)
    run_toy(toy_config(tmp_path, length=6, **{'default_hooks.checkpoint.save_best': 'mean_acc',
                                             'default_hooks.checkpoint.rule': 'greater', 'train_cfg.val_interval': 1}))
    assert max(best) == 1
    assert 0 not in best[best.index(1):]
    assert len(list(tmp_path.glob('best_*'))) == 1


def test_parts_named_by_their_package(tmp_path: Path):
    runner = run_toy(toy_config(tmp_path, **{'default_hooks.checkpoint.type': 'mmengine.hooks.CheckpointHook',
                                             'train_cfg.type': 'mmengine.runner.EpochBasedTrainLoop'}))
    assert any(isinstance(part, saving.DependableCheckpointHook) for part in runner.hooks)
    assert type(runner.train_loop).__name__ == 'ContinuingEpochLoop'


def test_a_best_checkpoint_that_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The record stays with the one that is there."""
    put = DurableBackend.put

    def refuse(self, obj: bytes, filepath: str) -> None:
        if Path(filepath).name == 'best_mean_acc_epoch_2.pth':
            raise OSError(28, 'No space left on device')
        put(self, obj, filepath)

    monkeypatch.setattr(DurableBackend, 'put', refuse)
    run_toy(toy_config(tmp_path, length=3, **{
        'default_hooks.checkpoint.save_best': 'mean_acc', 'default_hooks.checkpoint.rule': 'greater', 'train_cfg.val_interval': 1,
        'default_hooks.checkpoint.published_keys': ['meta', 'state_dict'], 'val_evaluator.type': 'RisingMetric'}))
    assert any(name.startswith('best_mean_acc_epoch_3') for name in checkpoints(tmp_path))


def test_gradients_that_wait_are_those_of_all_processes(tmp_path: Path):
    """Two processes with a gradient each, and one that only one of them has."""
    code = """
import os, sys, torch
from types import SimpleNamespace
from torch import distributed, nn
from mmengine.optim import OptimWrapper, OptimWrapperDict
from ralamala_mm.engine.checkpointing import accumulated_gradients

rank = int(sys.argv[1])
distributed.init_process_group('gloo', init_method=f'file://{sys.argv[2]}', rank=rank, world_size=2)
sizes = dict(both=2, one=1, none=1)
model = nn.ParameterDict({name: nn.Parameter(torch.zeros(size)) for name, size in sizes.items()})
wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1.0), accumulative_counts=2)
runner = SimpleNamespace(model=model, optim_wrapper=OptimWrapperDict(part=wrapper))
wrapper.initialize_count_status(model, 1, 4)
assert not wrapper.should_update()
model.both.grad = torch.full((2,), 1.0 + rank)
if rank:
    model.one.grad = torch.ones(1)
found = accumulated_gradients(runner)
assert {name: value.tolist() for name, value in found.items()} == {'both': [1.5, 1.5], 'one': [0.5]}, found
wrapper._inner_count = 2
assert accumulated_gradients(runner) == {}
distributed.destroy_process_group()  # gloo's threads end a process that leaves them running, at times with SIGABRT
"""
    processes = [subprocess.Popen([sys.executable, '-W', 'ignore', '-c', code, str(rank), str(tmp_path / 'meet')],
                                  stderr=subprocess.PIPE, text=True) for rank in range(2)]
    for process in processes:
        _, told = process.communicate(timeout=120)
        assert process.returncode == 0, told


def test_a_checkpoint_that_is_not_written(tmp_path: Path, full_disk: type[FullDisk], capfd: pytest.CaptureFixture):
    """Training continues; those that were there stay, and nothing half-written is left."""
    full_disk.refused = (1, 2)
    run_toy(toy_config(tmp_path, **{'default_hooks.checkpoint.max_keep_ckpts': 2}))
    assert checkpoints(tmp_path) == ['epoch_1.pth', 'epoch_4.pth']
    assert not list(tmp_path.glob(f'.*{UNFINISHED}'))
    assert torch.load(tmp_path / 'epoch_4.pth', weights_only=False)['meta']['epoch'] == 4
    told = capfd.readouterr()
    assert 'THE CHECKPOINT COULD NOT BE WRITTEN' in told.out + told.err
    assert 'No space left on device' in told.out + told.err
    assert f'Failures in a row: 2 of {saving.FAILURES_BEFORE_STOP}' in told.out + told.err


@pytest.mark.parametrize(('refused', 'done'), [((1, 2, 3), 20 + 1), ((5,), 30)])
def test_a_disk_that_stays_full(tmp_path: Path, full_disk: type[FullDisk], refused: tuple[int, ...], done: int):
    """The training ends in order after the third failure in a row, or when the last checkpoint could not be written."""
    full_disk.refused = refused
    with pytest.raises(TrainingStoppedError, match=f'no checkpoint could be written.* after iteration {done}') as caught:
        run_toy(toy_config(tmp_path, length=6))
    assert caught.value.exit_code == 1
    assert 'epoch_1.pth' in checkpoints(tmp_path)


class Signal(Hook):
    """Tells the training to end in its seventh iteration."""

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        if runner.iter == 6:
            os.kill(os.getpid(), signal.SIGUSR1)


def test_a_stop_that_cannot_save(tmp_path: Path, full_disk: type[FullDisk], capfd: pytest.CaptureFixture):
    """It asks for no further run, which would end alike."""
    full_disk.refused = (1,)
    with pytest.raises(TrainingStoppedError, match=r'SIGUSR1 stopped .* iteration 7, and no checkpoint of it could be') as caught:
        run_toy(toy_config(tmp_path), hooks=[Signal()])
    assert caught.value.exit_code == 1
    assert checkpoints(tmp_path) == ['epoch_1.pth']
    told = capfd.readouterr()
    assert 'Training stops; the newest checkpoint is' in told.out + told.err
    assert 'Training continues' not in told.out + told.err


def test_a_stop_without_a_checkpoint_hook(tmp_path: Path):
    config = toy_config(tmp_path)
    config.default_hooks.checkpoint = None
    with pytest.raises(TrainingStoppedError, match='no checkpoint of it could be written') as caught:
        run_toy(config, hooks=[Signal()])
    assert caught.value.exit_code == 1


def test_remote_folders_are_left_to_their_own_backend(tmp_path: Path):
    runner = run_toy(toy_config(tmp_path))
    hook = next(hook for hook in runner.hooks if isinstance(hook, saving.DependableCheckpointHook))
    assert hook.backend_args == dict(backend='durable')
    other = saving.DependableCheckpointHook(interval=1, out_dir='petrel://bucket')
    with pytest.raises(ImportError, match='petrel'):  # asked for, and not installed here
        other.before_train(runner)
    assert other.backend_args is None
    assert isinstance(get_file_backend('a.pth', backend_args=dict(backend='durable')), DurableBackend)
