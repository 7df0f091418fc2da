"""The floor: multiply-adds against what PyTorch counts on the real models, bytes against arithmetic by hand."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ralamala_mm import MALA, RAVLT
from ralamala_mm.analysis.flops import count
from ralamala_mm.analysis.roofline import (
    Op,
    OpCount,
    Rates,
    as_summary,
    as_table,
    attention_op,
    count_backbone,
    count_blocks,
    floor_seconds,
    measured_rates,
)
from ralamala_mm.backbones.hybrid import HybridVisionTransformer
from ralamala_mm.families import VARIANTS

SHAPE = (2, 3, 97, 130)


@pytest.mark.parametrize('arch', ['t', 's', 'l'])
@pytest.mark.parametrize('backbone_class', [RAVLT, MALA])
def test_as_pytorch_counts(backbone_class: type[HybridVisionTransformer], arch: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv('RALAMALA_BACKEND', 'naive')
    backbone = backbone_class(arch).eval()
    with FakeTensorMode(allow_non_fake_inputs=True):
        _, counted = count(backbone, torch.empty(SHAPE))
    ops = count_backbone(backbone_class.linear_attention, VARIANTS[arch], SHAPE, 4)
    assert sum(op.parameters for op in ops) == sum(p.numel() for p in backbone.parameters())
    outside = sum(op.forward.multiply_adds for op in ops if op.name != 'attention')
    assert outside == counted[''].pop('aten.convolution')
    for i in range(4):
        (attention,) = [op for op in ops if (op.part, op.name) == (f'stage {i + 1}', 'attention')]
        in_stage = counted[f'{backbone_class.__name__}.layers.{i}']
        products = sum(flops for operator, flops in in_stage.items() if operator != 'aten.convolution')
        # The paper's way takes RALA's mean key as a sum, where the floor counts a weighted one: 1 product of 2·D + 3.
        assert attention.forward.multiply_adds == pytest.approx(products, rel=0.01 if i < 2 else 0)


def test_stages_that_are_not_built_are_not_counted():
    backbone = RAVLT('t', out_indices=(0, 2))
    ops = count_backbone('rala', VARIANTS['t'], SHAPE, 4, out_indices=(0, 2))
    assert sum(op.parameters for op in ops) == sum(p.numel() for p in backbone.parameters())
    assert [op.part for op in ops if op.name == 'output norm'] == ['stage 1', 'stage 3']


@pytest.mark.parametrize(('kind', 'forward', 'backward'), [('rala', 5, 9), ('mala', 4, 7), ('softmax_attention', 4, 8)])
def test_bytes_of_the_attentions(kind: str, forward: int, backward: int):
    op = attention_op(kind, 2, 3, 50, 16, element_size=2)
    of_a_map = 2 * 3 * 50 * 16 * 2
    assert (op.forward.bytes, op.backward.bytes) == (forward * of_a_map, backward * of_a_map)


def test_bytes_of_a_block_by_hand():
    """Stage 1 of size t, two blocks: x has 64 channels, qkvo 256, the hidden layer 224; `maps` of 35 tokens in fp32."""
    ops = {op.name: op for op in count_blocks('mala', VARIANTS['t'], 0, 1, 35, 4)}
    by_hand = {  # channels moved forward and backward, parameters
        'pos': (128, 192, 640), 'norm1, qkvo': (320, 384, 64 * 256 + 256 + 128), 'attention': (256, 448, 0),
        'lepe, gate': (256, 512, 1664), 'proj, residual': (192, 256, 64 * 64 + 128), 'norm2, fc1': (288, 352, 64 * 224 + 352),
        'GELU, depthwise': (448, 672, 2240), 'fc2, residual': (352, 576, 64 * 224 + 128)}
    assert list(ops) == list(by_hand)
    for name, (forward, backward, parameters) in by_hand.items():
        assert ops[name].forward.bytes == 2 * 4 * (35 * forward + parameters), name
        assert ops[name].backward.bytes == 2 * 4 * (35 * backward + 2 * parameters), name


def test_backward_computes_twice_as_much_but_for_the_image_and_softmax():
    ops = count_backbone('rala', VARIANTS['t'], SHAPE, 4)
    factors = {(op.part, op.name): op.backward.multiply_adds / op.forward.multiply_adds for op in ops[1:]
               if op.forward.multiply_adds}
    assert ops[0].backward.multiply_adds == ops[0].forward.multiply_adds
    softmax = {('stage 3', 'attention'), ('stage 4', 'attention')}
    assert {part for part, factor in factors.items() if factor == 2.5} == softmax
    assert {factor for part, factor in factors.items() if part not in softmax} == {2}


def test_time_is_of_what_takes_longer():
    rates = Rates(flops=100, bandwidth=10)
    computing, moving = OpCount(500, 10), OpCount(50, 80)
    assert (computing.seconds(rates), moving.seconds(rates)) == (10, 8)
    ops = [Op('stem', 'conv', computing, moving, 0), Op('stage 1', 'pos', moving, moving, 0)]
    assert floor_seconds(ops, rates, backward=False) == 18
    assert floor_seconds(ops, rates, backward=True) == 34
    assert '| all | forward | 0.0 | 0 | 1.8e+04 | 56% |' in as_summary(ops, rates)


def test_the_table_has_every_part_and_op():
    ops = count_backbone('rala', VARIANTS['s'], (1, 3, 800, 1333), 4)
    lines = as_table(ops).splitlines()
    assert lines[0].split(' | ')[1:] == ['stem', 'stage 1', 'stage 2', 'stage 3', 'stage 4', 'all |']
    assert len(lines) == 2 + 11 + 1
    assert lines[-1].endswith('| 203.84 · 5750 |')


def test_rates_of_this_machine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr('ralamala_mm.analysis.roofline._MATMUL_SIZE', dict(cpu=(256, 256, 256)))
    monkeypatch.setattr('ralamala_mm.analysis.roofline._COPY_BYTES', dict(cpu=2 ** 22))
    rates = measured_rates('cpu', 'float32')
    assert rates.flops > 1e8
    assert rates.bandwidth > 1e8
