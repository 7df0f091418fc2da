"""--log-to: what TensorBoard reads is what the training recorded."""

import json
from pathlib import Path

import pytest
from mmengine.config import Config
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy_training import run_toy, toy_config

from ralamala_mm.engine import RECORDERS, use_recorders
from ralamala_mm.engine import work_dir as recorders
from ralamala_mm.errors import UserError


def test_tensorboard(tmp_path: Path):
    config = toy_config(tmp_path)
    use_recorders(config, ['tensorboard'])
    run_toy(config)
    (events,) = tmp_path.glob('*/vis_data/events*')
    (scalars,) = tmp_path.glob('*/vis_data/scalars.json')
    recorded = [json.loads(line) for line in scalars.read_text().splitlines()]
    reader = EventAccumulator(str(events.parent)).Reload()
    metrics = [entry['mean_acc'] for entry in recorded if 'mean_acc' in entry]
    assert metrics
    assert [event.value for event in reader.Scalars('mean_acc')] == pytest.approx(metrics)


def test_the_configs_own_settings_stay(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recorders, 'find_spec', lambda package: True)
    config = Config(dict(work_dir='work_dirs/a', visualizer=dict(type='SegLocalVisualizer', vis_backends=[
        dict(type='LocalVisBackend'), dict(type='WandbVisBackend', init_kwargs=dict(project='mine'))])))
    before = config.visualizer.to_dict()
    config_without = Config(dict(work_dir='work_dirs/a'))
    use_recorders(config, ['wandb'])
    use_recorders(config_without, list(RECORDERS))
    assert config.visualizer.to_dict() == before
    assert [backend.type for backend in config_without.visualizer.vis_backends] == [
        'LocalVisBackend', 'TensorboardVisBackend', 'WandbVisBackend']
    assert config_without.visualizer.vis_backends[-1].init_kwargs == dict(project='ralamala_mm', name='a')


@pytest.mark.parametrize('visualizer', [None, dict(type='Visualizer'), dict(
    type='Visualizer', vis_backends=dict(type='LocalVisBackend'))], ids=['none', 'no backends', 'one backend'])
def test_without_names_nothing_changes(visualizer: dict | None):
    config = Config(dict(work_dir='a') if visualizer is None else dict(work_dir='a', visualizer=visualizer))
    before = config.to_dict()
    use_recorders(config, [])
    assert config.to_dict() == before


def test_one_backend_without_a_list():
    config = Config(dict(work_dir='a', visualizer=dict(type='Visualizer', vis_backends=dict(type='LocalVisBackend'))))
    use_recorders(config, ['tensorboard'])
    assert [backend.type for backend in config.visualizer.vis_backends] == ['LocalVisBackend', 'TensorboardVisBackend']


@pytest.mark.parametrize('name', RECORDERS)
def test_without_the_package(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recorders, 'find_spec', lambda package: None)
    with pytest.raises(UserError, match=f'--log-to {name} needs the package {name}: pip install {name}'):
        use_recorders(Config(dict(work_dir='a')), [name])
