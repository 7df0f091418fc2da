"""Whole models as mmdet 2.x and mmseg 0.x runs left them: recognised, loaded whole, converted."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import Tensor, nn

from ralamala_mm import RAVLT
from ralamala_mm.checkpoints import RecordedBackbone, load_backbone_checkpoint, load_weights
from ralamala_mm.checkpoints.convert import inspect_checkpoint
from ralamala_mm.datasets.config import set_num_classes
from ralamala_mm.engine import build_model, load_config
from ralamala_mm.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
# What mmdet 2.11 and mmseg 0.13 call some entries of each head, with their shapes for 80 and 150 classes.
HEADS = {
    'retinanet': ('RetinaNet', 80, {'bbox_head.cls_convs.3.conv.weight': (256, 256, 3, 3), 'bbox_head.retina_cls.bias': (720,),
                                    'bbox_head.retina_reg.weight': (36, 256, 3, 3), 'neck.lateral_convs.2.conv.weight': None,
                                    'neck.fpn_convs.4.conv.bias': (256,), 'backbone.extra_norms.0.norm.weight': None}),
    'maskrcnn': ('Mask R-CNN', 80, {'rpn_head.rpn_conv.weight': (256, 256, 3, 3), 'rpn_head.rpn_cls.bias': (3,),
                                    'roi_head.bbox_head.shared_fcs.0.weight': (1024, 12544),
                                    'roi_head.bbox_head.fc_cls.bias': (81,),
                                    'roi_head.bbox_head.fc_reg.bias': (320,), 'roi_head.mask_head.convs.3.conv.weight': None,
                                    'roi_head.mask_head.upsample.weight': (256, 256, 2, 2),
                                    'roi_head.mask_head.conv_logits.bias': (80,), 'neck.fpn_convs.3.conv.weight': None}),
    'cascade_maskrcnn': ('Cascade Mask R-CNN', 80, {'roi_head.bbox_head.2.shared_convs.3.conv.weight': (256, 256, 3, 3),
                                                    'roi_head.bbox_head.2.shared_convs.3.bn.running_mean': (256,),
                                                    'roi_head.bbox_head.0.shared_fcs.0.weight': (1024, 12544),
                                                    'roi_head.bbox_head.1.fc_reg.bias': (320,),
                                                    'roi_head.mask_head.2.conv_logits.bias': (80,)}),
    'semanticfpn': ('Semantic FPN', 150, {'decode_head.scale_heads.3.4.conv.weight': (128, 128, 3, 3),
                                          'decode_head.scale_heads.0.0.bn.weight': (128,), 'decode_head.conv_seg.bias': (150,),
                                          'neck.lateral_convs.0.conv.weight': None}),
    'upernet': ('UPerNet', 150, {'decode_head.psp_modules.3.1.conv.weight': None, 'decode_head.bottleneck.bn.weight': (512,),
                                 'decode_head.fpn_bottleneck.conv.weight': (512, 2048, 3, 3), 'decode_head.conv_seg.bias': (150,),
                                 'decode_head.lateral_convs.0.conv.weight': None, 'auxiliary_head.convs.0.conv.weight': None,
                                 'auxiliary_head.conv_seg.bias': (150,)}),
}


def config_of(head: str, family: str = 'ravlt') -> Config:
    (path, *_) = sorted((ROOT / 'configs').glob(f'{head}_{family}_t*.py'))
    return load_config(str(path))


def released(model: nn.Module) -> dict[str, Tensor]:
    """Random weights under the released names: with all four norms of the maps, and the rotary angles."""
    state = {key: torch.rand_like(value) if value.is_floating_point() and 'angle' not in key else value
             for key, value in model.state_dict().items()}
    state.setdefault('backbone.extra_norms.0.norm.weight', torch.rand(64))
    state.setdefault('backbone.extra_norms.0.norm.bias', torch.rand(64))
    return state


@pytest.fixture(params=HEADS)
def old_file(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, nn.Module, dict[str, Tensor], Path]:
    """(head, model, weights, file) of a run of mmdet 2.x or mmseg 0.x."""
    model = build_model(config_of(request.param))
    state, path = released(model), tmp_path / 'old.pth'
    torch.save({'meta': {'mmdet_version': '2.11.0', 'CLASSES': ('a', 'b'), 'epoch': 12, 'iter': 87960},
                'state_dict': state, 'optimizer': {'state': {}, 'param_groups': []}}, path)
    return request.param, model, state, path


def test_whole_models_load_with_nothing_missing(old_file: tuple):
    head, model, state, path = old_file
    for key, shape in HEADS[head][2].items():
        assert key in state, key
        assert shape is None or tuple(state[key].shape) == shape, key
    report = load_weights(model, state, str(path), complete=True)
    assert report.is_clean, str(report)
    own = model.state_dict()
    assert all(torch.equal(own[key], value) for key, value in state.items() if key in own)
    left_over = [f'backbone.extra_norms.0.norm.{name}' for name in ('bias', 'weight')]
    assert report.unused == (left_over if head == 'retinanet' else [])


def test_conversion(old_file: tuple, call: Callable, tmp_path: Path):
    head, _, state, path = old_file
    title, classes, _ = HEADS[head]
    out = tmp_path / 'new' / 'clean.pth'
    result = call('python', 'tools/convert_checkpoint.py', path, out, '--backbone', 'mala')
    assert result.returncode == 0, result.stderr[-3000:]
    assert f'{title} with MALA-T, {classes} classes' in result.stdout
    assert 'entries matched' in result.stdout
    assert 'WARNING' not in result.stdout
    content = torch.load(out, weights_only=True)
    assert content.keys() == {'state_dict', 'meta'}
    assert content['meta']['ralamala_mm'] == dict(backbone='MALA', size='t', linear_stages=(0, 1), head=head,
                                                       source='old.pth')
    assert content['meta']['dataset_meta'] == dict(classes=('a', 'b'))
    assert all(torch.equal(state[key], value) for key, value in content['state_dict'].items())
    load_weights(build_model(config_of(head, 'mala')), content['state_dict'], str(out), recorded=RecordedBackbone('MALA'),
                 complete=True)
    with pytest.raises(UserError, match='its backbone is a MALA, not a RAVLT'):
        load_backbone_checkpoint(RAVLT('t'), str(out))


def test_conversion_of_another_number_of_classes(tmp_path: Path, call: Callable):
    config = config_of('maskrcnn')
    set_num_classes(config.model, 3)
    path = tmp_path / 'three.pth'
    torch.save({'state_dict': released(build_model(config))}, path)
    result = call('python', 'tools/convert_checkpoint.py', path, tmp_path / 'out.pth')
    assert result.returncode == 0, result.stderr[-3000:]
    assert 'Mask R-CNN with RAVLT or MALA of size t, whose files look alike, 3 classes' in result.stdout


def test_conversion_of_an_imagenet_file(tmp_path: Path, call: Callable):
    state = RAVLT('s').state_dict() | {'proj.weight': torch.rand(1024, 512, 1, 1), 'head.bias': torch.rand(1000)}
    torch.save({'model': {key: value for key, value in state.items() if not key.startswith('extra_norms')}}, tmp_path / 'in.pth')
    result = call('python', 'tools/convert_checkpoint.py', tmp_path / 'in.pth', tmp_path / 'out.pth')
    assert result.returncode == 0, result.stderr[-3000:]
    assert 'backbone RAVLT-S' in result.stdout
    assert 'starting fresh, as expected: extra_norms.* (8)' in result.stdout
    assert 'not used, as expected: head.* (1), proj.* (1)' in result.stdout
    assert load_backbone_checkpoint(RAVLT('s'), str(tmp_path / 'out.pth')).is_clean


class RunsCode:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def test_a_file_that_runs_code_needs_trust(tmp_path: Path, call: Callable):
    target, path, out = tmp_path / 'executed', tmp_path / 'in.pth', tmp_path / 'out.pth'
    torch.save({'state_dict': RAVLT('t').state_dict(), 'meta': {'by': RunsCode(target)}}, path)
    refused = call('python', 'tools/convert_checkpoint.py', path, out)
    assert refused.returncode == 1
    assert 'could run code when read, so it is refused; if you trust who made it, --trust-checkpoint' in refused.stderr
    assert not target.exists()
    assert not out.exists()
    trusted = call('python', 'tools/convert_checkpoint.py', path, out, '--trust-checkpoint')
    assert trusted.returncode == 0, trusted.stderr[-3000:]
    assert target.exists()
    assert f'WARNING: --trust-checkpoint: reading {path} WITH CODE ALLOWED' in trusted.stderr
    assert load_backbone_checkpoint(RAVLT('t'), str(out)).is_clean


def test_what_is_not_ours(tmp_path: Path):
    torch.save({'conv1.weight': torch.rand(2)}, tmp_path / 'a.pth')
    with pytest.raises(UserError, match='holds no RAVLT or MALA of a published size'):
        inspect_checkpoint(str(tmp_path / 'a.pth'))
    torch.save(RAVLT('t').state_dict() | {'proj.weight': torch.rand(1024, 512, 1, 1)}, tmp_path / 'b.pth')
    with pytest.raises(UserError, match='is of a RAVLT, not of a MALA'):
        inspect_checkpoint(str(tmp_path / 'b.pth'), family='MALA')


def test_incomplete_weights_are_not_evaluated():
    model = build_model(config_of('maskrcnn'))
    before = copy.deepcopy(model.state_dict())
    state = {key: value + 1 for key, value in model.state_dict().items() if 'fc_cls' not in key}
    with pytest.raises(UserError, match=r'lacks 2 of the \d+ entries of MaskRCNN \(roi_head.\* \(2\)\): with those left'):
        load_weights(model, state, 'a.pth', complete=True)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert len(load_weights(model, state, 'a.pth').missing) == 2
