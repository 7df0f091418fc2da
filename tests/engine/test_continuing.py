"""A training that ends early and goes on comes out as one that was left alone, to the last bit."""

import itertools
import os
import signal
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from toy_training import run_toy, states, toy_config

from ralamala_mm.engine.stopping import TrainingStoppedError


class SignalAt(Hook):
    """Sends this process a signal in an iteration of training or validation."""

    def __init__(self, number: int, train: int | None = None, val_after: int | None = None):
        self.number, self.train, self.val_after = number, train, val_after

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        if runner.iter + 1 == self.train:
            os.kill(os.getpid(), self.number)

    def before_val_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        if runner.iter == self.val_after:
            os.kill(os.getpid(), self.number)


def assert_same(first: object, second: object, place: str = '') -> None:
    """Equal to the last bit."""
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), place
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), place
        for key in first:
            assert_same(first[key], second[key], f'{place}.{key}')
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), place
        for i, pair in enumerate(zip(first, second, strict=True)):
            assert_same(*pair, f'{place}.{i}')
    else:
        assert first == second, place


SETTINGS = {
    'epochs': dict(by_epoch=True),
    'iterations': dict(by_epoch=False),
    'iterations of a data set with epochs': {'by_epoch': False, 'train_dataloader.sampler.type': 'DefaultSampler'},
    'accumulated gradients': {'by_epoch': True, 'optim_wrapper.accumulative_counts': 3},
    'two workers': {'by_epoch': True, 'train_dataloader.num_workers': 2},
    'the last batch dropped': {'by_epoch': True, 'train_dataloader.drop_last': True, 'length': 5},
}
assert SETTINGS


@pytest.fixture(autouse=True)
def signals():
    """The process's own handlers afterwards, and no long wait between passes through the data."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.parametrize('settings', SETTINGS.values(), ids=SETTINGS)
def test_stopped_and_resumed(settings: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr('time.sleep', lambda seconds: None)  # MMEngine's two seconds between passes through the data
    alone = run_toy(toy_config(tmp_path / 'alone', **settings))
    for stop in (3, 5, 9, 13):  # within an epoch, and at the end of one
        with pytest.raises(TrainingStoppedError, match='SIGTERM stopped the training after iteration'):
            run_toy(toy_config(tmp_path / 'stopped', **settings), 'auto', [SignalAt(signal.SIGTERM, train=stop)])
    resumed = run_toy(toy_config(tmp_path / 'stopped', **settings), 'auto')
    assert resumed.iter == alone.iter == 20
    assert_same(states(alone), states(resumed))
    assert not (tmp_path / 'stopped' / 'interrupted.pth').exists()


def test_the_number_of_workers_changes_nothing(tmp_path: Path):
    runs = [run_toy(toy_config(tmp_path / str(workers), **{'train_dataloader.num_workers': workers})) for workers in (0, 1, 3)]
    for other in runs[1:]:
        assert_same(states(runs[0]), states(other))


def test_each_sample_is_seen_once_an_epoch(tmp_path: Path):
    """Also when the epoch is interrupted."""
    with pytest.raises(TrainingStoppedError):
        run_toy(toy_config(tmp_path), hooks=[SignalAt(signal.SIGTERM, train=7)])
    first = torch.load(tmp_path / 'interrupted.pth', weights_only=False)['meta']
    assert (first['epoch'], first['iter'], tuple(first['batches'])) == (1, 7, (2, 5))
    runner = run_toy(toy_config(tmp_path), 'auto')
    alone = run_toy(toy_config(tmp_path / 'alone'))
    assert runner.model.numbers == alone.model.numbers[7:]
    for epoch in range(4):
        seen = sorted(itertools.chain(*alone.model.numbers[5 * epoch:5 * epoch + 5]))
        assert seen == list(range(18))


def test_exit_codes(tmp_path: Path):
    """What schedulers are told: 75 asks to be started again."""
    for number, code in ((signal.SIGTERM, 143), (signal.SIGUSR1, 75)):
        with pytest.raises(TrainingStoppedError) as caught:
            run_toy(toy_config(tmp_path / str(code)), hooks=[SignalAt(number, train=2)])
        assert caught.value.exit_code == code


def test_a_signal_during_validation(tmp_path: Path):
    """The epoch's checkpoint is there; the validation that was cut short is made up for."""
    alone = run_toy(toy_config(tmp_path / 'alone'))
    with pytest.raises(TrainingStoppedError, match='after iteration 10'):
        run_toy(toy_config(tmp_path / 'stopped'), hooks=[SignalAt(signal.SIGTERM, val_after=10)])
    assert not (tmp_path / 'stopped' / 'interrupted.pth').exists()

    class Validations(Hook):
        iterations = []

        def after_val_epoch(self, runner, metrics=None) -> None:
            self.iterations.append(runner.iter)

    resumed = run_toy(toy_config(tmp_path / 'stopped'), 'auto', [Validations()])
    assert Validations.iterations == [10, 20]
    assert_same(states(alone), states(resumed))
    again = run_toy(toy_config(tmp_path / 'stopped'), 'auto', [Validations()])
    assert Validations.iterations == [10, 20]  # nothing was left to do
    assert again.iter == 20


def test_another_number_of_batches(tmp_path: Path):
    """As with another batch size: the same share of the epoch counts as done."""
    with pytest.raises(TrainingStoppedError):
        run_toy(toy_config(tmp_path), hooks=[SignalAt(signal.SIGTERM, train=8)])
    runner = run_toy(toy_config(tmp_path, **{'train_dataloader.batch_size': 2}), 'auto')  # 9 batches for 5; 3 of 5 are done
    assert len(runner.model.numbers) == (9 - 5) + 2 * 9
