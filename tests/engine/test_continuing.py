"""A training that ends early and continues comes out as one that was left alone, to the last bit."""

import io
import itertools
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from toy_training import run_toy, run_two, states, toy_config

from ralamala_mm.engine import DependableRunner
from ralamala_mm.engine.interruption import StopHook, TrainingStoppedError


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


@pytest.mark.parametrize('settings', [
    {'train_cfg.val_interval': 1, 'default_hooks.checkpoint.interval': 10},
    {'by_epoch': False, 'train_cfg.val_interval': 5, 'default_hooks.checkpoint.interval': 50},
    {'train_cfg.val_interval': 1, 'default_hooks.checkpoint.interval': 10, 'optim_wrapper.accumulative_counts': 3},
])
def test_a_signal_during_a_validation_without_a_checkpoint(settings: dict, tmp_path: Path):
    """What is averaged and what is trained keep their places."""
    alone = run_toy(toy_config(tmp_path / 'alone', **settings))
    with pytest.raises(TrainingStoppedError, match='after iteration 10; the same command') as caught:
        run_toy(toy_config(tmp_path / 'stopped', **settings), hooks=[SignalAt(signal.SIGUSR1, val_after=10)])
    assert caught.value.exit_code == 75
    assert not (tmp_path / 'stopped' / 'last_validation').exists() or \
        (tmp_path / 'stopped' / 'last_validation').read_text() == '5\n'
    resumed = run_toy(toy_config(tmp_path / 'stopped', **settings), 'auto')
    assert_same(states(alone), states(resumed))
    assert not (tmp_path / 'stopped' / 'interrupted.pth').exists()


@pytest.mark.parametrize('settings', [
    {}, {'default_hooks.checkpoint.interval': 4},
    {'default_hooks.checkpoint.save_best': 'mean_acc', 'default_hooks.checkpoint.rule': 'less'}])
def test_killed_just_after_a_validation(settings: dict, tmp_path: Path):
    """What a schedule made of the metric is not lost, and not made twice."""
    class KilledError(Exception):
        pass

    class Kill(Hook):
        def __init__(self, after: int):
            self.after = after

        def before_train_epoch(self, runner) -> None:
            if runner.iter == self.after:
                raise KilledError

    def config(folder: str) -> Config:
        made = toy_config(tmp_path / folder, length=8, **settings)
        made.param_scheduler = dict(type='ReduceOnPlateauLR', monitor='mean_acc', rule='greater', patience=0, threshold=99.0,
                                    threshold_rule='abs')
        return made

    alone = run_toy(config('alone'))
    for after in (10, 20):
        with pytest.raises(KilledError):
            run_toy(config('killed'), 'auto', [Kill(after)])
    resumed = run_toy(config('killed'), 'auto')
    assert resumed.optim_wrapper.get_lr()['lr'] == [pytest.approx(1e-4)]  # ten times less at two validations
    assert_same(states(alone), states(resumed))


def test_a_signal_just_before_a_validation(tmp_path: Path):
    """It does not begin."""
    class Validations(Hook):
        def before_val_iter(self, runner, batch_idx: int, data_batch=None) -> None:
            raise AssertionError('validated')

    with pytest.raises(TrainingStoppedError, match='SIGTERM stopped the training after iteration 10'):
        run_toy(toy_config(tmp_path, by_epoch=False), hooks=[SignalAt(signal.SIGTERM, train=10), Validations()])


def test_a_signal_during_a_validation_that_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrainingStoppedError):
        run_toy(toy_config('stopped'), hooks=[SignalAt(signal.SIGTERM, val_after=10)])

    def unheard(number: int, frame: object) -> None:
        raise AssertionError('nobody listened yet')

    signal.signal(signal.SIGUSR1, unheard)
    with pytest.raises(TrainingStoppedError, match='SIGUSR1 stopped the training after iteration 10'):
        run_toy(toy_config('stopped'), 'auto', [SignalAt(signal.SIGUSR1, val_after=10)])
    assert not (tmp_path / 'stopped' / 'interrupted.pth').exists()  # there is one of this iteration
    assert_same(states(run_toy(toy_config(tmp_path / 'alone'))), states(run_toy(toy_config(tmp_path / 'stopped'), 'auto')))


