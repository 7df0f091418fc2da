"""The written-out weights of one token add up to what the attentions give; ranks of matrices whose rank is known."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ralamala_mm import MALA, RAVLT
from ralamala_mm.analysis.attention import (
    PLAIN,
    block_ranks,
    buffer,
    capture,
    draw_attention,
    plain_attention,
    rank_of,
    scores,
    spread_of,
    token_at,
)
from ralamala_mm.engine import build_model, load_config
from ralamala_mm.errors import UserError
from ralamala_mm.ops import ATTENTIONS, rotary_frequencies, rotary_table

SMALL = dict(embed_dims=(16, 32, 64, 64), depths=(2, 1, 1, 1), num_heads=(1, 2, 4, 4))
HEIGHT, WIDTH = 7, 5
CONFIG = 'tests/faults/configs/tiny_segmentor.py'


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return tuple(torch.randn(2, HEIGHT * WIDTH, 16) for _ in range(3))


@pytest.fixture
def rotary():
    return rotary_table(HEIGHT, WIDTH, rotary_frequencies(16))


@pytest.mark.parametrize('kind', ATTENTIONS)
def test_weights_add_up_to_the_output(kind: str, inputs, rotary):
    q, k, v = inputs
    expected = ATTENTIONS[kind](q[None], k[None], v[None], rotary)[0]
    for token in (0, 17, HEIGHT * WIDTH - 1):
        weights = scores(kind, q, k, rotary, token)  # [N, L]
        assert torch.allclose((weights[:, None] @ v)[:, 0], expected[:, token], atol=1e-5)


def test_plain_weights_add_up_to_plain_attention(inputs, rotary):
    q, k, v = inputs
    weights = scores('linear', q, k, rotary, 3)
    assert torch.allclose((weights[:, None] @ v)[:, 0], plain_attention(q, k, v, rotary)[:, 3], atol=1e-5)
    assert torch.allclose(weights.sum(-1), torch.ones(2))


@pytest.mark.parametrize('family', [RAVLT, MALA])
def test_captured_inputs_are_those_of_the_block(family: type):
    torch.manual_seed(0)
    backbone = family(SMALL).eval()
    attention = backbone.layers[0].blocks[1].attn
    seen = {}
    attend = attention.attend
    attention.attend = lambda qkvo, rotary: seen.update(out=attend(qkvo, rotary)[0]) or attend(qkvo, rotary)
    (found,) = capture(backbone, torch.randn(1, 3, 40, 56), [(0, 1)])
    out = ATTENTIONS[found.module.attention](found.q[None], found.k[None], found.v[None], found.rotary)[0]
    assert torch.allclose(out.transpose(0, 1).flatten(1).T.reshape(seen['out'].shape), seen['out'], atol=1e-6)
    ranks = block_ranks(found)
    assert set(ranks) == {found.module.attention, PLAIN, 'plain linear with rotary'}
    assert all(0 < rank.numerical <= rank.full for by_matrix in ranks.values() for rank in by_matrix.values())
    with pytest.raises(UserError, match='no block 3 in stage 1'):
        capture(backbone, torch.randn(1, 3, 40, 56), [(0, 2)])


def test_buffers_give_the_outputs(inputs, rotary):
    """Plain linear attention's buffer is what its outputs are made of."""
    q, k, v = inputs
    assert torch.allclose(buffer(PLAIN, q, k, v, rotary),
                          (nn.functional.elu(k) + 1).mT @ v / (HEIGHT * WIDTH), atol=1e-6)


def test_ranks_of_known_matrices():
    torch.manual_seed(0)
    low = torch.randn(1, 50, 3) @ torch.randn(1, 3, 20)
    assert rank_of(low).numerical == 3
    assert rank_of(low).full == 20
    assert rank_of(torch.eye(8)).numerical == 8
    assert rank_of(torch.eye(8)).effective == pytest.approx(8)
    assert rank_of(torch.diag(torch.tensor([1.0, 0.5, 0.005]))).numerical == 2


def test_pixels_and_tokens():
    assert token_at((0, 0), 4, 16) == 0
    assert token_at((63, 127), 4, 16) == 32 * 16 - 1
    assert token_at((9, 4), 4, 16) == 1 * 16 + 2
    assert token_at((0, 95), 8, 9) == 11 * 9  # of 97 rows: the thirteenth row of tokens has the last alone
    assert token_at((0, 96), 8, 9) == 12 * 9
    assert spread_of(torch.full((10,), 0.1)) == pytest.approx(dict(sum=1, peak=1, least=1, tokens=10))


