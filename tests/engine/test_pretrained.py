"""What the backbone starts from is settled before anything is built."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from ralamala_mm import RAVLT
from ralamala_mm.engine import resolve_pretrained
from ralamala_mm.errors import UserError


def config(tmp_path: Path, **settings) -> Config:
    backbone = dict(type='RAVLT', arch='t', **settings.pop('backbone', {}))
    return Config(dict(model=dict(backbone=backbone), work_dir=str(tmp_path), **settings))


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    url = 'http://127.0.0.1:9/RAVLT_T.pth'
    with pytest.raises(UserError, match=f'the ImageNet weights {url} could not be downloaded .*: '
                                        '--cfg-options model.backbone.pretrained=FILE takes a local file, '
                                        '--cfg-options model.backbone.pretrained=None trains from scratch'):
        resolve_pretrained(config(tmp_path, backbone=dict(pretrained=url)))
    assert not list(tmp_path.glob('**/*.pth'))


@pytest.mark.parametrize('backbone', [dict(pretrained='nowhere.pth'),
                                      dict(init_cfg=dict(type='Pretrained', checkpoint='nowhere.pth'))])
def test_no_file(backbone: dict, tmp_path: Path):
    with pytest.raises(UserError, match=r'checkpoint nowhere.pth does not exist'):
        resolve_pretrained(config(tmp_path, backbone=backbone))


def test_from_scratch_is_said(tmp_path: Path):
    note = resolve_pretrained(config(tmp_path))
    assert 'RAVLT starts from scratch' in note
    assert 'model.backbone.pretrained=FILE' in note
    other = Config(dict(model=dict(backbone=dict(type='ResNet')), work_dir=str(tmp_path)))
    assert resolve_pretrained(other) is None


def test_the_user_s_own_init_cfg_comes_first(tmp_path: Path):
    """A child of a published config that sets init_cfg needs neither the released weights nor a network."""
    path = tmp_path / 'a.pth'
    torch.save(RAVLT('t').state_dict(), path)
    init_cfg = [dict(type='Pretrained', checkpoint=str(path)), dict(type='Constant', val=0.0, layer='LayerNorm')]
    for given in (init_cfg, init_cfg[0]):
        own = config(tmp_path, backbone=dict(pretrained='http://127.0.0.1:9/RAVLT_T.pth', init_cfg=given))
        assert resolve_pretrained(own) is None
        backbone = RAVLT('t', pretrained='http://127.0.0.1:9/RAVLT_T.pth', init_cfg=given)
        backbone.init_weights()
        expected = torch.load(path)['patch_embed.proj.0.weight']
        assert torch.equal(backbone.patch_embed.proj[0].weight, expected)


def test_a_file_that_is_there(tmp_path: Path):
    path = tmp_path / 'a.pth'
    torch.save(RAVLT('t').state_dict(), path)
    ready = config(tmp_path, backbone=dict(pretrained=str(path)))
    assert resolve_pretrained(ready) is None
    assert ready.model.backbone.pretrained == str(path)


def test_a_whole_checkpoint_needs_no_imagenet_weights(tmp_path: Path):
    """Neither to fine-tune nor to continue after an interruption, also without a network."""
    url = 'http://127.0.0.1:9/RAVLT_T.pth'
    starting = config(tmp_path, backbone=dict(pretrained=url), load_from='detector.pth')
    assert resolve_pretrained(starting) is None
    assert starting.model.backbone.pretrained is None
    resuming = config(tmp_path, backbone=dict(pretrained=url), resume=True, load_from='epoch_1.pth')
    assert resolve_pretrained(resuming) is None
    assert resuming.model.backbone.pretrained is None
