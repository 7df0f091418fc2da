"""The attentions: naive against the quadratic form written out, the fast paths against naive, in every dtype and at odd sizes.

Without a GPU the kernels of the Triton path run in Triton's interpreter.
"""

import importlib
import math
from functools import partial
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ralamala_mm import ops
from ralamala_mm.ops import eager, naive, onednn
from ralamala_mm.ops.kernel_check import relative_error, tolerance

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
FAST = ['eager', 'triton']
LINEAR = ['rala', 'mala']
NAMES = [*LINEAR, 'softmax_attention']
# (batch, heads, head channels, grid height, grid width): odd, single-row, single-token and larger grids.
SHAPES = [(2, 2, 32, 7, 9), (1, 1, 64, 1, 63), (1, 3, 36, 1, 1), (2, 1, 96, 25, 20), (1, 2, 16, 13, 17)]


def path(name: str) -> ModuleType:
    if name == 'triton':
        pytest.importorskip('triton')
    return importlib.import_module(f'ralamala_mm.ops.{name}')


def make_inputs(batch: int, heads: int, channels: int, height: int, width: int, dtype=torch.float64) -> tuple:
    """q, k, v `[B, N, L, D]` as strided views of one token-major tensor, as the backbone passes them; rotary; gradient."""
    generator = torch.Generator().manual_seed(height * width)
    qkvo = torch.randn(batch, height * width, 4, heads, channels, generator=generator, dtype=torch.float64).to(DEVICE, dtype)
    grad = torch.randn(batch, heads, height * width, channels, generator=generator, dtype=torch.float64).to(DEVICE, dtype)
    rotary = ops.rotary_table(height, width, ops.rotary_frequencies(channels, DEVICE))
    return qkvo, rotary, grad


