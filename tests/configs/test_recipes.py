"""The recipes say what the released runs did: optimizers, what is decayed, learning rates over time, data."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, DefaultScope
from test_configs import build
from torch import nn

from ralamala_mm.engine import load_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Config]:
    monkeypatch.chdir(ROOT)
    return lambda name: load_config(f'configs/{name}.py')


def by_name(decay: float) -> Callable[[str, nn.Module], float]:
    """No decay where `norm` is in the name; the stem's batch norms and layer scale do not have it in theirs."""
    return lambda name, owner: 0.0 if 'norm' in name else decay


def by_name_and_layer(name: str, owner: nn.Module) -> float:
    is_norm = isinstance(owner, nn.modules.batchnorm._BatchNorm | nn.LayerNorm | nn.GroupNorm)
    return 0.0 if is_norm or 'norm' in name else 0.05


# From the papers' training code: learning rate, and the weight decay of a parameter by its name and the layer it is in.
RECIPES = {
    'retinanet_ravlt_t': (1e-4, lambda name, owner: 1e-4),
    'maskrcnn_ravlt_t': (1e-4, by_name(0.05)),
    'maskrcnn_mala_t_3x': (1e-4, by_name(0.05)),
    'cascade_maskrcnn_ravlt_t_3x': (1e-4, by_name_and_layer),
    'semanticfpn_mala_t': (1e-4, lambda name, owner: 1e-4),
    'upernet_ravlt_t': (6e-5, by_name(0.01)),
}


@pytest.mark.parametrize('name', RECIPES)
def test_parameter_groups(name: str, load: Callable[[str], Config]):
    lr, expected = RECIPES[name]
    config = load(name)
    model = build(config)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        optimizer = build_optim_wrapper(model, config.optim_wrapper).optimizer
    assert type(optimizer) is torch.optim.AdamW
    groups = {id(p): group for group in optimizer.param_groups for p in group['params']}
    parameters = dict(model.named_parameters())
    assert len(groups) == len(parameters)
    for key, parameter in parameters.items():
        group = groups[id(parameter)]
        assert group['weight_decay'] == expected(key, model.get_submodule(key.rpartition('.')[0])), key
        assert (group['lr'], tuple(group['betas'])) == (lr, (0.9, 0.999)), key
    stem = groups[id(parameters['backbone.patch_embed.proj.1.weight'])]['weight_decay']
    scale = groups[id(parameters['backbone.layers.0.blocks.0.gamma_1'])]['weight_decay']
    assert scale > 0
    assert (stem > 0) == ('cascade' not in name)


