"""Both backbones against what the authors' code gives for the same weights and inputs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from reference_rules import reference_state, uniform_stream

from ralamala_mm import MALA, RAVLT

DATA = Path(__file__).resolve().parent.parent / 'data'
CASES = sorted(path.stem for path in DATA.glob('*.npz'))
BACKBONES = {'ravlt': RAVLT, 'mala': MALA}


def test_there_are_cases_for_both_backbones():
    assert len(CASES) == 6
    assert {case.split('_')[0] for case in CASES} == set(BACKBONES)


def relative_error(result, reference) -> float:
    return float(np.abs(np.asarray(result) - reference).max() / np.abs(reference).max())


def load_case(case: str) -> tuple:
    name, arch, size = case.split('_')
    backbone = BACKBONES[name](arch, drop_path_rate=0.0)
    state = reference_state({key: tuple(value.shape) for key, value in backbone.state_dict().items()})
    backbone.load_state_dict(state, strict=False)
    shape = tuple(map(int, size.split('x')))
    image = torch.from_numpy(2 * (2 * uniform_stream(f'input.{size}', int(np.prod(shape))) - 1)).float().reshape(shape)
    return backbone, image, np.load(DATA / f'{case}.npz')


@pytest.mark.parametrize('backend', ['naive', 'eager', 'onednn', 'triton'])
@pytest.mark.parametrize('case', CASES)
def test_outputs_and_gradients(case: str, backend: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv('RALAMALA_BACKEND', backend)
    backbone, image, reference = load_case(case)
    image.requires_grad_()
    maps = backbone.eval()(image)
    # Both sides are fp32 through some twenty blocks; MODELS' own measure is 1e-4 for outputs, 1e-3 for gradients.
    for i, result in enumerate(maps):
        assert relative_error(result.detach(), reference[f'out{i}']) < 1e-5

    loss = sum((result * torch.from_numpy(2 * uniform_stream(f'grad.{i}.{tuple(result.shape)}', result.numel()) - 1)
                .float().view_as(result)).sum() for i, result in enumerate(maps))
    loss.backward()
    assert relative_error(image.grad, reference['input_grad']) < 1e-4
    parameters = dict(backbone.named_parameters())
    names = [str(name) for name in reference['param_grad_names']]
    assert set(names) == set(parameters)
    norms = np.array([parameters[name].grad.double().norm().item() for name in names])
    np.testing.assert_allclose(norms, reference['param_grad_norms'], rtol=1e-3)


@pytest.mark.parametrize('backend', ['naive', 'eager', 'onednn', 'triton'])
@pytest.mark.parametrize('case', CASES)
def test_training_mode_uses_batch_statistics(case: str, backend: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv('RALAMALA_BACKEND', backend)
    backbone, image, reference = load_case(case)
    for i, result in enumerate(backbone.train()(image)):
        assert relative_error(result.detach(), reference[f'train_out{i}']) < 2e-5


@pytest.mark.parametrize('arch', 'tsbl')
@pytest.mark.parametrize('name', BACKBONES)
def test_parameter_counts(name: str, arch: str, published: dict):
    backbone = BACKBONES[name](arch)
    expected = published[f'{name}_{arch}']
    assert sum(parameter.numel() for parameter in backbone.parameters()) == expected['backbone_params']
    assert len(backbone.state_dict()) == expected['backbone_state_entries']


@pytest.mark.parametrize('name', BACKBONES)
def test_keys_and_shapes_are_the_released_ones(name: str, published: dict):
    state = BACKBONES[name]('t').state_dict()
    assert {key: list(value.shape) for key, value in state.items()} == published[f'{name}_t']['backbone_state']
