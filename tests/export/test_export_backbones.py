"""Backbones in files compute what they compute in PyTorch, at sizes that they were not exported with."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from ralamala_mm import MALA, RAVLT
from ralamala_mm.errors import OptionError, UserError
from ralamala_mm.export import run_onnx, write_exported_program, write_onnx, write_torchscript
from ralamala_mm.export.comparison import Difference, compare_maps, faults, match

SMALL = dict(embed_dims=(16, 32, 64, 64), depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 4))
OTHER_SHAPES = [(1, 3, 75, 50), (3, 3, 33, 200), (2, 3, 256, 192)]


def backbone(family: type, **options: object) -> nn.Module:
    torch.manual_seed(0)
    model = family(SMALL, **options).eval()
    for parameter in model.parameters():
        if parameter.dim() == 4 and parameter.shape[0] > 1:
            nn.init.kaiming_normal_(parameter, nonlinearity='linear')
    return model


def check(model: nn.Module, run, shapes=OTHER_SHAPES) -> None:
    for shape in shapes:
        image = torch.randn(shape)
        with torch.no_grad():
            expected = model(image)
        for ours, theirs in zip(expected, run(image), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-5 * float(ours.abs().max()), rtol=0)


@pytest.mark.parametrize('family', [RAVLT, MALA])
def test_onnx_has_open_sizes(family: type, tmp_path: Path):
    model, path = backbone(family, out_indices=(1, 3)), tmp_path / 'model.onnx'
    write_onnx(model, torch.randn(2, 3, 96, 64), path, ['stride8', 'stride32'], batched=True, notes=dict(classes='[]'))
    check(model, lambda image: run_onnx(path, image), [*OTHER_SHAPES, (1, 3, 1, 1)])


@pytest.mark.parametrize('family', [RAVLT, MALA])
def test_torchscript_has_open_sizes(family: type, tmp_path: Path):
    model, path = backbone(family), tmp_path / 'model.pt'
    write_torchscript(model, torch.randn(2, 3, 96, 64), path)
    check(model, torch.jit.load(path))


@pytest.mark.slow
def test_exported_program_has_open_sizes(tmp_path: Path):
    model, path = backbone(MALA, out_indices=(0,)), tmp_path / 'model.pt2'
    write_exported_program(model, torch.randn(2, 3, 96, 64), path)
    check(model, torch.export.load(path).module())


@pytest.mark.parametrize('family', [RAVLT, MALA])
def test_folder_comes_back(family: type, tmp_path: Path):
    model, image = backbone(family, norm_cfg=dict(type='BN')), torch.randn(1, 3, 64, 96)
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['config.json', 'model.safetensors']
    again = family.from_pretrained(tmp_path)
    fewer = family.from_pretrained(tmp_path, out_indices=(0, 2))
    by_path = family(SMALL, norm_cfg=dict(type='BN'), pretrained=str(tmp_path))
    by_path.init_weights()
    with torch.no_grad():
        expected = model(image)
        for other in (again, by_path.eval()):
            assert all(torch.equal(a, b) for a, b in zip(expected, other(image), strict=True))
        assert all(torch.equal(a, b) for a, b in zip((expected[0], expected[2]), fewer(image), strict=True))


def test_what_is_wrong_with_a_folder_is_told(tmp_path: Path):
    model = backbone(RAVLT)
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match='not of a MALA'):
        MALA.from_pretrained(tmp_path)
    with pytest.raises(UserError, match=r'holds no config\.json'):
        RAVLT.from_pretrained(tmp_path / 'elsewhere')
    weights = tmp_path / 'model.safetensors'
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match='damaged'):
        RAVLT.from_pretrained(tmp_path)
    config = json.loads((tmp_path / 'config.json').read_text())
    (tmp_path / 'config.json').write_text(json.dumps(config | dict(color='red')))
    with pytest.raises(UserError, match='color'):
        RAVLT.from_pretrained(tmp_path)
    with pytest.raises(OptionError, match='fused'):
        model.fuse_for_inference().save_pretrained(tmp_path)


def test_larger_differences_are_faults():
    maps = (torch.rand(1, 4, 8, 8),)
    small = compare_maps(maps, (maps[0] + 1e-6 * maps[0].max(),))
    large = compare_maps(maps, (maps[0] + 1e-3 * maps[0].max(),))
    assert not faults(small, compare_maps(maps, maps))
    assert len(faults(large, small)) == 1
    assert 'allowed' in faults(large, small)[0]
    assert not faults(large, [Difference('maps', 2e-4, 0)])  # PyTorch itself differs as much
    assert faults(compare_maps(maps, (maps[0][..., :4],)), small)
    assert faults([Difference('maps', float('nan'), 1.0)], [])


def test_detections_find_their_partners():
    boxes = torch.tensor([[0., 0, 10, 10], [0, 0, 10, 10], [20, 20, 40, 40]])
    first = dict(boxes=boxes, scores=torch.tensor([0.9, 0.8, 0.7]), labels=torch.tensor([1, 2, 1]))
    order = torch.tensor([2, 0, 1])
    second = {key: value[order] for key, value in first.items()}
    mine, theirs = match(first, second)
    assert mine.tolist() == [0, 1, 2]
    assert theirs.tolist() == [1, 2, 0]
    second['labels'] = torch.tensor([3, 1, 2])
    assert match(first, second)[0].tolist() == [0, 1]
