"""tools/export.py as a user calls it."""

from pathlib import Path

import pytest
import torch

from ralamala_mm.engine import build_model, load_config

TINY = 'tests/faults/configs/tiny_segmentor.py'
DETECTOR = 'tests/faults/configs/tiny_detector.py'


def test_a_segmentor_is_written_and_checked(call, tmp_path: Path):
    out = tmp_path / 'model.onnx'
    done = call('python', 'tools/export.py', TINY, '--format', 'onnx', '--out', out, '--shape', 64, 96, '--time', 1)
    assert done.returncode == 0, done.stderr
    assert '64×96' in done.stdout
    assert 'largest difference from PyTorch' in done.stdout
    assert 'times as fast' in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ['model.onnx']


@pytest.mark.parametrize(('options', 'told'), [
    (['--format', 'torchscript'], 'give --backbone-only'),
    (['--format', 'onnx', '--image', 'missing.jpg'], 'image missing.jpg does not exist'),
    (['--format', 'onnx', '--image', 'README.md'], 'README.md'),
    (['--format', 'onnx', '--out', 'docs'], '--out docs is a folder'),
    (['--format', 'pretrained', '--backbone-only', '--out', 'README.md'], 'README.md is a file'),
    (['--format', 'onnx', '--out', 'README.md/model.onnx'], 'README.md is a file'),
    (['--format', 'onnx', '--shape', '8', '8'], 'at least 64 64'),
    (['--format', 'onnx', '--cfg-options', 'model.test_cfg.mode=slide'], "test_cfg.mode='whole', not 'slide'"),
])
def test_mistakes_are_told_in_a_sentence(call, tmp_path: Path, options: list[str], told: str):
    done = call('python', 'tools/export.py', TINY, '--out', tmp_path / 'out', *options)
    assert done.returncode == 1
    assert told in done.stderr
    assert done.stderr.startswith('error: ')
    assert not list(tmp_path.iterdir())


def save_checkpoint(config: str, path: Path, **meta: str) -> Path:
    torch.manual_seed(0)
    torch.save(dict(state_dict=build_model(load_config(config)).state_dict(), meta=meta), path)
    return path


def test_the_other_backbones_checkpoint_is_refused(call, tmp_path: Path):
    checkpoint = save_checkpoint(TINY, tmp_path / 'ravlt.pth', cfg="model = dict(backbone=dict(type='RAVLT'))")
    done = call('python', 'tools/export.py', TINY, checkpoint, '--format', 'onnx', '--out', tmp_path / 'model.onnx')
    assert done.returncode == 1
    assert 'its backbone is a RAVLT, not a MALA' in done.stderr
    assert not (tmp_path / 'model.onnx').exists()


def test_a_detector_that_finds_nothing_is_not_written_unchecked(call, tmp_path: Path):
    checkpoint = save_checkpoint(DETECTOR, tmp_path / 'fresh.pth')
    done = call('python', 'tools/export.py', DETECTOR, checkpoint, '--format', 'onnx', '--out', tmp_path / 'model.onnx',
                '--shape', 64, 96, '--cfg-options', 'model.test_cfg.rcnn.score_thr=0.9')
    assert done.returncode == 1
    assert 'give --image' in done.stderr
    assert 'model.test_cfg.rcnn.score_thr=0.001' in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ['fresh.pth']


@pytest.mark.parametrize('kind', ['onnx', 'torchscript'])
def test_a_compiled_backbone_is_written_under_a_name_without_ending(call, kind: str, tmp_path: Path):
    done = call('python', 'tools/export.py', TINY, '--backbone-only', '--format', kind, '--out', tmp_path / 'backbone',
                '--shape', 64, 96, '--cfg-options', 'model.backbone.compile=True')
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ['backbone']


def test_backbones_of_others_are_refused(call, tmp_path: Path):
    (tmp_path / 'r18.py').write_text("_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'\n")
    done = call('python', 'tools/export.py', tmp_path / 'r18.py', '--backbone-only', '--format', 'pretrained',
                '--out', tmp_path / 'out')
    assert done.returncode == 1
    assert '--backbone-only exports a RAVLT or MALA' in done.stderr
