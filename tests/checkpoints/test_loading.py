"""Checkpoint files in every form seen in the wild, and files that must be refused."""

import argparse
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from reference_rules import reference_state
from torch import Tensor

from ralamala_mm import MALA, RAVLT
from ralamala_mm.checkpoints import load_backbone_checkpoint
from ralamala_mm.checkpoints.container import load_data
from ralamala_mm.errors import UserError


@pytest.fixture(scope='module')
def weights(published: dict) -> dict[str, Tensor]:
    """The backbone of RAVLT-T with reference weights."""
    return reference_state(published['ravlt_t']['backbone_state'])


@pytest.fixture(scope='module')
def imagenet(weights: dict, published: dict) -> dict[str, Tensor]:
    """As ImageNet training leaves it: with the classifier, without the norms of the maps."""
    backbone = {key: value for key, value in weights.items() if not key.startswith('extra_norms')}
    return backbone | reference_state(published['ravlt_t']['classifier_only_state'])


FORMS = {
    'bare': lambda state: state,
    'model': lambda state: {'model': state, 'args': argparse.Namespace(lr=1e-3, name='ravlt'), 'epoch': 299,
                            'optimizer': {'state': {}, 'param_groups': [{'lr': 1e-3}]}},
    'detector of mmdet 2.x': lambda state: {
        'meta': {'mmdet_version': '2.11.0', 'CLASSES': ('person',)},
        'state_dict': {f'backbone.{key}': value for key, value in state.items()}
        | {'neck.lateral_convs.0.conv.weight': torch.ones(2), 'roi_head.bbox_head.fc_cls.bias': torch.ones(2)}},
    'data parallel': lambda state: {'state_dict': {f'module.{key}': value for key, value in state.items()}},
    'data parallel detector': lambda state: {'state_dict': {f'module.backbone.{key}': value for key, value in state.items()}},
    'compiled': lambda state: {'model': {f'_orig_mod.{key}': value for key, value in state.items()}},
}


@pytest.mark.parametrize('form', FORMS)
def test_every_form_loads_whole(form: str, weights: dict, tmp_path: Path):
    path = tmp_path / 'ravlt_t.pth'
    torch.save(FORMS[form](weights), path)
    backbone = RAVLT('t')
    report = load_backbone_checkpoint(backbone, str(path))
    state = backbone.state_dict()
    assert all(torch.equal(state[key], value) for key, value in weights.items())
    assert report.matched == len(weights)
    assert report.is_clean, str(report)


def test_an_imagenet_file_and_its_report(imagenet: dict, tmp_path: Path):
    path = tmp_path / 'RAVLT_T.pth'
    torch.save(FORMS['model'](imagenet), path)
    backbone = RAVLT('t', init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    before = backbone.extra_norms['0'].norm.weight.clone()
    backbone.init_weights()
    assert torch.equal(backbone.extra_norms['0'].norm.weight, before)
    assert torch.equal(backbone.layers[2].blocks[5].ffn.fc1.weight, imagenet['layers.2.blocks.5.ffn.fc1.weight'])
    report = load_backbone_checkpoint(RAVLT('t'), str(path))
    assert report.is_clean
    text = str(report)
    assert 'RAVLT-T' in text
    assert 'starting fresh, as expected: extra_norms.* (8)' in text
    assert 'head.* (2)' in text


def test_pretrained_is_short_for_init_cfg(imagenet: dict, tmp_path: Path):
    path = tmp_path / 'RAVLT_T.pth'
    torch.save(imagenet, path)
    backbone = RAVLT('t', pretrained=str(path))
    backbone.init_weights()
    assert torch.equal(backbone.patch_embed.proj[0].weight, imagenet['patch_embed.proj.0.weight'])


def test_stages_left_out_are_expected_leftovers(weights: dict, tmp_path: Path):
    path = tmp_path / 'a.pth'
    torch.save(weights, path)
    report = load_backbone_checkpoint(RAVLT('t', out_indices=(0, 1)), str(path))
    assert report.is_clean, str(report)
    assert report.unused


def test_what_is_missing_or_unknown_is_reported(weights: dict, tmp_path: Path):
    path = tmp_path / 'a.pth'
    changed = {key: value for key, value in weights.items() if not key.startswith('layers.1.blocks.0.attn')}
    torch.save(changed | {'layers.9.extra': torch.ones(1)}, path)
    report = load_backbone_checkpoint(RAVLT('t'), str(path))
    assert len(report.missing) == 6
    assert 'WARNING: missing in the file: layers.* (6)' in str(report)
    assert report.unexpected == []  # a stage beyond those built
    torch.save(weights | {'neck.weight': torch.ones(1)}, path)
    assert load_backbone_checkpoint(RAVLT('t'), str(path)).unexpected == ['neck.weight']


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.parametrize('legacy', [False, True])
def test_code_in_a_file_is_not_run(weights: dict, tmp_path: Path, legacy: bool):
    target, path = tmp_path / 'executed', tmp_path / 'a.pth'
    torch.save({'state_dict': weights, 'meta': Malicious(target)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match='could run code when read, so it is refused'):
        load_backbone_checkpoint(RAVLT('t'), str(path))
    path.write_bytes(pickle.dumps(Malicious(target)))
    with pytest.raises(UserError):
        load_backbone_checkpoint(RAVLT('t'), str(path))
    assert not target.exists()


def write(tmp_path: Path, content: object) -> str:
    path = tmp_path / 'RAVLT_T.pth'
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    return str(path)


@pytest.mark.parametrize(('content', 'message'), [
    (b'', 'is empty'),
    (b'<html>404</html>', 'is a web page'),
    (b'404', 'is not a PyTorch checkpoint'),
    (b'PK\x03\x04' + bytes(200), 'is not a PyTorch checkpoint, or it is damaged or cut short'),
    (b'version https://git-lfs.github.com/spec/v1\n', 'is a git-lfs pointer'),
    ([1, 2], 'holds a list, not a state dict'),
    ({'epoch': 3}, 'holds no weights; its entries are epoch'),
    ({'conv1.weight': torch.ones(2)}, "nothing in .* fits RAVLT\\(arch='t'\\): it looks like another model"),
])
def test_files_that_are_no_checkpoint(content: object, message: str, tmp_path: Path):
    with pytest.raises(UserError, match=message):
        load_backbone_checkpoint(RAVLT('t'), write(tmp_path, content))


def test_a_truncated_file(weights: dict, tmp_path: Path):
    path = Path(write(tmp_path, weights))
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(UserError, match='damaged or cut short'):
        load_backbone_checkpoint(RAVLT('t'), str(path))


def test_a_missing_file_names_its_neighbours(tmp_path: Path):
    write(tmp_path, {})
    with pytest.raises(UserError, match=r'RAVLT_S.pth does not exist; did you mean .*RAVLT_T.pth'):
        load_backbone_checkpoint(RAVLT('t'), str(tmp_path / 'RAVLT_S.pth'))


def test_a_url_is_fetched_once(weights: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'cache'))
    monkeypatch.setattr(torch.hub, 'download_url_to_file', lambda url, path, progress: torch.save(weights, path))
    url = 'https://example.invalid/RAVLT_T.pth?download=true'
    assert load_backbone_checkpoint(RAVLT('t'), url).is_clean
    assert len(list((tmp_path / 'cache/checkpoints').glob('*-RAVLT_T.pth'))) == 1
    monkeypatch.setattr(torch.hub, 'download_url_to_file', None)
    assert load_backbone_checkpoint(RAVLT('t'), url).is_clean


def test_a_url_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    with pytest.raises(UserError, match=r'could not be downloaded .* give the path of the file instead'):
        load_backbone_checkpoint(RAVLT('t'), 'http://127.0.0.1:9/RAVLT_T.pth')


def test_another_size_is_named(weights: dict, tmp_path: Path):
    backbone = RAVLT('b')
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    with pytest.raises(UserError, match=r"does not fit RAVLT\(arch='b'\): it looks like RAVLT or MALA of size t"):
        load_backbone_checkpoint(backbone, write(tmp_path, weights))
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items())


