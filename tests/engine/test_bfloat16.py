"""Detectors under bfloat16 autocast on the CPU: the numbers of fp32, and fp32 where MMCV's operators need it."""

import copy
import json
import math
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path

import mmcv._ext
import mmdet.models.losses.focal_loss
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config, ConfigDict
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData
from torch import Tensor, nn
from toy_training import run_toy, states, toy_config

from ralamala_mm.engine import keep_operators_in_fp32, load_config, use_amp
from ralamala_mm.engine.bfloat16 import BFloat16OptimWrapper
from ralamala_mm.engine.cli import explain_failure

ROOT = Path(__file__).resolve().parents[2]
DETECTORS = sorted(path for folder in ('configs', 'configs/demo') for path in (ROOT / folder).glob('*.py')
                   if 'maskrcnn' in path.stem or 'retinanet' in path.stem)
SMALLEST = [path for path in DETECTORS if '_t' in path.stem]
SIZE, TINY, WIDTH = 128, (16, 16, 32, 32), 16  # pixels; channels of the backbone's stages and of what follows
STEP = 2.0 ** -8  # the relative distance of neighbours in bfloat16
HEADS = ('rpn_head', 'bbox_head', 'roi_head')
ROI_WIDTHS = dict(bbox_roi_extractor=['out_channels'], bbox_head=['in_channels', 'conv_out_channels', 'fc_out_channels'],
                  mask_roi_extractor=['out_channels'], mask_head=['in_channels', 'conv_out_channels'])


@cache
def shrunk(path: Path) -> ConfigDict:
    """The config's model with few channels; what the sizes of a backbone differ in is gone."""
    model = load_config(str(path)).model
    variant = dict(embed_dims=list(TINY), depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], mlp_ratio=2.0)
    model.backbone.update(arch=variant, pretrained=None, drop_path_rate=0.0)
    model.neck.update(in_channels=[TINY[i] for i in model.backbone.get('out_indices', range(4))], out_channels=WIDTH)
    for name in HEADS[:2]:
        if name in model:
            model[name].update(in_channels=WIDTH, feat_channels=WIDTH)
    for name, widths in ROI_WIDTHS.items() if 'roi_head' in model else ():
        parts = model.roi_head[name]
        for part in parts if isinstance(parts, list) else [parts]:
            part.update(dict.fromkeys(widths, WIDTH))
    return model


def build(path: Path) -> nn.Module:
    """The shrunk model in evaluation mode, as batch norms over so few values would enlarge every rounding."""
    import_module('mmdet.models')
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = revert_sync_batchnorm(MODELS.build(copy.deepcopy(shrunk(path)))).eval()
    for part in (model.roi_head, model.roi_head.test_cfg) if hasattr(model, 'roi_head') else ():
        if hasattr(part, 'score_thr'):
            part.score_thr = 0.0  # of 80 random classes none is likely
    return model


def make_batch(model: nn.Module) -> dict:
    """Two random images with two objects each, and proposals far from and near to them."""
    generator = torch.Generator().manual_seed(1)
    samples = []
    for i in range(2):
        sample = DetDataSample(metainfo=dict(img_shape=(SIZE, SIZE), ori_shape=(SIZE, SIZE), scale_factor=(1.0, 1.0),
                                             batch_input_shape=(SIZE, SIZE), img_id=i))
        masks = np.zeros((2, SIZE, SIZE), np.uint8)
        masks[0, 8:60, 8:60] = masks[1, 50:120, 20:110] = 1
        boxes = torch.tensor([[8.0, 8, 60, 60], [20, 50, 110, 120]])
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([1, 2]), masks=BitmapMasks(masks, SIZE, SIZE))
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
        corners = torch.rand(30, 4, generator=generator) * 60
        corners[:, 2:] += corners[:, :2] + 4
        near = boxes.repeat(10, 1) + torch.randn(20, 4, generator=generator) * 4
        sample.proposals = InstanceData(bboxes=torch.cat([corners, near]), scores=torch.rand(50, generator=generator))
        samples.append(sample)
    images = [torch.randint(0, 256, (3, SIZE, SIZE), dtype=torch.uint8, generator=generator) for _ in samples]
    return model.data_preprocessor(dict(inputs=images, data_samples=samples), training=True)