def run(function, qkvo: Tensor, rotary, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Output and the gradient with respect to q, k, v and the unused fourth part."""
    qkvo = qkvo.clone().requires_grad_()
    q, k, v, _ = qkvo.permute(2, 0, 3, 1, 4)
    out = function(q, k, v, rotary)
    out.backward(grad.to(out.dtype))
    return out.detach(), qkvo.grad


def quadratic_rala(q: Tensor, k: Tensor, v: Tensor, rotary) -> Tensor:
    """RALA token by token: the L×L scores are formed, with nothing factored out."""
    q, k = F.elu(q) + 1, F.elu(k) + 1
    length, channels = q.shape[-2:]
    logits = torch.einsum('bnd,bnjd->bnj', q.mean(-2), k) / math.sqrt(channels)
    k = k * length * logits.softmax(-1)[..., None]
    scores = torch.einsum('bnid,bnjd->bnij', turn(q, rotary), turn(k, rotary))
    normalizer = torch.einsum('bnid,bnjd->bni', q, k) / length + 1e-6
    return torch.einsum('bnij,bnjd->bnid', scores, v) / length / normalizer[..., None]


def quadratic_mala(q: Tensor, k: Tensor, v: Tensor, rotary) -> Tensor:
    """MALA as scores β·φ(q)φ(k)ᵀ − γ, formed as an L×L matrix."""
    q, k = F.elu(q) + 1, F.elu(k) + 1
    length, channels = q.shape[-2:]
    turned = torch.einsum('bnid,bnjd->bnij', turn(q, rotary), turn(k, rotary)) / math.sqrt(channels) / length
    plain = torch.einsum('bnid,bnjd->bnij', q, k) / math.sqrt(channels)
    z = plain.mean(-1, keepdim=True)
    scores = turned * (1 + 1 / (z + 1e-6)) - z / length
    return torch.einsum('bnij,bnjd->bnid', scores, v)


def quadratic_softmax(q: Tensor, k: Tensor, v: Tensor, rotary) -> Tensor:
    scores = torch.einsum('bnid,bnjd->bnij', turn(q, rotary), turn(k, rotary)) / math.sqrt(q.shape[-1])
    weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    return torch.einsum('bnij,bnjd->bnid', weights, v)


QUADRATIC = {'rala': quadratic_rala, 'mala': quadratic_mala, 'softmax_attention': quadratic_softmax}


def turn(x: Tensor, rotary) -> Tensor:
    """Each pair of channels of each token multiplied by its own 2×2 rotation matrix."""
    cos, sin = (table.double() for table in rotary.over_grid())
    matrix = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)  # [L, D/2, 2, 2]
    return torch.einsum('lpxy,bnlpy->bnlpx', matrix, x.unflatten(-1, (-1, 2))).flatten(-2)


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('name', NAMES)
def test_naive_is_the_quadratic_form(name: str, shape: tuple):
    inputs = make_inputs(*shape)
    for result, expected in zip(run(getattr(naive, name), *inputs), run(QUADRATIC[name], *inputs), strict=True):
        # fp64 sums of at most 500 terms; the rotary tables are fp32 in both.
        assert relative_error(result, expected) < 1e-12


@pytest.mark.parametrize('fast', FAST)
@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('name', NAMES)
def test_fast_paths_are_as_exact_as_naive_in_fp32(name: str, shape: tuple, fast: str):
    exact = run(getattr(naive, name), *make_inputs(*shape))
    inputs = make_inputs(*shape, dtype=torch.float32)
    plain, results = run(getattr(naive, name), *inputs), run(getattr(path(fast), name), *inputs)
    for result, baseline, reference in zip(results, plain, exact, strict=True):
        assert relative_error(result, reference) <= tolerance(relative_error(baseline, reference), torch.float32)


@pytest.mark.parametrize('fast', FAST)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('name', NAMES)
def test_fast_paths_in_half_precision(name: str, shape: tuple, dtype: torch.dtype, fast: str):
    qkvo, rotary, grad = make_inputs(*shape, dtype=dtype)
    exact = run(getattr(naive, name), qkvo.double(), rotary, grad.double())
    result = run(getattr(path(fast), name), qkvo, rotary, grad)
    # The plain formula evaluated wholly in the dtype is what the fast path must not be worse than, times two.
    low = ops.RotaryTable(rotary.cos.to(dtype), rotary.sin.to(dtype), rotary.height, rotary.width)
    baseline = run(QUADRATIC_IN_DTYPE[name], qkvo, low, grad)
    for value, plain, reference in zip(result, baseline, exact, strict=True):
        assert value.dtype == dtype
        assert relative_error(value, reference) <= tolerance(relative_error(plain, reference), dtype,
                                                             interpreted=(fast, DEVICE) == ('triton', 'cpu'))


def plain_softmax(q: Tensor, k: Tensor, v: Tensor, rotary) -> Tensor:
    return (naive.rotate(q, rotary) @ naive.rotate(k, rotary).mT * q.shape[-1] ** -0.5).softmax(-1) @ v


# The linear attentions compute in fp32 inside, so that naive in the same dtype is the baseline.
QUADRATIC_IN_DTYPE = {'rala': naive.rala, 'mala': naive.mala, 'softmax_attention': plain_softmax}


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('name', LINEAR)
def test_67200_tokens_stay_finite_and_exact(name: str, dtype: torch.dtype):
    """Stage 1 of an 800×1344 image, under autocast; sums of 67,200 terms overflow fp16 and swamp bf16 if kept there."""
    qkvo, rotary, grad = make_inputs(1, 1, 64, 200, 336, dtype=dtype)
    exact = run(getattr(naive, name), qkvo.double(), rotary, grad.double())

    def under_autocast(*arguments) -> Tensor:
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            return getattr(ops, name)(*arguments)

    result = run(under_autocast, qkvo, rotary, grad)
    for value, reference in zip(result, exact, strict=True):
        assert value.isfinite().all()
        # Inputs, outputs and gradients are rounded to the dtype once each; sums in fp32 add L·2⁻²⁴ at worst.
        assert relative_error(value, reference) < 2 * torch.finfo(dtype).eps + 67200 * 2 ** -24


@pytest.mark.parametrize('shape', [(1, 2, 64, 45, 50), (2, 1, 36, 31, 37)])
def test_attention_through_onednn(shape: tuple):
    """Whatever the processor; the last shape has blocks of which the last is not full."""
    qkvo, _, grad = make_inputs(*shape)
    inputs = qkvo.float().cpu(), ops.rotary_table(*shape[3:], ops.rotary_frequencies(shape[2])), grad.float().cpu()
    assert onednn.applies(inputs[2])
    exact = run(naive.softmax_attention, inputs[0].double(), inputs[1], inputs[2].double())
    plain = run(naive.softmax_attention, *inputs)
    results = run(partial(ops.softmax_attention, backend='onednn'), *inputs)
    for result, baseline, reference in zip(results, plain, exact, strict=True):
        assert relative_error(result, reference) <= tolerance(relative_error(baseline, reference), torch.float32)


@pytest.mark.parametrize('fast', FAST)
@pytest.mark.parametrize('name', LINEAR)
def test_gradients_of_any_strides_and_programs_without_tokens(name: str, fast: str, monkeypatch: pytest.MonkeyPatch):
    if fast == 'triton':  # 448 tokens in runs of two blocks of 64: the last of five programs has none
        monkeypatch.setattr(path(fast).Tokens, 'programs', lambda *_: 5)
    qkvo, rotary, grad = make_inputs(1, 2, 32, 16, 28, dtype=torch.float32)
    function = getattr(path(fast), name)
    for gradient in (torch.ones(()).to(DEVICE).expand_as(grad), grad.transpose(-1, -2).contiguous().transpose(-1, -2)):
        expected = run(getattr(naive, name), qkvo, rotary, gradient)
        for result, reference in zip(run(function, qkvo, rotary, gradient), expected, strict=True):
            assert relative_error(result, reference) < 1e-5


@pytest.mark.parametrize('fast', FAST)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('name', LINEAR)
def test_values_far_from_zero(name: str, dtype: torch.dtype, fast: str):
    """MALA subtracts one large term from another where the values have a mean."""
    qkvo, rotary, grad = make_inputs(1, 1, 64, 20, 31, dtype=dtype)
    qkvo[:, :, 2] += 3
    exact = run(getattr(naive, name), qkvo.double(), rotary, grad.double())
    plain, results = run(getattr(naive, name), qkvo, rotary, grad), run(getattr(path(fast), name), qkvo, rotary, grad)
    for result, baseline, reference in zip(results, plain, exact, strict=True):
        assert relative_error(result, reference) <= tolerance(relative_error(baseline, reference), dtype,
                                                              interpreted=(fast, DEVICE) == ('triton', 'cpu'))


def test_onednn_computes_where_it_is_faster_or_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(onednn, 'softmax_attention', lambda *_: 'onednn')
    monkeypatch.setattr(eager, 'softmax_attention', lambda *_: 'eager')
    monkeypatch.setattr(onednn, 'mkl_is_slow', lambda: True)

    def computed_by(length: int, backend: str | None = None, dtype: torch.dtype = torch.float32) -> str:
        x = torch.empty(1, 1, length, 64, dtype=dtype)
        return ops.softmax_attention(x, x, x, None, backend)

    assert computed_by(4200) == 'onednn'
    assert computed_by(196) == computed_by(16384) == computed_by(4200, dtype=torch.bfloat16) == 'eager'
    with FakeTensorMode():
        assert computed_by(4200) == computed_by(4200, 'onednn') == 'eager'
    assert computed_by(4200, 'eager') == 'eager'
    monkeypatch.setattr(onednn, 'mkl_is_slow', lambda: False)
    assert computed_by(4200) == 'eager'
    assert computed_by(196, 'onednn') == computed_by(16384, 'onednn') == 'onednn'


@pytest.mark.parametrize('fast', FAST)
@pytest.mark.parametrize('name', NAMES)
def test_any_strides(name: str, fast: str):
    """Channel-major views, as an NCHW projection gives them, mean the same; so do three tensors of different strides."""
    qkvo, rotary, grad = make_inputs(2, 2, 32, 5, 7, dtype=torch.float32)
    function = getattr(path(fast), name)
    expected = run(function, qkvo, rotary, grad)

    def channel_major(q: Tensor, k: Tensor, v: Tensor, table) -> Tensor:
        return function(*(x.transpose(-1, -2).contiguous().transpose(-1, -2) for x in (q, k, v)), table)

    def mixed(q: Tensor, k: Tensor, v: Tensor, table) -> Tensor:
        return function(q.contiguous(), k, v.transpose(-1, -2).contiguous().transpose(-1, -2), table)

    for variant in (channel_major, mixed):
        for result, reference in zip(run(variant, qkvo, rotary, grad), expected, strict=True):
            torch.testing.assert_close(result, reference)


@pytest.mark.parametrize('fast', FAST)
@pytest.mark.parametrize('name', LINEAR)
def test_large_scores_do_not_overflow(name: str, fast: str):
    """Keys whose scores differ by more than the range of exp in fp32 (88)."""
    qkvo, rotary, grad = make_inputs(1, 1, 64, 9, 31)
    qkvo[:, :, :2] *= 20
    exact = run(getattr(naive, name), qkvo, rotary, grad)
    plain = run(getattr(naive, name), qkvo.float(), rotary, grad.float())
    result = run(getattr(path(fast), name), qkvo.float(), rotary, grad.float())
    for value, baseline, reference in zip(result, plain, exact, strict=True):
        assert relative_error(value, reference) <= tolerance(relative_error(baseline, reference), torch.float32)


def test_only_large_maps_are_computed_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.import_module('ralamala_mm.ops.numerics'), 'SMALL', 4 * 1000)
    calls = []

    def double(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return (2 * x).sin()

    for length in (999, 1000):
        x = torch.linspace(0, 1, length, requires_grad=True)
        (gradient,) = torch.autograd.grad(ops.recompute(double, x).sum(), x)
        torch.testing.assert_close(gradient, 2 * (2 * x.detach()).cos())
    assert calls == [999, 1000, 1000]


def test_recomputing_changes_no_bit():
    qkvo, rotary, grad = make_inputs(1, 2, 32, 9, 11, dtype=torch.float32)
    for name in LINEAR:
        for kept, recomputed in zip(run(getattr(eager, f'_{name}'), qkvo, rotary, grad),
                                    run(getattr(eager, name), qkvo, rotary, grad), strict=True):
            assert torch.equal(kept, recomputed)


@pytest.mark.parametrize('name', NAMES)
def test_the_triton_operators_are_whole(name: str):
    """Fake results, gradients and dispatch as torch.compile relies on them."""
    qkvo, rotary, _ = make_inputs(2, 1, 32, 3, 5, dtype=torch.float32)
    q, k, v, _ = (x.detach().requires_grad_() for x in qkvo.permute(2, 0, 3, 1, 4))
    tables = (rotary.cos, rotary.sin, rotary.height, rotary.width)
    operator, arguments = dict(
        rala=(torch.ops.ralamala_mm.rala, (q, k, v, *tables)), mala=(torch.ops.ralamala_mm.mala, (q, k, v, *tables)),
        softmax_attention=(torch.ops.ralamala_mm.turn, (q, *tables, False)))[name]
    torch.library.opcheck(operator, arguments, test_utils=['test_schema', 'test_autograd_registration', 'test_faketensor'])
