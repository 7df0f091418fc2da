"""The attentions of `naive` as Triton kernels: q, k, v are read where they lie, in as few passes as the sums allow.

Same arguments and results as in `naive`. Of a linear attention only q, k, v and some D×D sums are kept for the
backward pass. Each is an operator of PyTorch's (`torch.ops.ralamala_mm`), opaque to torch.compile.
Passes over tokens, each tensor once a pass: RALA q | k v | q out, backward q g | k v dk dv | q g dq;
MALA k v | q out, backward q g dq | k v dk dv.
"""

from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
import triton
from torch import Tensor
from triton import cdiv, next_power_of_2

from . import triton_kernels as kernels
from .numerics import EPSILON, empty_tokens, with_adjacent_channels
from .rotary import RotaryTable

NARROWEST = 16  # tl.dot's smallest side


class Launch(NamedTuple):
    """How the kernels run, and the shared memory in bytes that the hungriest of them takes.

    Chosen from the compiler's report for sm_90; how many registers spill stands in docs/performance.md.
    """

    rows: int  # tokens at a time
    num_warps: int
    num_stages: int
    precision: str  # of matrix products: TF32 rounds as fp16 does; three of them are nearly as exact as fp32
    shared_memory: int


# By bytes per value and by D rounded up to a power of two. What is missing needs 264 KB of shared memory.
LAUNCHES = {
    **{(2, width): Launch(32, 4, 2, 'tf32', 56 << 10) for width in (16, 32, 64)},
    **{(4, width): Launch(32, 8, 1, 'tf32x3', 80 << 10) for width in (16, 32, 64)},
    (2, 128): Launch(16, 8, 1, 'tf32', 136 << 10),
}
OLDEST_CAPABILITY = (8, 0)  # TF32
INTERPRETED = Launch(64, 4, 1, 'ieee', 0)


def padded(channels: int) -> int:
    """D as the kernels need it."""
    return max(next_power_of_2(channels), NARROWEST)


def is_interpreted() -> bool:
    """Whether the kernels run in Triton's interpreter: TRITON_INTERPRET=1 was set when they were defined."""
    return not isinstance(kernels.attend, triton.JITFunction)


def launch_for(device: torch.device, dtype: torch.dtype, head_dim: int) -> Launch | None:
    """How to run the kernels on tokens `[B, N, L, head_dim]`, None if they cannot be."""
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return None
    if is_interpreted():
        return INTERPRETED
    launch = LAUNCHES.get((dtype.itemsize, padded(head_dim)))
    if launch is None or device.type != 'cuda' or torch.version.hip or not torch.cuda.is_available():
        return None
    if torch.cuda.get_device_capability(device) < OLDEST_CAPABILITY:
        return None
    return launch if launch.shared_memory <= _shared_memory(device.index or 0) else None


@cache
def _shared_memory(device: int) -> int:
    return triton.runtime.driver.active.utils.get_device_properties(device)['max_shared_mem']


class Tokens:
    """The tokens of q, k or v `[B, N, L, D]`, and the arguments that all kernels over them have in common."""

    def __init__(self, x: Tensor, cos: Tensor, sin: Tensor, height: int, width: int):
        self.batch, self.heads, self.length, self.channels = x.shape
        self.device = x.device
        self.launch = launch_for(x.device, x.dtype, self.channels)
        self.side = padded(self.channels)
        strides = dict(zip(('stride_batch', 'stride_head', 'stride_token', 'stride_channel'), x.stride(), strict=True))
        self.common = dict(
            strides, cos=cos, sin=sin, heads=self.heads, length=self.length, height=height, width=width,
            D=self.channels, WIDTH=self.side, ROWS=self.launch.rows, PRECISION=self.launch.precision)

    def programs(self, per_multiprocessor: int) -> int:
        """Programs per head that fill the device, none with less than a block of tokens."""
        wanted = 2
        if self.device.type == 'cuda':
            multiprocessors = torch.cuda.get_device_properties(self.device).multi_processor_count
            wanted = cdiv(per_multiprocessor * multiprocessors, max(1, self.batch * self.heads))
        return max(1, min(wanted, cdiv(self.length, self.launch.rows)))

    def run(self, kernel: triton.JITFunction, programs: int, **arguments) -> None:
        """Runs a kernel over every head's tokens, in whole blocks, one run of them for each program."""
        common = dict(self.common, chunk=cdiv(cdiv(self.length, programs), self.launch.rows) * self.launch.rows)
        arguments.update((name, common[name]) for name in kernel.arg_names if name in common)
        with torch.cuda.device(self.device if self.device.type == 'cuda' else -1):  # Triton launches on the current one
            kernel[programs, self.batch * self.heads](
                **arguments, num_warps=self.launch.num_warps, num_stages=self.launch.num_stages)

    def sums(self, programs: int, *shape: int) -> Tensor:
        """Room for what each program sums up, `[B·N, programs, …]`."""
        return torch.empty(self.batch * self.heads, programs, *shape, device=self.device, dtype=torch.float32)


