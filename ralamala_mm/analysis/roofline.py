"""The lower bound of a backbone's time: its multiply-adds, the fewest bytes that they move, and a device's rates.

An op is what one kernel could do: a convolution or matrix product with the norm before it and the activation, gate,
scale or residual after it, or one attention. Counted, in elements of the maps and of the weights:

- Forward: each input map is read once, each output map written once, the weights are read once. Norms, activations,
  rotary tables and stochastic depth move nothing of their own; a batch norm is folded, or takes its statistics where
  its convolution writes and normalizes where the next op reads.
- Backward: each input map and the gradient of each output are read once, the gradient of each input is written once;
  a residual costs one read, as does every other map that feeds two ops, because the two gradients are added up; weights
  are read and their gradients written once. Twice the forward's multiply-adds. The image needs no gradient.
- Softmax attention: q, k, v in and out; backward reads out too, and does 2.5 times the forward's products, the scores
  being recomputed.
- RALA: the mean of q has to be known before any key can be weighed, so q is read; then k and v once, with an online
  softmax, for both sums; then q again and out written: 5 maps. Backward: q and out's gradient, for the gradient of the
  sums; k and v, with their gradients written; again q and out's gradient with q's written, as the mean of q carries the
  sum over all keys into each query's gradient: 9 maps.
- MALA: k and v once, q once, out: 4 maps. Backward: q, out's gradient, q's gradient; k, v and their gradients: 7 maps.

Fusing across these ops, or maps that stay in a cache between two of them, can go below the bound.

Shapes: B batch, C channels, L tokens, N heads, D = C / N channels per head.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ralamala_mm.errors import UserError
from ralamala_mm.families import FAMILIES, LINEAR_STAGES, NUM_STAGES, Variant

_SOFTMAX_MAPS = (4, 8)  # of B·L·C elements, forward and backward
_MATMUL_SIZE = {'cpu': (4096, 512, 512), 'cuda': (8192, 8192, 8192)}  # rows, inner size, columns
_COPY_BYTES = {'cpu': 2 ** 28, 'cuda': 2 ** 31}


@dataclass(frozen=True)
class Rates:
    """What a device reaches: FLOP per second in a large matrix product, bytes per second, read and written, in a copy."""

    flops: float
    bandwidth: float


@dataclass(frozen=True)
class OpCount:
    """Multiply-adds (2 FLOP each) and bytes read and written."""

    multiply_adds: int
    bytes: int

    def __add__(self, other: 'OpCount') -> 'OpCount':
        return OpCount(self.multiply_adds + other.multiply_adds, self.bytes + other.bytes)

    def seconds(self, rates: Rates) -> float:
        """Whichever takes longer: to compute it, or to move it."""
        return max(2 * self.multiply_adds / rates.flops, self.bytes / rates.bandwidth)


@dataclass(frozen=True)
class Op:
    """One op of one part of a backbone, in all blocks of that part together."""

    part: str  # 'stem', 'stage 1' …
    name: str
    forward: OpCount
    backward: OpCount
    parameters: int

    def seconds(self, rates: Rates, backward: bool) -> float:
        """Of the forward pass, or of both passes."""
        return self.forward.seconds(rates) + (self.backward.seconds(rates) if backward else 0.0)


def _maps(reads: int, writes: int, residual: int = 0, joins: int = 0) -> tuple[int, int]:
    """Elements moved forward and backward; `joins` are the further gradients that one of an input is added to."""
    return reads + residual + writes, writes + 2 * reads + residual + joins


def _op(part: str, name: str, element_size: int, multiply_adds: int, maps: tuple[int, int], parameters: int = 0,
        repeats: int = 1, backward_factor: float = 2) -> Op:
    forward = OpCount(repeats * multiply_adds, repeats * element_size * (maps[0] + parameters))
    backward = OpCount(int(repeats * multiply_adds * backward_factor), repeats * element_size * (maps[1] + 2 * parameters))
    return Op(part, name, forward, backward, repeats * parameters)


def attention_op(kind: str, batch: int, heads: int, length: int, head_dim: int, element_size: int, part: str = '',
                 repeats: int = 1) -> Op:
    """Softmax attention, or the linear attention of a family, on q, k, v of `[batch, heads, length, head_dim]`."""
    map_size = batch * heads * length * head_dim
    softmax = kind == 'softmax_attention'
    if softmax:
        per_element, (forward, backward) = 2 * length, _SOFTMAX_MAPS
    else:
        costs = {family.cost for family in FAMILIES.values() if family.linear_attention == kind}
        if len(costs) != 1:
            raise UserError(f'the cost of the attention {kind} is not known: its families register {len(costs)} of them')
        (cost,) = costs
        per_element, forward, backward = 2 * head_dim + cost.vector_products, cost.forward_maps, cost.backward_maps
    return _op(part, 'attention', element_size, per_element * map_size, (forward * map_size, backward * map_size),
               repeats=repeats, backward_factor=2.5 if softmax else 2)


def count_backbone(linear_attention: str, variant: Variant, shape: tuple[int, int, int, int], element_size: int,
                   out_indices: Sequence[int] = range(NUM_STAGES),
                   linear_stages: Sequence[int] = LINEAR_STAGES) -> list[Op]:
    """Every op of a backbone, part by part in the order in which data meets them.

    Args:
        linear_attention: the attention of the stages `linear_stages`, such as 'rala'.
        variant: its size.
        shape: of the image, `[batch, channels, height, width]`.
        element_size: bytes per element of maps and weights, 4 for fp32 and 2 for fp16.
        out_indices: stages whose maps are returned.
        linear_stages: those of the others have softmax attention.
    """
    batch, in_channels, *grid = shape
    ops = []
    half, last = variant.embed_dims[0] // 2, max(out_indices)
    for inputs, outputs, stride in ((in_channels, half, 2), (half, half, 1), (half, half, 1), (half, variant.embed_dims[0], 2)):
        before, grid = batch * inputs * grid[0] * grid[1], [-(-side // stride) for side in grid]
        after = batch * outputs * grid[0] * grid[1]
        is_first = not ops
        maps = (before + after, before + after) if is_first else _maps(before, after)
        ops.append(_op('stem', 'conv 3×3', element_size, 9 * inputs * after, maps, 9 * inputs * outputs + 3 * outputs,
                       backward_factor=1 if is_first else 2))
    for i in range(last + 1):
        channels, length = variant.embed_dims[i], grid[0] * grid[1]
        map_size = batch * length * channels
        attention = linear_attention if i in linear_stages else 'softmax_attention'
        ops += count_blocks(attention, variant, i, batch, length, element_size)
        if i in out_indices:
            ops.append(_op(f'stage {i + 1}', 'output norm', element_size, 0,
                           _maps(map_size, map_size, joins=map_size if i < last else 0), 2 * channels))
        if i < last:
            outputs, grid = variant.embed_dims[i + 1], [-(-side // 2) for side in grid]
            after = batch * outputs * grid[0] * grid[1]
            ops.append(_op(f'stage {i + 1}', 'downsample', element_size, 9 * channels * after, _maps(map_size, after),
                           9 * channels * outputs + 3 * outputs))
    return ops


def count_blocks(attention: str, variant: Variant, stage: int, batch: int, length: int, element_size: int) -> list[Op]:
    """The ops of all blocks of stage 0 to 3 on `length` tokens."""
    channels, heads = variant.embed_dims[stage], variant.num_heads[stage]
    hidden = int(channels * variant.mlp_ratio)
    part, repeats = f'stage {stage + 1}', variant.depths[stage]
    x, h = batch * length * channels, batch * length * hidden  # elements of a map and of one of the hidden width
    op = attention_op(attention, batch, heads, length, channels // heads, element_size, part, repeats)
    rows = [  # multiply-adds, elements of maps moved, parameters; in the order of `Block.forward`
        ('pos', 9 * x, _maps(x, x), 10 * channels),
        ('norm1, qkvo', 4 * x * channels, _maps(x, 4 * x), 4 * channels ** 2 + 6 * channels),
        ('lepe, gate', 25 * x, _maps(3 * x, x, joins=x), 26 * channels),
        ('proj, residual', x * channels, _maps(x, x, residual=x), channels ** 2 + 2 * channels),
        ('norm2, fc1', x * hidden, _maps(x, h), channels * hidden + hidden + 2 * channels),
        ('GELU, depthwise', 9 * h, _maps(h, h), 10 * hidden),
        ('fc2, residual', x * hidden, _maps(h, x, residual=x), channels * hidden + 2 * channels),
    ]
    ops = [_op(part, name, element_size, multiply_adds, maps, parameters, repeats)
           for name, multiply_adds, maps, parameters in rows]
    return [*ops[:2], op, *ops[2:]]


def floor_seconds(ops: Sequence[Op], rates: Rates, backward: bool) -> float:
    """Least time for the ops one after the other, of the forward pass or of both passes."""
    return sum(op.seconds(rates, backward) for op in ops)


def measured_rates(device: str, dtype: str) -> Rates:
    """The two ceilings of a device, 'cpu' or 'cuda': the best of several matrix products and copies."""
    if device == 'cuda':
        # A matrix product in fp32 takes TF32 only where convolutions, most of a backbone, do.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    (rows, inner, columns), copied = _MATMUL_SIZE[device], _COPY_BYTES[device]
    pixels, kernels = (torch.rand(size, inner, device=device).to(getattr(torch, dtype)) for size in (rows, columns))
    # As a product, and as the 1×1 convolution of a channels-last map: on some CPUs the latter's library is the faster one.
    feature_map = pixels.view(1, rows, 1, inner).permute(0, 3, 1, 2)
    with torch.no_grad():
        matmul = min(_best_time(function, device) for function in (
            lambda: torch.mm(pixels, kernels.t()), lambda: F.conv2d(feature_map, kernels[:, :, None, None])))
    source = torch.ones(copied // 4, device=device)
    target = torch.empty_like(source)
    copy = _best_time(lambda: target.copy_(source), device)
    return Rates(flops=2 * rows * inner * columns / matmul, bandwidth=2 * copied / copy)


def _best_time(function: Callable, device: str, runs: int = 5) -> float:
    times = []
    for _ in range(runs + 1):  # the first one is never the best
        start = time.perf_counter()
        function()
        if device == 'cuda':
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def as_table(ops: Sequence[Op]) -> str:
    """The forward pass in Markdown: `G multiply-adds · MB` of every op in every part."""
    parts, names = (list(dict.fromkeys(getattr(op, key) for op in ops)) for key in ('part', 'name'))
    lines = [f'| forward: G multiply-adds · MB | {" | ".join(parts)} | all |', '|-' * (len(parts) + 2) + '|']
    for name in [*names, None]:  # None: all ops
        row = [op for op in ops if name in (op.name, None)]
        cells = [_cell([op for op in row if op.part == part]) for part in parts]
        lines.append(f'| {name or "all"} | {" | ".join(cells)} | {_cell(row)} |')
    return '\n'.join(lines)


def _cell(ops: Sequence[Op]) -> str:
    if not ops:
        return ''
    total = _total(op.forward for op in ops)
    return f'{total.multiply_adds / 1e9:.2f} · {total.bytes / 1e6:.0f}'


def _total(works) -> OpCount:
    return sum(works, OpCount(0, 0))


def as_summary(ops: Sequence[Op], rates: Rates | None = None) -> str:
    """Both passes of every part in Markdown, with the floor in milliseconds where rates are given."""
    parts = [*dict.fromkeys(op.part for op in ops), None]
    lines = ['| part | pass | G multiply-adds | MB | floor: ms | of it bound by arithmetic |', '|-|-|-|-|-|-|']
    for name, backward in (('forward', False), ('forward+backward', True)):
        for part in parts:
            chosen = [op for op in ops if part in (op.part, None)]
            works = [op.forward for op in chosen] + [op.backward for op in chosen] * backward
            total = _total(works)
            times = '– | –' if rates is None else _times(works, rates)
            lines.append(f'| {part or "all"} | {name} | {total.multiply_adds / 1e9:.1f} | {total.bytes / 1e6:.0f} | {times} |')
    return '\n'.join(lines)


def _times(works: Sequence[OpCount], rates: Rates) -> str:
    seconds = sum(work.seconds(rates) for work in works)
    arithmetic = sum(work.seconds(rates) for work in works if 2 * work.multiply_adds / rates.flops > work.bytes / rates.bandwidth)
    return f'{seconds * 1e3:.3g} | {arithmetic / seconds:.0%}'