def test_a_signal_in_the_midst_of_printing(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture):
    class Terminal(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, content: bytes) -> int:
            os.kill(os.getpid(), signal.SIGTERM)
            return len(content)

    runner = SimpleNamespace(stop_reason=DependableRunner.stop_reason)
    runner.request_stop = lambda reason: setattr(runner, 'stop_reason', reason)
    StopHook().before_train(runner)
    with monkeypatch.context() as patched:
        patched.setattr(sys, 'stdout', io.TextIOWrapper(io.BufferedWriter(Terminal())))
        print('a line', flush=True)
    assert runner.stop_reason.name == 'TERMINATED'
    assert capfd.readouterr().out == 'SIGTERM received: stopping after this iteration\n'


# The second process gets a signal during the validation after iteration 10, of which each sees 3 batches; the first one keeps
# the store where they met, as a launcher may.
VALIDATING = """
folder, slow = Path(sys.argv[1]), int(sys.argv[2])

class Validation(Hook):
    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 10:
            time.sleep(1.5 if rank == slow else 0)
            if rank == 1 and batch_idx == 1:
                os.kill(os.getpid(), signal.SIGTERM)

try:
    run_toy(config(folder, **{'val_dataloader.dataset.length': 12}), hooks=[Validation()])
except UserError as error:
    print(error.sentence, flush=True)
    os._exit(error.exit_code)
"""


@pytest.mark.parametrize('slow', [0, 1], ids=['the other validates', 'the other waits for the results'])
def test_one_of_two_processes_is_told_during_a_validation(tmp_path: Path, slow: int):
    """Both end with the same code, and what was trained is there."""
    for code, text in run_two('from mmengine.hooks import Hook\n' + VALIDATING, tmp_path, slow):
        assert code == 143, text[-3000:]
        assert 'SIGTERM stopped the training after iteration 10; the same command' in text
    assert not (tmp_path / 'last_validation').exists()


# The rank 0's disk takes its time, or nothing; the second is told to end.
SAVING = """
from ralamala_mm.engine.checkpointing import DurableBackend
folder, full = Path(sys.argv[1]), sys.argv[2] == 'full'
put = DurableBackend.put

def slow_put(self, content, path):
    time.sleep(3)
    if full:
        raise OSError(28, 'No space left on device')
    put(self, content, path)

class Signal(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 7 and rank == 1:
            os.kill(os.getpid(), signal.SIGUSR1)

DurableBackend.put = slow_put
try:
    run_toy(config(folder, **{'optim_wrapper.accumulative_counts': 4}), hooks=[Signal()])
except UserError as error:
    print('saved:' if (folder / 'interrupted.pth').exists() else 'missing:', error.sentence, flush=True)
    os._exit(error.exit_code)
"""


@pytest.mark.parametrize(('disk', 'code', 'told'), [
    ('slow', 75, 'saved: SIGUSR1 stopped the training after iteration'),
    ('full', 1, 'after iteration 9, and no checkpoint of it could be written'),
])
def test_two_processes_save_and_end_together(tmp_path: Path, disk: str, code: int, told: str):
    for found, text in run_two('from mmengine.hooks import Hook\n' + SAVING, tmp_path, disk):
        assert found == code, text[-3000:]
        assert told in text


def test_another_number_of_batches(tmp_path: Path):
    """As with another batch size: the same share of the epoch counts as done."""
    with pytest.raises(TrainingStoppedError):
        run_toy(toy_config(tmp_path), hooks=[SignalAt(signal.SIGTERM, train=8)])
    runner = run_toy(toy_config(tmp_path, **{'train_dataloader.batch_size': 2}), 'auto')  # 9 batches for 5; 3 of 5 are done
    assert len(runner.model.numbers) == (9 - 5) + 2 * 9


def test_a_process_leaves_no_message_under_way():
    """Another one may still be saving its last checkpoint; gloo's thread would abort the first one when the answer comes."""
    hook, waited = StopHook(), []
    hook._pending = SimpleNamespace(wait=lambda: waited.append(True)), torch.tensor(0)
    hook.after_train(None)
    assert waited == [True]
    assert hook._pending is None
