"""Where a pixel looks, and how much a linear attention keeps: weights of tokens, ranks of buffers and outputs.

Every attention here is out_i = Σ_j w_ij v_j, its weights not depending on v; of linear attention the L×L weights are never
formed, and are found here for one i. Shapes: N heads, L = H·W tokens, D channels per head.

Both papers argue that the buffer Σ_j k_jᵀ v_j of plain linear attention, and with it the output, are of low rank. For the
ranks the same q, k, v of a trained model go through plain linear attention and through the model's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from torch import Tensor, nn

from ralamala_mm.backbones.hybrid import STRIDES
from ralamala_mm.errors import UserError
from ralamala_mm.files import atomic_write
from ralamala_mm.ops import ATTENTIONS, RotaryTable
from ralamala_mm.ops.naive import feature_map, rotate

TITLES = {'softmax_attention': 'softmax, same q, k', 'linear': 'plain linear, same q, k'}  # others by their names
THRESHOLD = 0.01  # singular values below this part of the largest do not count
PLAIN, ROTARY = 'plain linear', 'plain linear with rotary'
BUFFERED = ('rala', 'mala', PLAIN, ROTARY)  # attentions whose buffer is known here
MATRICES = ('buffer', 'attended', 'gated')


@dataclass
class BlockInputs:
    """What the attention of one block gets for one image, in fp32: q, k, v `[N, L, D]`, the maps v and o `[1, C, H, W]`."""

    stage: int
    block: int
    module: nn.Module
    q: Tensor
    k: Tensor
    v: Tensor
    value_map: Tensor
    gate: Tensor
    rotary: RotaryTable

    @property
    def name(self) -> str:
        return f'stage {self.stage + 1}, block {self.block + 1}'

    @property
    def stride(self) -> int:
        return STRIDES[self.stage]


def capture(backbone: nn.Module, image: Tensor, blocks: Sequence[tuple[int, int]]) -> list[BlockInputs]:
    """Runs the backbone and keeps what the attentions of some blocks get.

    Args:
        backbone: a `HybridVisionTransformer` in evaluation mode.
        image: `[1, 3, H, W]`, normalized.
        blocks: stage and place of each block, from 0.

    Raises:
        UserError: there is no such block.
    """
    kept: dict[tuple[int, int], Tensor] = {}
    handles = []
    for stage, block in blocks:
        if not (0 <= stage < len(backbone.layers) and 0 <= block < len(backbone.layers[stage].blocks)):
            raise UserError(f'there is no block {block + 1} in stage {stage + 1}: the stages have '
                            f'{", ".join(str(len(layer.blocks)) for layer in backbone.layers)} blocks')
        projection = backbone.layers[stage].blocks[block].attn.qkvo
        handles.append(projection.register_forward_hook(
            lambda module, inputs, output, key=(stage, block): kept.update({key: output})))
    try:
        with torch.no_grad():
            backbone(image)
    finally:
        for handle in handles:
            handle.remove()
    return [_inputs(backbone, stage, block, kept[stage, block].float()) for stage, block in blocks]


def _inputs(backbone: nn.Module, stage: int, block: int, qkvo: Tensor) -> BlockInputs:
    module = backbone.layers[stage].blocks[block].attn
    parts = qkvo.chunk(4, dim=1)
    q, k, v = (module.split_heads(part)[0] for part in parts[:3])
    return BlockInputs(stage, block, module, q, k, v, parts[2], parts[3], backbone.layers[stage].RoPE(*qkvo.shape[2:]))


def scores(kind: str, q: Tensor, k: Tensor, rotary: RotaryTable, token: int) -> Tensor:
    """Weights of all tokens in the output of one, `[N, L]`.

    Args:
        kind: a name in `ops.ATTENTIONS`, or 'linear' for φ(q_i)·φ(k_j) / Σ_j φ(q_i)·φ(k_j), without rotary position.
        q: `[N, L, D]`.
        k: `[N, L, D]`.
        rotary: the turns of the grid.
        token: which one, i.
    """
    if kind == 'softmax_attention':
        return (q.shape[-1] ** -0.5 * _row(rotate(q, rotary), rotate(k, rotary), token)).softmax(dim=-1)
    if kind == 'linear':
        weights = _row(feature_map(q), feature_map(k), token)
        return weights / weights.sum(dim=-1, keepdim=True)
    with torch.enable_grad():  # w_ij is the derivative of out_i by v_j, in any channel
        v = torch.zeros_like(q, requires_grad=True)
        out = ATTENTIONS[kind](q[None], k[None], v[None], rotary)[0]
        (gradient,) = torch.autograd.grad(out[:, token, 0].sum(), v)
    return gradient[..., 0]


def _row(q: Tensor, k: Tensor, token: int) -> Tensor:
    """q_i · k_j for all j, `[N, L]`."""
    return (k @ q[:, token].unsqueeze(-1)).squeeze(-1)


def token_at(point: tuple[int, int], stride: int, columns: int) -> int:
    """The token whose cell a pixel (x, y) lies in. The last row and column of cells may reach beyond the image.

    Args:
        point: column and row.
        stride: pixels of a cell's sides.
        columns: tokens in a row.
    """
    x, y = point
    return y // stride * columns + x // stride


def spread_of(weights: Tensor) -> dict[str, float]:
    """How a row of weights `[L]` is spread: sum, peak and least in parts of the average 1/L, and the number of tokens over
    which its positive part would be even (e to its entropy)."""
    shares = weights.clamp(min=0)
    shares = shares / shares.sum()
    entropy = -(shares * shares.clamp(min=1e-30).log()).sum()
    return dict(sum=float(weights.sum()), peak=float(weights.max() * len(weights)), least=float(weights.min() * len(weights)),
                tokens=float(entropy.exp()))


def draw_attention(image: np.ndarray, point: tuple[int, int], rows: Sequence[tuple[str, int, dict[str, Tensor]]],
                   path: Path) -> None:
    """Writes a sheet: the image with the pixel, then the weights of each attention over it, a line for each block.

    Args:
        image: `[H, W, 3]`, RGB.
        point: column and row of the pixel.
        rows: name of a block, its stride, and by attention its weights on the grid, `[h, w]`.
        path: the image to write.
    """
    from matplotlib.figure import Figure

    height, width = image.shape[:2]
    columns = 1 + len(rows[0][-1])
    figure = Figure(figsize=(3 * columns, (3 * height / width + 0.55) * len(rows)), layout='constrained')
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for line, (name, stride, maps) in zip(grid, rows, strict=True):
        line[0].imshow(image)
        line[0].set_title(name, fontsize=9)
        for axes, (kind, weights) in zip(line[1:], maps.items(), strict=True):
            share = (weights / weights.max()).clamp(min=0).numpy()
            axes.imshow(image.mean(axis=2), cmap='gray', vmin=-60, vmax=255)
            right, bottom = (stride * cells - 0.5 for cells in (weights.shape[1], weights.shape[0]))
            axes.imshow(share, cmap='inferno', alpha=0.65, extent=(-0.5, right, bottom, -0.5), vmin=0, vmax=1)
            axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
            spread = spread_of(weights.flatten())
            title = TITLES.get(kind, kind.upper())
            axes.set_title(f'{title}\npeak {spread["peak"]:.1f}× the average, on {spread["tokens"]:.0f} of '
                           f'{weights.numel()} tokens', fontsize=8)
        for axes in line:
            axes.plot(*point, marker='+', color='deepskyblue', markersize=11, markeredgewidth=2)
            axes.set_axis_off()
    atomic_write(path, lambda file: figure.savefig(file, dpi=110, format='png'))


@dataclass
class Rank:
    """Of one matrix, or the mean over those of the heads."""

    numerical: float  # singular values above the threshold
    effective: float  # e to the entropy of the singular values' shares
    full: int  # the most that it could be
    spectrum: list[float]  # singular values in parts of the largest


def rank_of(matrices: Tensor, threshold: float = THRESHOLD) -> Rank:
    """Ranks of `[…, M, K]`, averaged."""
    values = torch.linalg.svdvals(matrices.double())
    values = values.reshape(-1, values.shape[-1])  # [heads, min(M, K)]
    parts = values / values[:, :1].clamp(min=1e-300)
    shares = values / values.sum(dim=1, keepdim=True).clamp(min=1e-300)
    entropy = -(shares * shares.clamp(min=1e-300).log()).sum(dim=1)
    return Rank(float((parts > threshold).sum(dim=1).double().mean()), float(entropy.exp().mean()), values.shape[1],
                parts.mean(dim=0).tolist())


def buffer(kind: str, q: Tensor, k: Tensor, v: Tensor, rotary) -> Tensor:
    """The k·v buffer `[N, D, D]`, up to its scale; kind is one of `BUFFERED`."""
    q, k = feature_map(q), feature_map(k)
    if kind == 'rala':
        k = (q.shape[-1] ** -0.5 * k @ q.mean(dim=-2).unsqueeze(-1)).softmax(dim=-2) * q.shape[-2] * k
    return (k if kind == PLAIN else rotate(k, rotary)).mT @ v / q.shape[-2]


def plain_attention(q: Tensor, k: Tensor, v: Tensor, rotary, turned: bool = False) -> Tensor:
    """Linear attention as it was before the papers, φ(q_i) Σ_j φ(k_j)ᵀ v_j / φ(q_i)·Σ_j φ(k_j), `[N, L, D]`."""
    buffered = buffer(ROTARY if turned else PLAIN, q, k, v, rotary)
    q, k = feature_map(q), feature_map(k)
    return (rotate(q, rotary) if turned else q) @ buffered / (q @ k.mean(dim=-2, keepdim=True).mT)


def block_ranks(inputs: BlockInputs, threshold: float = THRESHOLD) -> dict[str, dict[str, Rank]]:
    """By attention and matrix: the buffer (mean over heads), the attended tokens `[L, C]` of all heads, and these with
    the local term and the gate, as the projection gets them. The buffer only of those in `BUFFERED`."""
    q, k, v, rotary, module = inputs.q, inputs.k, inputs.v, inputs.rotary, inputs.module
    own = module.attention
    outputs = {own: ATTENTIONS[own](q[None], k[None], v[None], rotary)[0], PLAIN: plain_attention(q, k, v, rotary),
               ROTARY: plain_attention(q, k, v, rotary, turned=True)}
    found = {}
    for kind, output in outputs.items():
        merged = output.transpose(0, 1).flatten(1)  # [L, C]
        on_grid = merged.T.reshape(inputs.value_map.shape)
        with torch.no_grad():
            gated = module.mix(on_grid, inputs.value_map, inputs.gate)[0].flatten(1).T
        matrices = dict(attended=merged, gated=gated)
        if kind in BUFFERED:
            matrices = dict(buffer=buffer(kind, q, k, v, rotary), **matrices)
        found[kind] = {name: rank_of(matrix, threshold) for name, matrix in matrices.items()}
    return found


def mean_ranks(of_images: Sequence[dict[str, dict[str, Rank]]]) -> dict[str, dict[str, Rank]]:
    """Means over images; spectra as far as the shortest reaches."""
    def mean(ranks: list[Rank]) -> Rank:
        spectra = zip(*(rank.spectrum for rank in ranks), strict=False)
        return Rank(fmean(rank.numerical for rank in ranks), fmean(rank.effective for rank in ranks),
                    max(rank.full for rank in ranks), [fmean(values) for values in spectra])

    return {kind: {matrix: mean([found[kind][matrix] for found in of_images]) for matrix in found}
            for kind, found in of_images[0].items()}


def as_table(ranks: Sequence[tuple[str, dict[str, dict[str, Rank]]]], threshold: float = THRESHOLD) -> str:
    """Numerical and effective ranks in lines for a terminal."""
    lines = [f'Numerical rank (singular values above {threshold:g} of the largest) / effective rank (e^entropy) of the most:',
             f'{"":22}{"":28}' + ''.join(f'{matrix:>22}' for matrix in MATRICES)]
    for name, by_kind in ranks:
        for kind, found in by_kind.items():
            texts = {m: f'{rank.numerical:.1f} / {rank.effective:.1f} of {rank.full}' for m, rank in found.items()}
            cells = ''.join(f'{texts.get(m, "–"):>22}' for m in MATRICES)
            lines.append(f'{name:22}{kind:28}{cells}')
    return '\n'.join(lines)


def draw_ranks(ranks: Sequence[tuple[str, dict[str, dict[str, Rank]]]], path: Path, threshold: float = THRESHOLD) -> None:
    """Writes the spectra behind the ranks, a row of three plots for each block."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.2 * len(ranks)), layout='constrained')
    grid = figure.subplots(len(ranks), len(MATRICES), squeeze=False)
    for line, (name, by_kind) in zip(grid, ranks, strict=True):
        for axes, matrix in zip(line, MATRICES, strict=True):
            of_kinds = {kind: found[matrix] for kind, found in by_kind.items() if matrix in found}
            for kind, rank in of_kinds.items():
                axes.semilogy(range(1, len(rank.spectrum) + 1), [max(value, 1e-9) for value in rank.spectrum],
                              linestyle={PLAIN: '--', ROTARY: ':'}.get(kind, '-'),
                              label=f'{kind if kind in (PLAIN, ROTARY) else kind.upper()}: {rank.numerical:.1f}, '
                                    f'effective {rank.effective:.1f}')
            axes.axhline(threshold, color='gray', linewidth=0.8)
            axes.set(title=f'{name}: {matrix}, of {by_kind[PLAIN][matrix].full}', ylim=(1e-5, 1.5),
                     xlabel='singular value, in order')
            axes.legend(fontsize=7)
            axes.grid(alpha=0.3)
        line[0].set_ylabel('part of the largest')
    atomic_write(path, lambda file: figure.savefig(file, dpi=110, format='png'))