def autocast(enabled: bool) -> torch.autocast:
    return torch.autocast('cpu', torch.bfloat16, enabled=enabled)


def losses_and_gradient(model: nn.Module, batch: dict, half_maps: bool, half_heads: bool) -> tuple[dict[str, float], Tensor]:
    """Each loss, of the proposals in the batch where there are two stages, and the gradient of their sum.

    Args:
        model: a detector.
        batch: of `make_batch`.
        half_maps: runs backbone and neck under autocast.
        half_heads: runs the heads and their losses so.
    """
    model.zero_grad()
    torch.manual_seed(2)  # proposals are sampled
    samples = copy.deepcopy(batch['data_samples'])
    with autocast(half_maps):
        maps = model.extract_feat(batch['inputs'])
    with autocast(half_heads):
        maps = maps if half_heads else [x.float() for x in maps]
        if hasattr(model, 'roi_head'):
            objects = copy.deepcopy(samples)
            for sample in objects:
                sample.gt_instances.labels.zero_()
            losses = model.rpn_head.loss(maps, objects)
            losses |= model.roi_head.loss(maps, [sample.proposals for sample in samples], samples)
        else:
            losses = model.bbox_head.loss(maps, samples)
        total, logs = model.parse_losses(losses)
    total.backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])
    return {name: value.item() for name, value in logs.items() if 'loss' in name}, gradient


def layers(model: nn.Module) -> int:
    return sum(isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) for module in model.modules())


def distance(value: Tensor, expected: Tensor) -> float:
    return float((value.float() - expected).norm() / expected.norm())


@pytest.fixture
def operands(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[torch.dtype]]:
    """The floating dtypes that reached NMS, RoIAlign and the focal loss, as the test goes along."""
    seen: dict[str, set[torch.dtype]] = {}

    def spy(module: object, name: str) -> None:
        function = getattr(module, name)

        def call(*arguments, **keywords):
            seen.setdefault(name, set()).update(x.dtype for x in arguments if isinstance(x, Tensor) and x.is_floating_point())
            return function(*arguments, **keywords)

        monkeypatch.setattr(module, name, call)

    for name in ('roi_align_forward', 'roi_align_backward', 'nms'):
        spy(mmcv._ext, name)
    spy(mmdet.models.losses.focal_loss, 'py_sigmoid_focal_loss')  # of which the GPU's takes no bfloat16
    return seen


def test_sizes_differ_in_nothing_that_is_shrunk():
    """So that the smallest of each recipe stand for all."""
    others = [path for path in DETECTORS if path not in SMALLEST]
    assert len(others) == 24
    assert len(SMALLEST) >= 8
    for path in others:
        smallest = path.with_name(path.name.replace(f'_{path.stem.split("_")[-1 - path.stem.endswith("3x")]}', '_t'))
        assert shrunk(path) == shrunk(smallest)


@pytest.mark.parametrize('path', SMALLEST, ids=lambda path: path.stem)
def test_losses_and_gradients(path: Path, operands: dict[str, set[torch.dtype]]):
    """Twice the error that bfloat16 maps bring into heads in fp32, and that of one rounding more, of a gradient at each layer."""
    model = build(path)
    batch = make_batch(model)
    keep_operators_in_fp32(model)
    expected, gradient = losses_and_gradient(model, batch, half_maps=False, half_heads=False)
    reference, reference_gradient = losses_and_gradient(model, batch, half_maps=True, half_heads=False)
    operands.clear()
    found, found_gradient = losses_and_gradient(model, batch, half_maps=True, half_heads=True)
    one_stage = 'retinanet' in path.stem
    assert set(operands) == ({'py_sigmoid_focal_loss'} if one_stage else {'roi_align_forward', 'roi_align_backward'})
    assert all(dtypes == {torch.float32} for dtypes in operands.values())
    assert len(expected) >= 3
    for name, value in expected.items():
        assert abs(found[name] - value) <= 2 * abs(reference[name] - value) + STEP * abs(value), name
    rounding = STEP * math.sqrt(layers(model))  # a random walk of one step at each
    assert 0 < distance(found_gradient, gradient) <= 2 * distance(reference_gradient, gradient) + rounding