# Programs for each multiprocessor: few where each leaves a D×D sum behind, many where none does.
SUMMING = 2
MAPPING = 8


def own_strides(x: Tensor, prefix: str = 'own') -> dict[str, int]:
    """The strides of a tensor that `empty_tokens` made, as arguments of a kernel."""
    return {f'{prefix}_stride_{axis}': stride for axis, stride in zip(('batch', 'head', 'token'), x.stride(), strict=False)}


def _alike(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same three; copies where their strides differ, which those of one projection do not."""
    if q.stride() == k.stride() == v.stride():
        return q, k, v
    return q.contiguous(), k.contiguous(), v.contiguous()


@torch.library.custom_op('ralamala_mm::rala', mutates_args=())
def _rala(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, height: int,
          width: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """out; and for the backward pass, per head: s · mean(q̂), the largest score, the softmax's sum, κ and S."""
    q, k, v = _alike(q, k, v)
    tokens = Tokens(q, cos, sin, height, width)
    programs, side = tokens.programs(SUMMING), tokens.side
    query_sums = tokens.sums(programs, side)
    tokens.run(kernels.sum_queries, programs, q=q, sums=query_sums)
    asked = query_sums.sum(1) * (tokens.channels ** -0.5 / tokens.length)
    buffers, key_sums = tokens.sums(programs, side, side), tokens.sums(programs, side)
    maxima, totals = tokens.sums(programs), tokens.sums(programs)
    tokens.run(kernels.sum_keys, programs, k=k, v=v, asked=asked, buffers=buffers, key_sums=key_sums, value_sums=key_sums,
               maxima=maxima, totals=totals, RALA=True)
    largest = maxima.amax(1, keepdim=True)
    shares = (maxima - largest).exp()  # of the softmax, program by program
    total = (totals * shares).sum(1, keepdim=True)
    shares = shares / total
    key_sum, buffer = (shares[..., None] * key_sums).sum(1), (shares[..., None, None] * buffers).sum(1)
    out = empty_tokens(q)
    tokens.run(kernels.attend, tokens.programs(MAPPING), q=q, buffer=buffer, key_sum=key_sum, value_mean=key_sum, out=out,
               **own_strides(out, 'out'), epsilon=EPSILON, RALA=True)
    return out, asked, largest, total, key_sum, buffer


@torch.library.custom_op('ralamala_mm::rala_backward', mutates_args=())
def _rala_backward(gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, height: int, width: int,
                   asked: Tensor, largest: Tensor, total: Tensor, key_sum: Tensor,
                   buffer: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = _alike(q, k, v)
    tokens = Tokens(q, cos, sin, height, width)
    programs, side = tokens.programs(SUMMING), tokens.side
    buffer_gradients, key_sum_gradients = tokens.sums(programs, side, side), tokens.sums(programs, side)
    q_gradient, k_gradient, v_gradient = (empty_tokens(q) for _ in range(3))
    queries = dict(
        q=q, gradient=gradient, **own_strides(gradient, 'out'), out_stride_channel=gradient.stride(-1), buffer=buffer,
        key_sum=key_sum, value_mean=key_sum, q_gradient=q_gradient, **own_strides(q_gradient), epsilon=EPSILON, RALA=True,
        buffer_gradients=buffer_gradients, key_sum_gradients=key_sum_gradients, value_mean_gradients=key_sum_gradients)
    tokens.run(kernels.query_gradients, programs, mean_gradient=key_sum, SUM=True, WRITE=False, **queries)
    buffer_gradient, key_sum_gradient = buffer_gradients.sum(1), key_sum_gradients.sum(1)
    weighted = (buffer * buffer_gradient).sum((1, 2)) + (key_sum * key_sum_gradient).sum(1)
    mean_gradients = tokens.sums(programs, side)
    tokens.run(kernels.key_gradients, programs, k=k, v=v, asked=asked, largest=largest, total=total, weighted=weighted,
               buffer_gradient=buffer_gradient, key_sum_gradient=key_sum_gradient, value_mean_gradient=key_sum_gradient,
               k_gradient=k_gradient, v_gradient=v_gradient, mean_gradients=mean_gradients, **own_strides(k_gradient), RALA=True)
    mean_gradient = mean_gradients.sum(1) * (tokens.channels ** -0.5 / tokens.length)
    tokens.run(kernels.query_gradients, tokens.programs(MAPPING), mean_gradient=mean_gradient, SUM=False, WRITE=True, **queries)
    return q_gradient, k_gradient, v_gradient


@torch.library.custom_op('ralamala_mm::mala', mutates_args=())
def _mala(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, height: int,
          width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """out; and for the backward pass, per head: κ, μ and S."""
    q, k, v = _alike(q, k, v)
    tokens = Tokens(q, cos, sin, height, width)
    programs, side = tokens.programs(SUMMING), tokens.side
    buffers, key_sums, value_sums = tokens.sums(programs, side, side), tokens.sums(programs, side), tokens.sums(programs, side)
    tokens.run(kernels.sum_keys, programs, k=k, v=v, asked=key_sums, buffers=buffers, key_sums=key_sums, value_sums=value_sums,
               maxima=key_sums, totals=key_sums, RALA=False)
    scale = tokens.channels ** -0.5
    key_sum, value_mean = key_sums.sum(1) * (scale / tokens.length), value_sums.sum(1) / tokens.length
    buffer = buffers.sum(1) * (scale / tokens.length)
    out = empty_tokens(q)
    tokens.run(kernels.attend, tokens.programs(MAPPING), q=q, buffer=buffer, key_sum=key_sum, value_mean=value_mean, out=out,
               **own_strides(out, 'out'), epsilon=EPSILON, RALA=False)
    return out, key_sum, value_mean, buffer


@torch.library.custom_op('ralamala_mm::mala_backward', mutates_args=())
def _mala_backward(gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, height: int, width: int,
                   key_sum: Tensor, value_mean: Tensor, buffer: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = _alike(q, k, v)
    tokens = Tokens(q, cos, sin, height, width)
    programs, side = tokens.programs(SUMMING), tokens.side
    buffer_gradients, key_sum_gradients, value_mean_gradients = (
        tokens.sums(programs, side, side), tokens.sums(programs, side), tokens.sums(programs, side))
    q_gradient, k_gradient, v_gradient = (empty_tokens(q) for _ in range(3))
    tokens.run(kernels.query_gradients, programs, q=q, gradient=gradient, **own_strides(gradient, 'out'),
               out_stride_channel=gradient.stride(-1), buffer=buffer, key_sum=key_sum, value_mean=value_mean,
               mean_gradient=key_sum, q_gradient=q_gradient, **own_strides(q_gradient), epsilon=EPSILON, RALA=False,
               buffer_gradients=buffer_gradients, key_sum_gradients=key_sum_gradients,
               value_mean_gradients=value_mean_gradients, SUM=True, WRITE=True)
    scale = tokens.channels ** -0.5
    tokens.run(kernels.key_gradients, programs, k=k, v=v, asked=key_sum, largest=key_sum, total=key_sum, weighted=key_sum,
               buffer_gradient=buffer_gradients.sum(1) * (scale / tokens.length),
               key_sum_gradient=key_sum_gradients.sum(1) * (scale / tokens.length),
               value_mean_gradient=value_mean_gradients.sum(1) / tokens.length,
               k_gradient=k_gradient, v_gradient=v_gradient, mean_gradients=key_sum, **own_strides(k_gradient), RALA=False)
    return q_gradient, k_gradient, v_gradient


@torch.library.custom_op('ralamala_mm::turn', mutates_args=())
def _turn(x: Tensor, cos: Tensor, sin: Tensor, height: int, width: int, back: bool) -> Tensor:
    tokens = Tokens(x, cos, sin, height, width)
    out = empty_tokens(x)
    tokens.run(kernels.turn_tokens, tokens.programs(MAPPING), x=x, out=out, **own_strides(out, 'out'), BACK=back)
    return out


def _sizes_of_sums(q: Tensor) -> tuple[int, int]:
    return q.shape[0] * q.shape[1], padded(q.shape[3])


@_rala.register_fake
def _(q, k, v, cos, sin, height, width):
    heads, side = _sizes_of_sums(q)
    sums = q.new_empty(heads, side, dtype=torch.float32)
    largest = q.new_empty(heads, 1, dtype=torch.float32)
    return (empty_tokens(q), sums, largest, torch.empty_like(largest), torch.empty_like(sums),
            q.new_empty(heads, side, side, dtype=torch.float32))


@_mala.register_fake
def _(q, k, v, cos, sin, height, width):
    heads, side = _sizes_of_sums(q)
    sums = q.new_empty(heads, side, dtype=torch.float32)
    return empty_tokens(q), sums, torch.empty_like(sums), q.new_empty(heads, side, side, dtype=torch.float32)


@_rala_backward.register_fake
@_mala_backward.register_fake
def _(gradient, q, *_):
    return tuple(empty_tokens(q) for _ in range(3))


@_turn.register_fake
def _(x, *_):
    return empty_tokens(x)


def _save(ctx, inputs: tuple, output: tuple) -> None:
    *tensors, ctx.height, ctx.width = inputs
    ctx.save_for_backward(*tensors, *output[1:])


def _linear_backward(backward):
    """The backward of an operator whose further outputs are for its own use."""

    def run(ctx, gradient: Tensor, *_) -> tuple:
        q, k, v, cos, sin, *kept = ctx.saved_tensors
        gradients = backward(gradient, q, k, v, cos, sin, ctx.height, ctx.width, *kept)
        return *gradients, None, None, None, None

    return run


def _turn_setup(ctx, inputs: tuple, output: Tensor) -> None:
    _, cos, sin, ctx.height, ctx.width, ctx.back = inputs
    ctx.save_for_backward(cos, sin)


def _turn_backward(ctx, gradient: Tensor) -> tuple:
    cos, sin = ctx.saved_tensors
    return _turn(gradient, cos, sin, ctx.height, ctx.width, not ctx.back), None, None, None, None, None


_rala.register_autograd(_linear_backward(_rala_backward), setup_context=_save)
_mala.register_autograd(_linear_backward(_mala_backward), setup_context=_save)
_turn.register_autograd(_turn_backward, setup_context=_turn_setup)


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, rotary: RotaryTable) -> Tensor:
    """Turned by a kernel in one pass each, attended by PyTorch's fused kernels."""
    tables = (rotary.cos, rotary.sin, rotary.height, rotary.width)
    return F.scaled_dot_product_attention(
        _turn(q, *tables, False), _turn(k, *tables, False), with_adjacent_channels(v))


def rala(q: Tensor, k: Tensor, v: Tensor, rotary: RotaryTable) -> Tensor:
    """RALA in three passes over tokens; the softmax over keys is summed up as it comes."""
    return _rala(q, k, v, rotary.cos, rotary.sin, rotary.height, rotary.width)[0]


def mala(q: Tensor, k: Tensor, v: Tensor, rotary: RotaryTable) -> Tensor:
    """MALA in two passes over tokens."""
    return _mala(q, k, v, rotary.cos, rotary.sin, rotary.height, rotary.width)[0]
