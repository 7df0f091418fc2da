"""From command-line options to a config."""

import argparse
import copy
import pickle
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from ralamala_mm.datasets import set_data_root
from ralamala_mm.datasets.config import datasets_of
from ralamala_mm.engine import add_amp_options, load_config, prepare_config, use_amp, use_auto_scale_lr
from ralamala_mm.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.chdir(ROOT)
    return load_config('configs/maskrcnn_ravlt_t.py')


def arguments(**values) -> argparse.Namespace:
    defaults = dict(config='configs/maskrcnn_ravlt_t.py', cfg_options=None, launcher='none', work_dir=None, data=None)
    return argparse.Namespace(**{**defaults, **values})


def test_the_data_root_moves_everywhere(config: Config):
    set_data_root(config, '/elsewhere')
    roots = {mode: dataset.data_root for mode, dataset in datasets_of(config)}
    assert roots == dict.fromkeys(('train', 'val', 'test'), '/elsewhere/')
    assert config.val_evaluator.ann_file == '/elsewhere/annotations/instances_val2017.json'
    assert config.test_evaluator.ann_file == '/elsewhere/annotations/instances_val2017.json'
    assert config.train_dataloader.dataset.ann_file == 'annotations/instances_train2017.json'


def test_the_text_follows_the_settings(config: Config):
    plain = Config(config.to_dict())
    assert config.pretty_text == plain.pretty_text
    config.model.backbone.arch = plain.model.backbone.arch = 'l'
    assert config.pretty_text == plain.pretty_text
    for again in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert again.pretty_text == plain.pretty_text
    assert 'pretty_text' not in config
    assert '_formatted' not in config


def test_no_workers_and_persistent_workers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    config = prepare_config(arguments(cfg_options={'train_dataloader.num_workers': 0}))
    assert config.train_dataloader.persistent_workers is False
    assert config.val_dataloader.persistent_workers is True


@pytest.mark.parametrize(('given', 'expected'), [(None, 'work_dirs/maskrcnn_ravlt_t'), ('/tmp/x', '/tmp/x')])
def test_work_dir(given: str | None, expected: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    assert prepare_config(arguments(work_dir=given)).work_dir == expected


def test_auto_scale_lr_needs_a_base(config: Config):
    use_auto_scale_lr(config)
    assert config.auto_scale_lr.enable
    assert config.auto_scale_lr.base_batch_size == 16
    config.auto_scale_lr = {}
    with pytest.raises(UserError, match='base_batch_size'):
        use_auto_scale_lr(config)


def test_auto_scale_lr_counts_accumulated_gradients(config: Config):
    """4 × 2 images a step and two steps an update are the batch of 16 that the rate is made for."""
    config.optim_wrapper.accumulative_counts = 2
    use_auto_scale_lr(config)
    assert (4 * 2) / config.auto_scale_lr.base_batch_size == 1  # as MMEngine scales: GPUs × images / base


@pytest.mark.parametrize(('text', 'message'), [
    ('model = (', 'is not valid Python'),
    ("_base_ = './nothing.py'", 'a base of config .* does not exist'),
    ('model = undefined', 'cannot be read \\(NameError'),
])
def test_broken_configs(text: str, message: str, tmp_path: Path):
    path = tmp_path / 'config.py'
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_config(str(path))


def test_neighbours_of_the_data_root_stay():
    config = Config(dict(data_root='data/coco', train_dataloader=dict(dataset=dict(
        data_root='data/coco', ann_file='data/coco/a.json', other='data/coco_extra/b.json'))))
    set_data_root(config, '/x')
    assert dict(config.train_dataloader.dataset) == dict(data_root='/x/', ann_file='/x/a.json', other='data/coco_extra/b.json')
    with pytest.raises(UserError, match='--data needs a config with data_root'):
        set_data_root(Config(dict(data_root='')), '/x')


def test_options_that_do_not_fit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match='--cfg-options do not fit'):
        load_config('configs/maskrcnn_ravlt_t.py', {'param_scheduler.9.begin': 3})


def test_mmseg_s_configs_are_found_whatever_its_package_is_called(monkeypatch: pytest.MonkeyPatch):
    """OneDL distributes MMSegmentation under another name than MMEngine looks for."""
    from mmengine.config.utils import MODULE2PACKAGE

    from ralamala_mm.engine import config as module

    monkeypatch.chdir(ROOT)
    monkeypatch.setitem(MODULE2PACKAGE, 'mmseg', 'mmsegmentation')
    monkeypatch.setattr(module, 'is_installed', lambda name: False)
    assert load_config('configs/upernet_ravlt_t.py').default_scope == 'mmseg'
    assert MODULE2PACKAGE['mmseg'] == 'mmseg'


def test_mixed_precision(monkeypatch: pytest.MonkeyPatch):
    def wrapper(amp: str, **settings) -> dict:
        config = Config(dict(optim_wrapper=dict(dict(type='OptimWrapper', optimizer=dict(type='AdamW')), **settings)))
        use_amp(config, amp)
        assert config.optim_wrapper.pop('optimizer') == dict(type='AdamW')
        return dict(config.optim_wrapper)

    bfloat16 = dict(type='ralamala_mm.engine.bfloat16.BFloat16OptimWrapper')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert wrapper('bfloat16') == bfloat16
    with pytest.raises(UserError, match='--amp needs a GPU'):
        wrapper('float16')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    assert wrapper('float16', clip_grad=dict(max_norm=1)) == dict(
        type='AmpOptimWrapper', dtype='float16', loss_scale='dynamic', clip_grad=dict(max_norm=1))
    monkeypatch.setattr(torch.version, 'cuda', '13.0')
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda: (8, 0))
    assert wrapper('bfloat16', type='AmpOptimWrapper', dtype='float16', loss_scale=512.0) == bfloat16
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda: (7, 5))
    with pytest.raises(UserError, match='this GPU does not support it; give --amp alone'):
        wrapper('bfloat16')
    parser = argparse.ArgumentParser()
    add_amp_options(parser)
    given = [parser.parse_args(line.split()).amp for line in ('', '--amp', '--amp-dtype bfloat16', '--amp --amp-dtype bfloat16')]
    assert given == [None, 'float16', 'bfloat16', 'bfloat16']