class Recorder:
    """Forward hooks on all heads that keep what they give, or give what was kept."""

    def __init__(self, model: nn.Module):
        self.heads = [module for module in model.modules() if hasattr(module, 'predict_by_feat')]
        self.outputs: list[object] = []

    def during(self, hook: Callable, run: Callable[[], list]) -> list:
        handles = [head.register_forward_hook(hook) for head in self.heads]
        try:
            return run()
        finally:
            for handle in handles:
                handle.remove()

    def keep(self, module: nn.Module, arguments: tuple, output: object) -> None:
        self.outputs.append(copy.deepcopy(output))

    def give(self, module: nn.Module, arguments: tuple, output: object) -> object:
        return self.outputs.pop(0)


@pytest.mark.parametrize('path', SMALLEST, ids=lambda path: path.stem)
def test_predictions(path: Path, operands: dict[str, set[torch.dtype]]):
    """Heads give what they give in fp32 but for roundings, and the rest is as in fp32 to the bit: boxes, scores, masks."""
    model = build(path)
    batch = make_batch(model)
    for sample in batch['data_samples']:
        del sample.proposals  # which would take the place of the RPN's

    def predict(half: bool) -> list[InstanceData]:
        with autocast(half), torch.no_grad():
            return [sample.pred_instances for sample in model(**copy.deepcopy(batch), mode='predict')]

    with pytest.raises(RuntimeError, match='BFloat16') as caught:
        predict(half=True)
    assert 'takes no bfloat16' in explain_failure(caught.value, dict(resume=None))
    keep_operators_in_fp32(model)
    heads = Recorder(model)
    operands.clear()
    found = heads.during(heads.keep, lambda: predict(half=True))
    assert set(operands) == ({'nms'} if 'retinanet' in path.stem else {'nms', 'roi_align_forward'})
    assert all(dtypes == {torch.float32} for dtypes in operands.values())
    with torch.no_grad():
        expected = heads.heads[0](model.extract_feat(batch['inputs']))
        with autocast(enabled=True):
            maps = model.extract_feat(batch['inputs'])
        reference = heads.heads[0]([x.float() for x in maps])
    for by_level in zip(heads.outputs[0], expected, reference, strict=True):  # of the dense head: scores, then deltas
        output, full, half_maps = (torch.cat([x.flatten() for x in levels]) for levels in by_level)
        assert output.dtype == torch.float32
        assert 0 < distance(output, full) <= 2 * distance(half_maps, full) + STEP

    for instances, expected in zip(found, heads.during(heads.give, lambda: predict(half=False)), strict=True):
        assert not heads.outputs
        assert len(instances) > 10
        assert instances.keys() == expected.keys()
        for name, values in instances.items():
            assert torch.equal(torch.as_tensor(values), torch.as_tensor(expected[name])), name


def dense_detector(base: str, folder: Path) -> nn.Module:
    """One of MMDetection's own with a small RAVLT, in evaluation mode."""
    path = folder / 'config.py'
    path.write_text(f"_base_ = 'mmdet::{base}'")
    model = load_config(str(path)).model
    indices = model.backbone.get('out_indices', range(4))
    variant = dict(embed_dims=list(TINY), depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], mlp_ratio=2.0)
    model.backbone = dict(type='RAVLT', arch=variant, out_indices=indices)
    model.neck.in_channels = [TINY[i] for i in indices]
    import_module('mmdet.models')
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(model).eval()


