"""Softmax attention for CPUs on which PyTorch's BLAS is the slow one of its two libraries.

MKL takes its fast instructions only on Intel's processors; on others oneDNN multiplies more than twice as fast (measured:
docs/performance.md). PyTorch's fused attention uses MKL. Here queries go in blocks, whose weights stay in the cache, and
products go through 1×1 convolutions, which are PyTorch's public way to oneDNN in fp32.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .eager import rotate
from .numerics import empty_tokens
from .rotary import RotaryTable

BLOCK_WEIGHTS = 2_000_000  # 8 MB in fp32: three blocks stay in a cache of 32 MB
SHORTEST = 1000  # tokens; for fewer it was not measured
LONGEST = BLOCK_WEIGHTS // 400  # tokens; with fewer than 400 rows to a block, a product leaves oneDNN's threads idle


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, rotary: RotaryTable) -> Tensor:
    """As `naive.softmax_attention`, on tokens to which it `applies`."""
    return attention(rotate(q, rotary), rotate(k, rotary), v)


def applies(q: Tensor) -> bool:
    """Whether queries `[B, N, L, D]` can be computed here: fp32 on a CPU, outside of compiled and traced graphs."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    # A subclass of Tensor is a FakeTensor, of a compiler or of a tool that counts attentions by name.
    return type(q) is Tensor and obstacle(q.device, q.dtype) is None


def obstacle(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why tokens cannot be computed here, None if they can."""
    if device.type != 'cpu' or dtype != torch.float32:
        return f'it is for float32 on CPUs, not for {str(dtype).removeprefix("torch.")} on {device}'
    return None if torch.backends.mkldnn.is_available() else 'this PyTorch was built without oneDNN'


def is_faster(length: int) -> bool:
    """Whether this is faster than PyTorch's fused attention on this processor, for L tokens."""
    return SHORTEST <= length <= LONGEST and mkl_is_slow()


@cache
def mkl_is_slow() -> bool:
    """Whether products go through MKL on a processor that is not Intel's."""
    processor = Path('/proc/cpuinfo')
    return (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available() and processor.exists()
            and 'GenuineIntel' not in processor.read_text())


def rows_of(length: int) -> int:
    """Queries to a block, for L keys."""
    return max(1, BLOCK_WEIGHTS // length)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ / √D) v, all `[B, N, L, D]` in fp32; of the L×L weights one block is kept at a time."""
    return _Attention.apply(q, k, v)


def product(a: Tensor, b: Tensor) -> Tensor:
    """a bᵀ of `[M, K]` and `[N, K]`: rows of a are the pixels, rows of b the kernels."""
    (rows, inner), columns = a.shape, b.shape[0]
    pixels = a.contiguous().view(1, 1, rows, inner).permute(0, 3, 1, 2)
    return F.conv2d(pixels, b.contiguous().view(columns, inner, 1, 1)).permute(0, 2, 3, 1).view(rows, columns)


def product_of_transposed(a: Tensor, b: Tensor) -> Tensor:
    """aᵀ b of `[K, M]` and `[K, N]`: rows of b are the channels of an image of N pixels."""
    (inner, rows), columns = a.shape, b.shape[1]
    return F.conv2d(b.view(1, inner, 1, columns), a.t().contiguous().view(rows, inner, 1, 1)).view(rows, columns)


def _heads(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Head by head, `[L, D]` each."""
    batch, heads = tensors[0].shape[:2]
    return (tuple(x[i, j] for x in tensors) for i in range(batch) for j in range(heads))


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = empty_tokens(q)
        rows, scale = rows_of(q.shape[-2]), q.shape[-1] ** -0.5
        for q_head, k_head, v_head, out_head in _heads(q, k, v, out):
            values = v_head.t().contiguous()
            for queries, result in zip((q_head * scale).split(rows), out_head.split(rows), strict=True):
                result.copy_(product(product(queries, k_head).softmax(-1), values))
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, out = ctx.saved_tensors
        gradients = tuple(empty_tokens(q) for _ in range(3))
        rows, scale = rows_of(q.shape[-2]), q.shape[-1] ** -0.5
        for q_head, k_head, v_head, g_head, o_head, dq, dk, dv in _heads(q, k, v, gradient, out, *gradients):
            v_head, keys = v_head.contiguous(), k_head.t().contiguous()
            dk_sum, dv_sum = torch.zeros_like(keys), torch.zeros_like(keys)  # [D, L]
            blocks = ((q_head * scale).split(rows), g_head.split(rows), o_head.split(rows), dq.split(rows))
            for queries, g, o, dq_block in zip(*blocks, strict=True):
                weights = product(queries, k_head).softmax(-1)
                dv_sum += product_of_transposed(g, weights)
                scores = product(g, v_head).sub_((g * o).sum(-1, keepdim=True)).mul_(weights)
                dk_sum += product_of_transposed(queries, scores)
                dq_block.copy_(product(scores, keys).mul_(scale))
            dk.copy_(dk_sum.t())
            dv.copy_(dv_sum.t())
        return gradients