def learning_rates(config: Config, steps: list[int], epoch_length: int) -> list[float]:
    """The learning rate at these iterations, as MMEngine's hook steps its schedulers."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=config.optim_wrapper.optimizer.lr)
    schedulers = [PARAM_SCHEDULERS.build(dict(scheduler, optimizer=optimizer)) for scheduler in config.param_scheduler]
    rates = []
    for iteration in range(max(steps) + 1):
        if iteration in steps:
            rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            if not scheduler.by_epoch or (iteration + 1) % epoch_length == 0:
                scheduler.step()
    return rates


EPOCH = 200  # iterations, to keep the tests short: 500 of warm-up end in the third epoch
POLY = 1e-6 + (1e-4 - 1e-6) * 0.5 ** 0.9
SCHEDULES = {
    # Linear warm-up from 0.001 of the rate over 500 iterations; MMEngine reaches the end at iteration 499.
    'maskrcnn_ravlt_t': {0: 1e-7, 250: 1e-4 * (0.001 + 0.999 * 250 / 499), 500: 1e-4, 8 * EPOCH - 1: 1e-4, 8 * EPOCH: 1e-5,
                         11 * EPOCH - 1: 1e-5, 11 * EPOCH: 1e-6},
    'retinanet_mala_t': {0: 1e-7, 500: 1e-4, 8 * EPOCH: 1e-5, 11 * EPOCH: 1e-6},
    'cascade_maskrcnn_ravlt_t_3x': {0: 1e-7, 500: 1e-4, 27 * EPOCH - 1: 1e-4, 27 * EPOCH: 1e-5, 33 * EPOCH: 1e-6},
    'maskrcnn_mala_t_3x': {27 * EPOCH - 1: 1e-4, 27 * EPOCH: 1e-5, 33 * EPOCH: 1e-6, 36 * EPOCH - 1: 1e-6},
    'semanticfpn_ravlt_t': {0: 1e-4, 40_000: POLY, 79_999: 1e-6},
    'upernet_ravlt_t': {0: 6e-11, 750: 3e-5, 1500: 6e-5, 1500 + 79_250: 3e-5, 159_999: 0.0},
}


@pytest.mark.parametrize('name', SCHEDULES)
def test_learning_rates_over_time(name: str, load: Callable[[str], Config]):
    expected = SCHEDULES[name]
    rates = learning_rates(load(name), sorted(expected), EPOCH)
    for step, rate in zip(sorted(expected), rates, strict=True):
        # An iteration more or less at the ends of warm-up and decay is MMEngine's way of counting.
        assert rate == pytest.approx(expected[step], rel=5e-3, abs=0 if expected[step] else 1e-9), step


@pytest.mark.parametrize('name', RECIPES)
def test_lengths_batches_and_images(name: str, load: Callable[[str], Config]):
    config = load(name)
    assert config.auto_scale_lr.base_batch_size == 16
    assert config.train_dataloader.batch_size == 2
    preprocessor = config.model.data_preprocessor
    assert (preprocessor.mean, preprocessor.std) == ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    assert preprocessor.bgr_to_rgb
    if config.default_scope == 'mmdet':
        assert config.train_cfg.max_epochs == (36 if '3x' in name else 12)
        assert preprocessor.pad_size_divisor == 32
    else:
        assert config.train_cfg.max_iters == (160_000 if 'upernet' in name else 80_000)
        assert config.crop_size == (512, 512)
        assert config.model.decode_head.num_classes == 150
        assert config.model.test_cfg.mode == 'whole'
        assert config.tta_model.type == 'SegTTAModel'


def test_ade20k_images(load: Callable[[str], Config]):
    for name in ('semanticfpn_ravlt_s', 'upernet_mala_b'):
        config = load(name)
        train = {transform.type: transform for transform in config.train_dataloader.dataset.pipeline}
        assert (train['RandomResize'].scale, train['RandomResize'].ratio_range) == ((2048, 512), (0.5, 2.0))
        assert (train['RandomCrop'].crop_size, train['RandomCrop'].cat_max_ratio) == ((512, 512), 0.75)
        assert train['RandomFlip'].prob == 0.5
        assert 'PhotoMetricDistortion' in train
        assert train['LoadAnnotations'].reduce_zero_label
        test = {transform.type: transform for transform in config.test_dataloader.dataset.pipeline}
        assert (test['Resize'].scale, test['Resize'].keep_ratio) == ((2048, 512), True)


def test_multiscale_images(load: Callable[[str], Config]):
    for name in ('maskrcnn_ravlt_s_3x', 'cascade_maskrcnn_mala_b_3x'):
        choice = next(t for t in load(name).train_dataloader.dataset.pipeline if t.type == 'RandomChoice')
        (plain,), (first, crop, second) = choice.transforms
        shorts = [min(scale) for scale in plain.scales]
        assert shorts == list(range(480, 801, 32))
        assert {max(scale) for scale in plain.scales} == {1333}
        assert second == plain
        assert [min(scale) for scale in first.scales] == [400, 500, 600]
        assert (crop.crop_type, crop.crop_size) == ('absolute_range', (384, 600))


def test_heads(load: Callable[[str], Config]):
    cascade = load('cascade_maskrcnn_ravlt_s_3x').model
    assert [head.bbox_coder.target_stds[0] for head in cascade.roi_head.bbox_head] == [0.1, 0.05, 0.033]
    for head in cascade.roi_head.bbox_head:
        assert (head.type, head.norm_cfg.type, head.reg_decoded_bbox) == ('Shared4Conv1FCBBoxHead', 'SyncBN', True)
        assert (head.loss_bbox.type, head.loss_bbox.loss_weight) == ('GIoULoss', 10.0)
    assert cascade.rpn_head.loss_bbox.beta == pytest.approx(1 / 9)
    assert load('maskrcnn_ravlt_s').model.train_cfg.rpn_proposal.max_per_img == 1000
    upernet = load('upernet_mala_s').model
    assert upernet.decode_head.channels == 512
    assert (upernet.auxiliary_head.in_index, upernet.auxiliary_head.loss_decode.loss_weight) == (2, 0.4)
    semantic = load('semanticfpn_mala_s').model
    assert (semantic.neck.out_channels, semantic.decode_head.channels) == (256, 128)
