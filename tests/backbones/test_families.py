"""A third family of backbones, as docs/extending.md writes it, in every tool; and stages of linear attention by choice."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ralamala_mm import MALA, RAVLT
from ralamala_mm.checkpoints import RecordedBackbone, load_backbone_checkpoint, load_weights, recorded_backbone
from ralamala_mm.checkpoints.identify import identify_backbone
from ralamala_mm.engine import load_config, resolve_pretrained
from ralamala_mm.errors import OptionError, UserError
from ralamala_mm.families import FAMILIES, family_of
from ralamala_mm.ops import ATTENTIONS

ROOT = Path(__file__).resolve().parents[2]
# A tool, started when a module was imported, as a family's is by `ralamala_mm.backbones` once it belongs to the package.
WITH_FAMILY = '''
import runpy, sys
import plain_linear
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
'''


@pytest.fixture(scope='module')
def folder(shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the module of the page, a config that uses it, and the environment's path to both."""
    folder = tmp_path_factory.mktemp('family')
    (module,) = re.findall(r'```python\n(.*?)```', (ROOT / 'docs' / 'extending.md').read_text(), re.DOTALL)
    (folder / 'plain_linear.py').write_text(module)
    (folder / 'config.py').write_text(f'''
_base_ = {str(ROOT / 'configs' / 'demo' / 'maskrcnn_ravlt_t_shapes.py')!r}
custom_imports = dict(imports=['ralamala_mm', 'plain_linear'])
model = dict(backbone=dict(type='PlainLinear', linear_stages=(0, 1, 2)))
train_cfg = dict(max_epochs=1, val_interval=1)
param_scheduler = []
''')
    return folder


@pytest.mark.slow
def test_a_third_family(folder: Path, shapes_root: Path, call: Callable):
    config, work_dir, variables = folder / 'config.py', folder / 'work', dict(PYTHONPATH=str(folder))

    def tool(*command: object, **more: str) -> str:
        done = call('python', *command, **variables, **more)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        return done.stdout

    tool('tools/train.py', config, '--work-dir', work_dir, '--data', shapes_root)
    checkpoint = work_dir / 'epoch_1.pth'
    content = torch.load(checkpoint, weights_only=False)
    assert 'PlainLinear' in content['meta']['cfg']

    counted = tool('tools/analysis_tools/get_flops.py', config, '--shape', '64', '64')
    # Stages of 16², 8² and 4² tokens: k·v buffers and their use, and the normalizer; then softmax on 2² tokens.
    stages = ((2, 256, 64), (2, 64, 128), (6, 16, 256))
    linear = sum(depth * tokens * channels * (2 * 64 + 1) for depth, tokens, channels in stages)
    assert f'{linear / 1e9:.1f} G' in re.search('linear attentions +(.*)', counted)[1]

    image = next((shapes_root / 'val').glob('*.png'))
    tool('tools/analysis_tools/attention_map.py', config, checkpoint, image, '--point', '40', '40', '--out', folder / 'maps')
    numbers = json.loads((folder / 'maps' / 'attention.json').read_text())
    own = [block['scores']['plain_linear'] for block in numbers['attention']]
    assert [block['block'] for block in numbers['attention']] == ['stage 1, block 2', 'stage 2, block 2', 'stage 3, block 6']
    assert all(abs(scores['sum'] - 1) < 1e-4 for scores in own)  # as its weights are normalized
    assert all(own[i] == pytest.approx(block['scores']['linear'], rel=1e-3) for i, block in enumerate(numbers['attention']))

    benchmark = 'tools/analysis_tools/benchmark.py'
    measured = tool(benchmark, 'backbone', config, '--device', 'cpu', '--shape', '64', '64', '--runs', '1', '--modes', 'forward')
    assert measured.count('| config') >= 2
    assert '| attention |' in tool(benchmark, 'floor', config, '--device', 'cpu', '--rates', '1', '0.1')

    weights = {key.removeprefix('backbone.'): value for key, value in content['state_dict'].items() if 'backbone.' in key}
    torch.save(dict(state_dict=weights, meta=content['meta']), folder / 'backbone.pth')
    converted = tool('-c', WITH_FAMILY, 'tools/convert_checkpoint.py', folder / 'backbone.pth', folder / 'clean.pth')
    assert 'backbone PlainLinear-T' in converted
    meta = torch.load(folder / 'clean.pth', weights_only=True)['meta']['ralamala_mm']
    assert (meta['backbone'], meta['size'], list(meta['linear_stages'])) == ('PlainLinear', 't', [0, 1, 2])
    refused = call('python', '-c', WITH_FAMILY, 'tools/convert_checkpoint.py', checkpoint, folder / 'whole.pth', **variables)
    assert refused.returncode == 1
    assert 'configs/maskrcnn_plainlinear_t*.py' in refused.stderr


@pytest.mark.parametrize('backbone_class', [RAVLT, MALA])
def test_what_is_known_of_a_family(backbone_class: type):
    family = FAMILIES[backbone_class.__name__]
    assert family_of(backbone_class.__name__) is family_of(f'ralamala_mm.{backbone_class.__name__}') is family
    assert family.linear_attention == backbone_class.linear_attention
    assert family.linear_attention in ATTENTIONS
    assert family_of('SwinTransformer') is None


