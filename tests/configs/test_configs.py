"""Every config at the top parses, builds, trains and predicts on the CPU."""

import copy
import dataclasses
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample

from ralamala_mm.engine import load_config
from ralamala_mm.families import FAMILIES, VARIANTS

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(str(path.relative_to(ROOT)) for folder in ('configs', 'configs/demo') for path in (ROOT / folder).glob('*.py'))
RECIPES = ('retinanet_{}_{}', 'maskrcnn_{}_{}', 'maskrcnn_{}_{}_3x', 'cascade_maskrcnn_{}_{}_3x', 'semanticfpn_{}_{}',
           'upernet_{}_{}')


def test_the_promised_configs_are_there():
    wanted = {f'configs/{recipe.format(name.lower(), arch)}.py' for recipe in RECIPES
              for name, family in FAMILIES.items() for arch in family.variants}
    assert len(wanted) == 6 * 2 * 4
    assert wanted == {path for path in CONFIGS if 'demo' not in path}


def build(config: Config) -> torch.nn.Module:
    import_module(f'{config.default_scope}.models')
    with DefaultScope.overwrite_default_scope(config.default_scope):
        return revert_sync_batchnorm(MODELS.build(copy.deepcopy(config.model)))


def detection_batch(size: int = 64) -> dict:
    """One random image with one instance, as the data loader would hand it over."""
    sample = DetDataSample(metainfo=dict(img_shape=(size, size), ori_shape=(size, size), scale_factor=(1.0, 1.0),
                                         batch_input_shape=(size, size), img_id=0))
    mask = np.zeros((1, size, size), np.uint8)
    mask[:, 8:40, 8:40] = 1
    sample.gt_instances = InstanceData(bboxes=torch.tensor([[8.0, 8, 40, 40]]), labels=torch.tensor([1]),
                                       masks=BitmapMasks(mask, size, size))
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    return dict(inputs=[torch.randint(0, 256, (3, size, size), dtype=torch.uint8)], data_samples=[sample])


def segmentation_batch(num_classes: int, size: int = 64) -> dict:
    """Two images, as UPerNet's batch norms after pooling to 1×1 ask for more than one."""
    samples = []
    for _ in range(2):
        sample = SegDataSample(metainfo=dict(img_shape=(size, size), ori_shape=(size, size), pad_shape=(size, size)))
        sample.gt_sem_seg = PixelData(data=torch.randint(0, num_classes, (1, size, size)))
        samples.append(sample)
    return dict(inputs=[torch.randint(0, 256, (3, size, size), dtype=torch.uint8) for _ in samples], data_samples=samples)


@pytest.fixture
def _one_block_per_stage(monkeypatch: pytest.MonkeyPatch):
    """Nothing that a config says depends on the number of blocks, which tests/backbones checks against the released models."""
    for arch, variant in VARIANTS.items():
        monkeypatch.setitem(VARIANTS, arch, dataclasses.replace(variant, depths=(1,) * len(variant.depths)))


@pytest.mark.usefixtures('_one_block_per_stage')
@pytest.mark.parametrize('path', CONFIGS)
def test_builds_trains_and_predicts(path: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    config = load_config(path)
    segments = config.default_scope == 'mmseg'
    if segments:
        assert config.model.data_preprocessor.size is not None
        config.model.data_preprocessor.size = (64, 64)  # not padded to the size of the recipe's crops
    model = build(config)
    backbone = model.backbone
    family, arch = Path(path).stem.replace('cascade_', '').split('_')[1:3]
    assert (type(backbone).__name__.lower(), backbone.arch) == (family, arch)
    assert 'depth' not in config.model.backbone
    channels = config.model.neck.in_channels if 'neck' in config.model else config.model.decode_head.in_channels
    assert tuple(channels) == backbone.out_channels
    batch = segmentation_batch(config.model.decode_head.num_classes) if segments else detection_batch()

    model.train()
    total, _ = model.parse_losses(model(**model.data_preprocessor(copy.deepcopy(batch), training=True), mode='loss'))
    assert total.isfinite()
    total.backward()
    # What plain DDP asks for: every parameter takes part in every iteration.
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []

    model.eval()
    with torch.no_grad():
        prediction = model.test_step(batch)[0]
    if segments:
        assert prediction.pred_sem_seg.data.shape == (1, 64, 64)
        assert prediction.seg_logits.data.shape[0] == config.model.decode_head.num_classes
        assert prediction.seg_logits.data.isfinite().all()
    else:
        assert prediction.pred_instances.bboxes.isfinite().all()
        assert ('masks' in prediction.pred_instances) == ('maskrcnn' in path)
        if 'maskrcnn' in path:
            assert prediction.pred_instances.masks.shape[1:] == (64, 64)


@pytest.mark.parametrize('path', [path for path in CONFIGS if 'demo' not in path])
def test_starts_from_the_released_weights(path: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    backbone = load_config(path).model.backbone
    expected = None  # the names of MALA's files are not known
    if 'ravlt' in path:
        expected = f'https://huggingface.co/aldjalkdf/RAVLT/resolve/main/RAVLT_{backbone.arch.upper()}.pth'
    assert backbone.pretrained == expected


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