def test_the_other_backbone_is_named(imagenet: dict, tmp_path: Path):
    with pytest.raises(UserError, match=r"does not fit MALA\(arch='t'\): its backbone is a RAVLT, not a MALA"):
        load_backbone_checkpoint(MALA('t'), write(tmp_path, imagenet))


def mmengine_checkpoint() -> dict:
    """What MMEngine saves beside the weights: histories, numpy scalars and arrays."""
    history = HistoryBuffer()
    history.update(0.5)
    return {'state_dict': OrderedDict(weight=torch.ones(2)), 'meta': {'epoch': 1, 'seed': np.int64(3)},
            'message_hub': {'log_scalars': OrderedDict(loss=history), 'runtime_info': {'map': np.float32(0.25)}}}


def mmengine_loads(path: Path) -> object:
    """As MMEngine's own runner reads a file where nothing but the package was imported."""
    return torch.load(path, map_location='cpu', weights_only=True)


@pytest.mark.parametrize('load', [load_data, mmengine_loads])
def test_mmengine_checkpoints_are_data(load: Callable, tmp_path: Path):
    path = tmp_path / 'epoch_1.pth'
    torch.save(mmengine_checkpoint(), path)
    content = load(path)
    assert content['message_hub']['log_scalars']['loss'].current() == 0.5
    assert content['meta']['seed'] == 3
    assert content['message_hub']['runtime_info']['map'] == np.float32(0.25)
    assert torch.equal(content['state_dict']['weight'], torch.ones(2))


class UsesGetattr:
    """Reaches for an attribute of something else by the function that histories need."""

    def __reduce__(self):
        return getattr, (HistoryBuffer, '__init__')


@pytest.mark.parametrize('load', [load_data, mmengine_loads])
def test_refused_by_either_way_of_loading(load: Callable, tmp_path: Path):
    target, path = tmp_path / 'executed', tmp_path / 'a.pth'
    for content in ({'meta': Malicious(target)}, {'meta': UsesGetattr()}):
        torch.save(content, path)
        with pytest.raises((pickle.UnpicklingError, ValueError)):
            load(path)
    assert not target.exists()


@pytest.mark.parametrize('load', [load_data, mmengine_loads])
def test_functions_of_a_history_are_not_taken_from_files(load: Callable, tmp_path: Path):
    path = tmp_path / 'a.pth'
    functions = dict(HistoryBuffer()._statistics_methods)

    class Poisoned(HistoryBuffer):
        def __reduce__(self):
            return HistoryBuffer, (), dict(vars(HistoryBuffer([1.0], [1])), statistics_methods={'mean': torch.Size})

    torch.save({'history': Poisoned()}, path)
    content = load(path)
    assert HistoryBuffer._statistics_methods == functions
    assert type(content['history']) is HistoryBuffer
    assert content['history'].statistics('mean') == 1.0