def attentions(backbone: RAVLT) -> list[str]:
    return [stage.blocks[0].attn.attention for stage in backbone.layers]


def test_stages_of_linear_attention(monkeypatch: pytest.MonkeyPatch):
    softmax = 'softmax_attention'
    assert attentions(RAVLT('t')) == ['rala', 'rala', softmax, softmax]
    assert attentions(MALA('t', linear_stages=(3, 0))) == ['mala', softmax, softmax, 'mala']
    assert attentions(RAVLT('t', linear_stages=())) == [softmax] * 4
    purely_linear = RAVLT('t', linear_stages=range(4), drop_path_rate=0.0)

    def forbidden(*_) -> Tensor:
        raise AssertionError('softmax attention in a purely linear model')

    monkeypatch.setitem(ATTENTIONS, softmax, forbidden)
    maps = purely_linear(torch.randn(1, 3, 75, 107))
    assert [tuple(x.shape[2:]) for x in maps] == [(19, 27), (10, 14), (5, 7), (3, 4)]
    sum(x.sum() for x in maps).backward()
    assert all(p.grad is not None for p in purely_linear.parameters())


@pytest.mark.parametrize('stages', [(4,), (-1,), 'all', '', 1])
def test_stages_that_are_none(stages: object):
    with pytest.raises(OptionError, match=r'linear_stages must name stages from 0 to 3, such as \(0, 1\), not '):
        RAVLT('t', linear_stages=stages)


def test_weights_of_other_stages_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    weights = RAVLT('t', out_indices=(0,)).state_dict()
    path = tmp_path / 'RAVLT_T.pth'
    torch.save(dict(model=weights | {'proj.weight': torch.zeros(1024, 512, 1, 1)}), path)
    wrong = RAVLT('t', out_indices=(0,), linear_stages=(1, 2))
    with pytest.raises(UserError, match=r'it has linear_stages=\(0, 1\), this backbone \(1, 2\): set model\.backbone\.linear'):
        load_backbone_checkpoint(wrong, str(path))
    load_backbone_checkpoint(RAVLT('t', out_indices=(0,), linear_stages=(0, 2)), str(path))  # stages 2 to 4 are not built
    torch.save(dict(state_dict=weights), path)  # which says nothing
    load_backbone_checkpoint(wrong, str(path))
    monkeypatch.chdir(ROOT)
    config = load_config('configs/maskrcnn_ravlt_t.py')
    config.model.backbone.linear_stages = [0, 1, 2, 3]
    with pytest.raises(UserError, match=r'RAVLT_T\.pth have linear_stages=\(0, 1\), got \(0, 1, 2, 3\): --cfg-options'):
        resolve_pretrained(config)


@pytest.mark.parametrize(('text', 'stages'), [
    ("model = dict(backbone=dict(type='RAVLT', linear_stages=(0, 1, 2, 3)))", (0, 1, 2, 3)),
    ("backbone=dict(init_cfg=dict(type='Pretrained'), linear_stages=[], type='ralamala_mm.RAVLT')", ()),
    ("model = dict(backbone=dict(type='RAVLT'))", (0, 1))])
def test_stages_in_a_recorded_config(text: str, stages: tuple[int, ...]):
    recorded = recorded_backbone(dict(meta=dict(cfg=text)))
    assert (recorded.family, recorded.linear_stages) == ('RAVLT', stages)


def test_a_record_counts_more_than_the_width_of_a_classifier():
    weights = {'proj.weight': torch.zeros(1024, 4, 1, 1)}
    assert identify_backbone(weights, RecordedBackbone()) == RecordedBackbone('RAVLT', (0, 1))
    assert identify_backbone(weights, RecordedBackbone('MALA', (0,))) == RecordedBackbone('MALA', (0,))
    assert identify_backbone({}, None) == RecordedBackbone()


def test_subclasses_belong_to_the_family():
    class Own(MALA):
        pass

    assert Own('t').family is FAMILIES['MALA']
    with pytest.raises(UserError, match='its backbone is a RAVLT, not a MALA'):
        load_weights(Own('t', out_indices=(0,)), RAVLT('t', out_indices=(0,)).state_dict(), 'a.pth',
                     recorded=RecordedBackbone('RAVLT'))


@pytest.mark.parametrize('content', [{}, dict(meta=[]), dict(meta=dict(cfg=3)),
                                     dict(meta=dict(cfg="backbone=dict(type='RAVLT' type='MALA')")),
                                     dict(meta=dict(cfg="a = dict(type='RAVLT')")),
                                     dict(meta=dict(cfg="backbone=dict(type='RAVLT'")),
                                     dict(meta=dict(ralamala_mm=dict(backbone=['MALA'], linear_stages='0')))])
def test_checkpoints_that_say_nothing(content: dict):
    recorded = recorded_backbone(content)
    assert (recorded.family, recorded.linear_stages) == (None, None)
