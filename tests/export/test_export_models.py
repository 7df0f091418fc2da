"""Detectors and segmentors in ONNX find what MMDetection and MMSegmentation find; their parts against the libraries' own."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ralamala_mm.backbones.hybrid import use_backend
from ralamala_mm.engine import build_model, load_config
from ralamala_mm.errors import UserError
from ralamala_mm.export import image_model, write_onnx
from ralamala_mm.export.comparison import compare_results, faults, scale_random_weights
from ralamala_mm.export.detection import decode
from ralamala_mm.export.images import Normalization
from ralamala_mm.export.onnx import onnx_session
from ralamala_mm.export.operators import AdaptivePooling, paste, suppress

CONFIGS = Path(__file__).parents[2] / 'configs' / 'demo'
SMALL = dict(embed_dims=(16, 32, 64, 64), depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 4))
DETECTORS = ['retinanet', 'maskrcnn', 'cascade_maskrcnn']
SEGMENTORS = ['semanticfpn', 'upernet']


def model_of(name: str, **changes: object) -> nn.Module:
    config = load_config(str(CONFIGS / f'{name}_ravlt_t_shapes.py'), changes)
    config.model.backbone.update(arch=SMALL, pretrained=None)
    widths = list(SMALL['embed_dims'])
    if name in SEGMENTORS and 'neck' not in config.model:
        config.model.decode_head.in_channels = widths
        config.model.auxiliary_head.in_channels = widths[2]
    else:
        config.model.neck.in_channels = widths[4 - len(config.model.neck.in_channels):]
    torch.manual_seed(0)
    return build_model(config)


def make_image(height: int, width: int, count: int = 1) -> Tensor:
    torch.manual_seed(1)
    coarse = 255 * torch.rand(count, 3, height // 16 + 2, width // 16 + 2)
    return nn.functional.interpolate(coarse, (height, width), mode='bilinear').to(torch.uint8)


AGNOSTIC = {'model.test_cfg.rcnn.nms.class_agnostic': True}
UNCLIPPED = {'model.bbox_head.bbox_coder.clip_border': False}


@pytest.mark.parametrize(('name', 'changes'), [*((name, {}) for name in [*DETECTORS, *SEGMENTORS]),
                                               ('maskrcnn', AGNOSTIC), ('retinanet', UNCLIPPED)])
def test_onnx_finds_what_the_library_finds(name: str, changes: dict, tmp_path: Path):
    model, path = model_of(name, **changes), tmp_path / 'model.onnx'
    scale_random_weights(model, lambda: image_model(model)[1](make_image(96, 128)))
    module, own, batched = image_model(model)
    write_onnx(module, make_image(96, 128), path, module.outputs, batched)
    session = onnx_session(path)
    for image in (make_image(96, 128), make_image(75, 150, count=3 if batched else 1)):
        expected, found = own(image), dict(zip(module.outputs, session(image), strict=True))
        assert batched or len(expected['boxes'])
        assert set(expected) == set(found)
        assert ('masks' in found) == ('mask' in name)
        with use_backend(model, 'naive'):
            rounding = compare_results(expected, own(image))
        assert not faults(compare_results(expected, found), rounding)


def test_nothing_found_is_an_empty_result(tmp_path: Path):
    model, path = model_of('maskrcnn'), tmp_path / 'model.onnx'
    model.roi_head.test_cfg.score_thr = 2.0
    module = image_model(model)[0]
    write_onnx(module, make_image(96, 128), path, module.outputs, batched=False)
    boxes, scores, labels, masks = onnx_session(path)(make_image(70, 100))
    assert boxes.shape == (0, 4)
    assert scores.shape == labels.shape == (0,)
    assert masks.shape == (0, 70, 100)


@pytest.mark.parametrize(('name', 'changes', 'told'), [
    ('retinanet', {'model.test_cfg.nms.type': 'soft_nms'}, 'soft_nms'),
    ('maskrcnn', {'model.test_cfg.rcnn.nms.type': 'soft_nms'}, 'soft_nms'),
    ('maskrcnn', {'model.test_cfg.rpn.nms.offset': 1}, r'test_cfg\.rpn\.nms\.offset'),
    ('maskrcnn', {'model.test_cfg.rpn.nms_pre': -1}, r'needs a positive test_cfg\.rpn\.nms_pre'),
    ('maskrcnn', {'model.test_cfg.rcnn.max_per_img': -1}, r'needs a positive test_cfg\.rcnn\.max_per_img'),
    ('maskrcnn', {'model.test_cfg.rcnn.mask_thr_binary': -1}, 'mask_thr_binary'),
    ('maskrcnn', {'model.roi_head.type': 'DoubleHeadRoIHead', 'model.roi_head.reg_roi_scale_factor': 1.3}, 'DoubleHeadRoIHead'),
    ('maskrcnn', {'model.roi_head.mask_head.type': 'HTCMaskHead'}, 'HTCMaskHead'),
    ('retinanet', {'model.test_cfg.max_per_img': -1}, 'max_per_img'),
    ('upernet', {'model.test_cfg': dict(mode='slide', crop_size=(64, 64), stride=(32, 32))}, 'slide'),
])
def test_what_remains_outside_is_named(name: str, changes: dict, told: str):
    with pytest.raises(UserError, match=told):
        image_model(model_of(name, **changes))


def test_suppression_is_mmcvs():
    from mmcv.ops import batched_nms

    torch.manual_seed(0)
    corners, scores, groups = 100 * torch.rand(300, 2) - 30, torch.rand(300), torch.randint(0, 4, (300,))
    boxes = torch.cat([corners, corners + 5 + 30 * torch.rand(300, 2)], dim=1)
    kept = suppress(boxes, scores, groups, 0.5, limit=40)
    expected = batched_nms(boxes, scores, groups, dict(type='nms', iou_threshold=0.5))[1]
    assert len(expected) > 40
    assert torch.equal(kept, expected[:40])


@pytest.mark.parametrize('clip', [True, False])
def test_decoding_is_mmdetections(clip: bool):
    from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder

    torch.manual_seed(0)
    coder = DeltaXYWHBBoxCoder(target_means=(0.1, 0, 0, 0), target_stds=(0.1, 0.1, 0.2, 0.2), clip_border=clip)
    corners = 100 * torch.rand(50, 2)
    boxes, deltas = torch.cat([corners, corners + 40], dim=1), 20 * torch.randn(50, 4)
    ours = decode(coder, boxes, deltas, torch.tensor(90), torch.tensor(120))
    assert torch.allclose(ours, coder.decode(boxes, deltas, max_shape=(90, 120)), rtol=1e-5, atol=1e-4)


def test_pasting_is_mmdetections():
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    torch.manual_seed(0)
    masks, corners = torch.rand(20, 28, 28), 60 * torch.rand(20, 2)
    boxes = torch.cat([corners, corners + 1 + 50 * torch.rand(20, 2)], dim=1)
    expected = _do_paste_mask(masks[:, None], boxes, 80, 90, skip_empty=False)[0]
    assert torch.allclose(paste(masks, boxes, torch.tensor(80), torch.tensor(90)), expected, atol=1e-5)


@pytest.mark.parametrize('shape', [(5, 9), (1, 2), (12, 6), (31, 64)])
def test_pooling_is_pytorchs(shape: tuple[int, int]):
    x = torch.randn(2, 3, *shape)
    for size in (1, 2, 3, 6):
        assert torch.allclose(AdaptivePooling(size)(x), nn.AdaptiveAvgPool2d(size)(x), atol=1e-6)


@pytest.mark.parametrize('name', ['maskrcnn', 'upernet'])
@pytest.mark.parametrize('settings', [{}, dict(bgr_to_rgb=False), dict(mean=None, std=None)])
def test_normalization_is_the_models(name: str, settings: dict):
    model = model_of(name, **{f'model.data_preprocessor.{key}': value for key, value in settings.items()})
    image = make_image(64, 96)
    expected = model.data_preprocessor(dict(inputs=[image[0].flip(0)], data_samples=None))['inputs']  # BGR, as OpenCV reads
    assert torch.allclose(Normalization(model.data_preprocessor)(image), torch.as_tensor(expected), atol=1e-5)
