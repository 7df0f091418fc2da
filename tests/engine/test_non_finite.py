"""Losses and gradients that are not finite: named, kept out of the weights, and the end of it."""

from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from toy_training import run_toy, toy_config

from ralamala_mm.engine import DependableRunner
from ralamala_mm.engine.interruption import TrainingStoppedError
from ralamala_mm.engine.non_finite import NonFiniteHook, non_finite_names
from ralamala_mm.errors import OptionError


class Watch(Hook):
    """The weights and statistics after each iteration."""

    priority = 'LOWEST'

    def __init__(self):
        self.states = []

    def after_train_iter(self, runner: DependableRunner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self.states.append({key: value.clone() for key, value in runner.model.state_dict().items()})


def test_an_update_is_left_out(tmp_path: Path, capfd: pytest.CaptureFixture):
    """Sample 5 is poisoned: the iterations that see it change nothing but the count of batches, the others continue."""
    watch = Watch()
    runner = run_toy(toy_config(tmp_path, **{'model.poisoned': 5}), hooks=[watch])
    bad = [i for i, numbers in enumerate(runner.model.numbers) if 5 in numbers]
    assert len(bad) == 4  # once an epoch
    for i, (before, after) in enumerate(zip(watch.states, watch.states[1:], strict=False), 1):
        same = all(torch.equal(before[key], after[key]) for key in before if not key.endswith('num_batches_tracked'))
        assert same == (i in bad)
    assert all(torch.isfinite(value).all() for value in runner.model.state_dict().values())
    averaged = next(hook.ema_model for hook in runner.hooks if hasattr(hook, 'ema_model'))
    assert all(torch.isfinite(value).all() for value in averaged.state_dict().values())
    told = ''.join(capfd.readouterr())
    assert f'iteration {bad[0] + 1}: loss, loss_fit are not finite' in told
    assert 'the update is left out, 1 in a row' in told


def test_too_many_in_a_row(tmp_path: Path):
    with pytest.raises(TrainingStoppedError, match='stopped after iteration 6, as losses or gradients stayed') as caught:
        run_toy(toy_config(tmp_path, **{'model.poisoned': 0, 'train_dataloader.dataset.length': 4, 'non_finite': 6}, length=20))
    assert caught.value.exit_code == 1


def test_wrong_ones_among_accumulated_gradients(tmp_path: Path):
    """Of five iterations that make an update one is wrong: no update is ever made, and the training ends."""
    with pytest.raises(TrainingStoppedError, match='stopped after iteration'):
        run_toy(toy_config(tmp_path, **{'model.poisoned': 5, 'optim_wrapper.accumulative_counts': 5, 'non_finite': 4}, length=6))


def test_skip_never_stops(tmp_path: Path):
    runner = run_toy(toy_config(tmp_path, **{'model.poisoned': 0, 'train_dataloader.dataset.length': 4, 'non_finite': 'skip'},
                                length=30))
    assert runner.iter == 30


def test_off(tmp_path: Path):
    runner = run_toy(toy_config(tmp_path, **{'model.poisoned': 5, 'non_finite': 'off'}))
    assert not any(isinstance(hook, NonFiniteHook) for hook in runner.hooks)
    assert any(not torch.isfinite(value).all() for value in runner.model.parameters())


def test_a_gradient_alone(tmp_path: Path, capfd: pytest.CaptureFixture):
    class Overflow(Hook):
        """A finite loss whose gradient overflows in one parameter."""

        def before_train(self, runner: DependableRunner) -> None:
            runner.model.layers[3].weight.register_hook(
                lambda gradient: gradient * (float('inf') if runner.iter == 7 else 1))

    watch = Watch()
    run_toy(toy_config(tmp_path), hooks=[Overflow(), watch])
    assert 'iteration 8: the gradient of layers.3.weight is not finite' in ''.join(capfd.readouterr())
    assert torch.equal(watch.states[6]['layers.0.weight'], watch.states[7]['layers.0.weight'])
    assert not torch.equal(watch.states[7]['layers.0.weight'], watch.states[8]['layers.0.weight'])


def test_accumulated_gradients(tmp_path: Path):
    """The update of three iterations is left out if one of them was not finite."""
    runner = run_toy(toy_config(tmp_path, **{'model.poisoned': 5, 'optim_wrapper.accumulative_counts': 3}))
    assert all(torch.isfinite(value).all() for value in runner.model.parameters())


@pytest.mark.parametrize('policy', [0, -3, 'stop', 2.5, True, None])
def test_policies_that_are_none(policy: object):
    with pytest.raises(OptionError, match="must be 'skip', 'off', or the number of iterations"):
        NonFiniteHook(policy)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_large_values_are_finite(dtype: torch.dtype):
    """Their squares overflow, they do not."""
    large, small = torch.full((7,), torch.finfo(dtype).max, dtype=dtype), torch.ones(2, 3, dtype=dtype)
    assert non_finite_names({'large': large, 'small': small, 'empty': small[:0]}) == []
    wrong = {'large': large, 'infinite': -large * 2, 'small': small, 'nan': small / 0 * 0}
    assert non_finite_names(wrong) == ['infinite', 'nan']
