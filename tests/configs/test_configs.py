"""Every config at the top parses, builds, trains and predicts on the CPU, and says what its recipe says."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

from ralamala_mm.engine import load_config
from ralamala_mm.variants import VARIANTS

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(str(path.relative_to(ROOT)) for folder in ('configs', 'configs/demo') for path in (ROOT / folder).glob('*.py'))
# Published for Mask R-CNN with RAVLT, in millions (README of https://github.com/qhfan/RALA).
PUBLISHED_PARAMETERS = dict(t=33, s=44, b=67, l=114)


def test_the_promised_configs_are_there():
    wanted = {f'configs/maskrcnn_{name}_{arch}.py' for name in ('ravlt', 'mala') for arch in VARIANTS}
    assert wanted <= set(CONFIGS)


def build(config: Config) -> torch.nn.Module:
    with DefaultScope.overwrite_default_scope('mmdet'):
        return revert_sync_batchnorm(MODELS.build(copy.deepcopy(config.model)))


def make_batch(config: Config, size: int = 64) -> dict:
    """One random picture with one instance, as the data loader would hand it over."""
    sample = DetDataSample(metainfo=dict(img_shape=(size, size), ori_shape=(size, size), scale_factor=(1.0, 1.0),
                                         batch_input_shape=(size, size), img_id=0))
    mask = np.zeros((1, size, size), np.uint8)
    mask[:, 8:40, 8:40] = 1
    sample.gt_instances = InstanceData(bboxes=torch.tensor([[8.0, 8, 40, 40]]), labels=torch.tensor([1]),
                                       masks=BitmapMasks(mask, size, size))
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    return dict(inputs=[torch.randint(0, 256, (3, size, size), dtype=torch.uint8)], data_samples=[sample])


@pytest.mark.parametrize('path', CONFIGS)
def test_builds_trains_and_predicts(path: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    config = load_config(path)
    model = build(config)
    variant = VARIANTS[config.model.backbone.arch]
    assert list(config.model.neck.in_channels) == list(variant.embed_dims)
    assert config.model.backbone.type.lower() in path
    if path.startswith('configs/maskrcnn'):
        parameters = sum(p.numel() for p in model.parameters()) / 1e6
        assert parameters == pytest.approx(PUBLISHED_PARAMETERS[config.model.backbone.arch], abs=1)

    model.train()
    batch = model.data_preprocessor(make_batch(config), training=True)
    losses = model(**batch, mode='loss')
    total, _ = model.parse_losses(losses)
    assert total.isfinite()
    total.backward()
    # What plain DDP asks for: every parameter takes part in every iteration.
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []

    model.eval()
    with torch.no_grad():
        (prediction,) = model.test_step(make_batch(config))
    assert prediction.pred_instances.bboxes.isfinite().all()
    assert prediction.pred_instances.masks.shape[1:] == (64, 64)


def test_the_1x_recipe(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    config = load_config('configs/maskrcnn_ravlt_t.py')
    assert config.train_cfg.max_epochs == 12
    assert config.auto_scale_lr.base_batch_size == 16
    assert config.train_dataloader.batch_size == 2
    warm_up, steps = config.param_scheduler
    assert (warm_up.start_factor, warm_up.end, steps.milestones, steps.gamma) == (0.001, 500, [8, 11], 0.1)
    model = build(config)
    optimizer = build_optim_wrapper(model, config.optim_wrapper).optimizer
    assert type(optimizer) is torch.optim.AdamW
    decay = {id(p): group['weight_decay'] for group in optimizer.param_groups for p in group['params']}
    assert {group['lr'] for group in optimizer.param_groups} == {1e-4}
    assert {group['betas'] for group in optimizer.param_groups} == {(0.9, 0.999)}
    for name, parameter in model.named_parameters():
        # By name, as in the released runs: the stem's batch norms and layer scale have no `norm` in theirs.
        assert decay[id(parameter)] == (0.0 if 'norm' in name else 0.05), name
    undecayed = {name for name, p in model.named_parameters() if decay[id(p)] == 0}
    assert 'backbone.layers.0.downsample.norm.weight' in undecayed
    assert 'backbone.patch_embed.proj.1.weight' not in undecayed


def test_maps_suit_roi_align():
    """mmcv's RoIAlign reads memory as if it were contiguous; what reaches it must be."""
    from mmcv.ops import roi_align

    from ralamala_mm import RAVLT

    maps = RAVLT('t').eval()(torch.randn(1, 3, 64, 64))
    assert all(result.is_contiguous() for result in maps)
    lateral = torch.nn.Conv2d(64, 8, 1)(maps[0])
    boxes = torch.tensor([[0.0, 1, 1, 9, 9]])
    expected = roi_align(lateral.clone(memory_format=torch.contiguous_format), boxes, (4, 4))
    assert torch.equal(roi_align(lateral, boxes, (4, 4)), expected)