def test_weights_lie_on_the_cells_of_their_tokens(monkeypatch, tmp_path: Path):
    """A cell of the sheet is as large as the stride, and what reaches beyond the image is cut off."""
    from matplotlib.axes import Axes

    drawn = []
    imshow = Axes.imshow
    monkeypatch.setattr(Axes, 'imshow', lambda axes, *args, **kwargs: drawn.append(axes) or imshow(axes, *args, **kwargs))
    draw_attention(np.zeros((20, 26, 3), np.uint8), (0, 0), [('block', 8, dict(rala=torch.rand(3, 4)))], tmp_path / 'a.png')
    image = drawn[-1].images[-1]
    assert tuple(image.get_extent()) == (-0.5, 31.5, 23.5, -0.5)
    assert drawn[-1].get_xlim() == (-0.5, 25.5)
    assert drawn[-1].get_ylim() == (19.5, -0.5)
    assert [path.name for path in tmp_path.iterdir()] == ['a.png']


@pytest.fixture(scope='module')
def command(tmp_path_factory: pytest.TempPathFactory) -> list:
    """The tool with a small MALA, weights of it, and an image of 80×48 pixels."""
    folder = tmp_path_factory.mktemp('attention')
    torch.save(build_model(load_config(CONFIG)).state_dict(), folder / 'a.pth')
    cv2.imwrite(str(folder / 'a.png'), np.random.default_rng(0).integers(0, 255, (48, 80, 3), np.uint8))
    return ['python', 'tools/analysis_tools/attention_map.py', CONFIG, folder / 'a.pth', folder / 'a.png']


def test_command_line(call, command: list, tmp_path: Path):
    done = call(*command, '--point', 70, 40, '--out', tmp_path / 'out')
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['attention.json', 'attention.png', 'ranks.png']
    found = json.loads((tmp_path / 'out' / 'attention.json').read_text())
    assert len(found['ranks']) == 2
    assert [(entry['grid'], entry['token']) for entry in found['attention']] == [([12, 20], 10 * 20 + 17), ([6, 10], 5 * 10 + 8)]
    assert 'plain linear' in done.stdout


def test_compiled_backbones_and_large_images(call, command: list, tmp_path: Path):
    """The point in the file is the image's own; a config may compile its backbone and leave images as they are."""
    image = np.random.default_rng(0).integers(0, 255, (100, 2000, 3), np.uint8)
    cv2.imwrite(str(tmp_path / 'large.png'), image)
    done = call(*command[:-1], tmp_path / 'large.png', '--point', 1999, 99, '--out', tmp_path / 'out', '--blocks', '2.1',
                '--cfg-options', 'model.backbone.compile=True', 'model.data_preprocessor.mean=None',
                'model.data_preprocessor.std=None')
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / 'out' / 'attention.json').read_text())
    assert found['point'] == [1999, 99]
    (entry,) = found['attention']
    assert entry['grid'] == [9, 167]
    assert entry['token'] == 9 * 167 - 1


@pytest.mark.parametrize(('options', 'code', 'told'), [
    (['--point', 80, 40], 1, 'lies outside'),
    (['--point', -1, 0], 1, 'lies outside'),
    (['--point', 0, 0, '--head', 0], 2, '0 is not a positive integer'),
    (['--point', 0, 0, '--head', -1], 2, '-1 is not a positive integer'),
    (['--point', 0, 0, '--head', 9], 1, '--head 9: stage 1, block 1 has 1'),
    (['--point', 0, 0, '--out', 'README.md'], 1, 'README.md is a file'),
])
def test_mistakes_are_told(call, command: list, options: list, code: int, told: str, tmp_path: Path):
    done = call(*command, '--out', tmp_path / 'none', *options)
    assert done.returncode == code
    assert told in done.stderr
    assert 'Traceback' not in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_image_that_cannot_be_read_is_named(call, command: list, tmp_path: Path):
    (tmp_path / 'bad.jpg').write_bytes(b'abc')
    done = call(*command[:-1], tmp_path / 'bad.jpg', '--point', 0, 0, '--out', tmp_path / 'out')
    assert done.returncode == 1
    assert done.stderr.startswith('error: ')
    assert 'bad.jpg' in done.stderr
