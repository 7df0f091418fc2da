"""Counting: against arithmetic by hand, on fused kernels and without, and against what was published."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from tool_modules import load_tool
from torch import nn

from ralamala_mm.analysis.flops import Cost, count, count_model, default_shape
from ralamala_mm.engine import build_model, load_config
from ralamala_mm.errors import UserError
from ralamala_mm.families import VARIANTS

ROOT = Path(__file__).resolve().parents[2]
zoo = load_tool('analysis_tools/make_model_zoo')
ROWS = zoo.read_rows(ROOT / 'docs' / 'published.yml')


def test_products_of_the_attentions_by_hand(monkeypatch: pytest.MonkeyPatch):
    """At 96×160 stage 3 has 6×10 tokens and stage 4 has 3×5: 2·L²·C for each block's scores and their use."""
    monkeypatch.chdir(ROOT)
    variant = VARIANTS['t']
    cost = count_model(build_model(load_config('configs/maskrcnn_ravlt_t.py')), (96, 160))
    softmax = sum(2 * tokens ** 2 * variant.embed_dims[i] * variant.depths[i] for i, tokens in ((2, 60), (3, 15)))
    assert cost.softmax_attention == softmax
    # RALA: D×D buffers from all tokens and their use, 2·L·C·D, and three products with vectors, 3·L·C (one of them Lᵀ).
    linear = sum(variant.depths[i] * tokens * variant.embed_dims[i] * (2 * variant.embed_dims[i] // variant.num_heads[i] + 3)
                 for i, tokens in ((0, 24 * 40), (1, 12 * 20)))
    assert cost.linear_attention == linear


@pytest.mark.parametrize('backend', ['naive', 'eager'])
def test_fused_kernels_are_counted(backend: str):
    """PyTorch's fused attention, on real tensors, counts as much as the L×L products that it replaces."""
    from ralamala_mm.ops import rotary_frequencies, rotary_table, softmax_attention

    q, k, v = torch.randn(3, 1, 2, 35, 16)
    _, counted = count(lambda: softmax_attention(q, k, v, rotary_table(5, 7, rotary_frequencies(16)), backend))
    assert sum(counted[''].values()) == 2 * 2 * 35 ** 2 * 16


def test_convolutions_by_hand():
    layer = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    _, counted = count(layer, torch.rand(1, 3, 16, 32))
    assert sum(counted[''].values()) == 8 * 16 * 8 * 3 * 9


def test_the_size_of_mask_rcnn(monkeypatch: pytest.MonkeyPatch):
    """48.7 G in the backbone's convolutions, 170 G in neck and heads, 51 G and 1.6 G in the attentions."""
    monkeypatch.chdir(ROOT)
    cost = count_model(build_model(load_config('configs/maskrcnn_ravlt_t.py')), (800, 1280))
    parts = [part / 1e9 for part in (cost.backbone, cost.heads, cost.softmax_attention, cost.linear_attention)]
    assert parts == pytest.approx([48.7, 170.6, 51, 1.6], rel=0.01)


def test_every_published_model_has_a_row_and_every_config_too():
    assert len(ROWS) == 48
    assert sum(bool(row.published) for row in ROWS if row.title.startswith('RAVLT')) == 21
    assert sum(bool(row.published) for row in ROWS if row.title.startswith('MALA')) == 22
    assert {row.config for row in ROWS} == {str(path.relative_to(ROOT)) for path in (ROOT / 'configs').glob('*.py')}


@pytest.mark.parametrize('row', [row for row in ROWS if row.size == 's' and '3x' not in row.config], ids=lambda row: row.config)
def test_measured_as_published_and_as_the_page_says(row, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    config = load_config(row.config)
    cost = count_model(build_model(config), default_shape(config))
    assert zoo.deviation(cost.published_kind / 1e9, row.published['flops']) <= zoo.TOLERANCE
    if 'parameters' in row.published:
        assert zoo.deviation(cost.parameters / 1e6, row.published['parameters']) <= zoo.TOLERANCE
    page = (ROOT / 'docs/model_zoo.md').read_text()
    (line,) = [line for line in page.splitlines() if f'(../{row.config})' in line]
    for text in (f'{cost.parameters / 1e6:.1f} ', f'{cost.published_kind / 1e9:.1f} ({row.published["flops"]})',
                 f'| {cost.total / 1e9:.1f} |', ' | '.join(map(str, row.published['metrics']))):
        assert text in line


def test_the_page_marks_what_differs():
    costs = {row.config: Cost(10_000_000, int(100e9), 0, 0, 0) for row in ROWS}
    page = zoo.as_page(ROWS, costs)
    assert '- `configs/maskrcnn_ravlt_t.py`: flops 100.0 here, 219 published.' in page
    assert 'None;' not in page


def test_the_page_says_that_all_is_within_two_per_cent():
    page = (ROOT / 'docs/model_zoo.md').read_text()
    assert float(re.search(r'None; the largest is ([\d.]+)%', page).group(1)) <= 2


def test_the_metafile_names_what_is_there():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    (path,) = index['Import']
    content = yaml.safe_load((ROOT / path).read_text())
    collections = {collection['Name'] for collection in content['Collections']}
    assert collections == {'RAVLT', 'MALA'}
    assert len(content['Models']) == 48
    for model in content['Models']:
        assert model['In Collection'] in collections
        assert (ROOT / model['Config']).is_file()
        assert ('Results' in model) == ('Converted From' in model)  # never shown as ours
    for collection in content['Collections']:
        assert (ROOT / collection['README']).is_file()


def test_the_tool(call: Callable):
    result = call('python', 'tools/analysis_tools/get_flops.py', 'configs/retinanet_ravlt_t.py', '--shape', '64', '96')
    assert result.returncode == 0, result.stderr[-3000:]
    assert '23.6 M' in result.stdout
    assert '64×96 (height × width)' in result.stdout


def test_a_head_that_is_not_known():
    with pytest.raises(UserError, match='Identity has no head that get_flops knows'):
        count_model(nn.Identity(), (64, 64))