@pytest.mark.parametrize('base', ['fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', 'gfl/gfl_r50_fpn_1x_coco.py',
                                  'autoassign/autoassign_r50-caffe_fpn_1x_coco.py'])
def test_other_heads(base: str, tmp_path: Path):
    """Of which AutoAssign fails by itself, though it has no operator of MMCV's in its loss."""
    model = dense_detector(base, tmp_path)
    batch = make_batch(model)
    keep_operators_in_fp32(model)
    totals = []
    for half in (False, True):
        with autocast(half):
            total, _ = model.parse_losses(model(**copy.deepcopy(batch), mode='loss'))
        totals.append(total.item())
        total.backward()
        with autocast(half), torch.no_grad():
            assert model(**copy.deepcopy(batch), mode='predict')[0].pred_instances.bboxes.isfinite().all()
    assert totals[1] == pytest.approx(totals[0], rel=STEP * math.sqrt(layers(model)))


def test_other_operators_are_refused(tmp_path: Path):
    """Deformable convolutions make their offsets under autocast, inside."""
    model = dense_detector('vfnet/vfnet_r50_fpn_1x_coco.py', tmp_path)
    keep_operators_in_fp32(model)
    with pytest.raises(RuntimeError) as caught, autocast(enabled=True):
        model(**make_batch(model), mode='loss')
    assert explain_failure(caught.value, dict(resume=None)).startswith(
        'an operator of this model takes no bfloat16: take --amp for float16 (--amp-dtype bfloat16 casts for RoIAlign')


def test_training_on_the_cpu(tmp_path: Path):
    """Layers compute in bfloat16, weights stay in fp32, and resuming with accumulated gradients gives the same weights."""
    seen = []

    def train(name: str, resume: str | None = None, **settings) -> dict:
        config = toy_config(tmp_path / name, **{'optim_wrapper.accumulative_counts': 3, **settings})
        use_amp(config, 'bfloat16')
        runner = run_toy(config, resume)
        assert isinstance(runner.optim_wrapper, BFloat16OptimWrapper)
        return states(runner)

    handle = nn.modules.module.register_module_forward_hook(lambda module, _, output: seen.append((type(module), output)))
    try:
        whole = train('whole')
    finally:
        handle.remove()
    assert {output.dtype for kind, output in seen if kind is nn.Linear} >= {torch.bfloat16}
    assert all(value.dtype != torch.bfloat16 for value in whole['weights'].values())
    resumed = train('whole', str(tmp_path / 'whole' / 'epoch_2.pth'))
    assert resumed['iter'] == whole['iter']
    for key, value in whole['weights'].items():
        assert torch.equal(value, resumed['weights'][key])


@pytest.mark.slow
def test_through_the_training_tool(call: Callable, shapes_root: Path, tmp_path: Path):
    result = call('python', 'tools/train.py', 'tests/faults/configs/tiny_detector.py', '--amp-dtype', 'bfloat16',
                  '--work-dir', tmp_path, '--data', shapes_root, '--cfg-options', 'train_cfg.max_epochs=1',
                  'train_cfg.val_interval=1', 'train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False')
    assert result.returncode == 0, result.stderr
    (scalars,) = tmp_path.glob('*/vis_data/scalars.json')
    recorded = [json.loads(line) for line in scalars.read_text().splitlines()]
    losses = [entry['loss'] for entry in recorded if 'loss' in entry]
    assert len(losses) == 6
    assert all(math.isfinite(loss) for loss in losses)
    assert any('coco/segm_mAP' in entry for entry in recorded)
    dumped = Config.fromfile(tmp_path / 'tiny_detector.py')
    assert dumped.optim_wrapper.type == 'ralamala_mm.engine.bfloat16.BFloat16OptimWrapper'
