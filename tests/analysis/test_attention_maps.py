"""The written-out weights of one token add up to what the attentions give; ranks of matrices whose rank is known."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ralamala_mm import MALA, RAVLT
from ralamala_mm.analysis.attention_maps import capture, scores, spread_of, token_at
from ralamala_mm.analysis.attention_ranks import PLAIN, block_ranks, buffer, plain_attention, rank_of
from ralamala_mm.errors import UserError
from ralamala_mm.ops import ATTENTIONS, rotary_frequencies, rotary_table

SMALL = dict(embed_dims=(16, 32, 64, 64), depths=(2, 1, 1, 1), num_heads=(1, 2, 4, 4))
HEIGHT, WIDTH = 7, 5


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
    assert token_at((0, 0), (128, 64), (32, 16)) == 0
    assert token_at((63, 127), (128, 64), (32, 16)) == 32 * 16 - 1
    assert token_at((9, 4), (128, 64), (32, 16)) == 1 * 16 + 2
    assert spread_of(torch.full((10,), 0.1)) == pytest.approx(dict(sum=1, peak=1, least=1, tokens=10))


def test_command_line(call, tmp_path: Path):
    import cv2
    import numpy as np

    config = 'tests/faults/configs/tiny_segmentor.py'
    from ralamala_mm.engine import build_model, load_config
    torch.save(build_model(load_config(config)).state_dict(), tmp_path / 'a.pth')
    cv2.imwrite(str(tmp_path / 'a.png'), np.random.default_rng(0).integers(0, 255, (48, 80, 3), np.uint8))
    command = ['python', 'tools/analysis_tools/attention_map.py', config, tmp_path / 'a.pth', tmp_path / 'a.png']
    done = call(*command, '--point', 70, 40, '--out', tmp_path / 'out')
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['attention.json', 'attention.png', 'ranks.png']
    assert len(json.loads((tmp_path / 'out' / 'attention.json').read_text())['ranks']) == 2
    assert 'plain linear' in done.stdout
    done = call(*command, '--point', 80, 40, '--out', tmp_path / 'none')
    assert done.returncode == 1
    assert 'lies outside' in done.stderr
