"""How much a linear attention keeps: ranks of its k·v buffer and of its output, beside plain linear attention's.

Both papers' argument: the buffer Σ_j k_jᵀ v_j of plain linear attention, and with it the output, are of low rank. Here the
same q, k, v of a trained model go through plain linear attention and through the model's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from ralamala_mm.files import write_in_one_move
from ralamala_mm.ops import ATTENTIONS
from ralamala_mm.ops.naive import feature_map, rotate

from .attention_maps import BlockInputs

THRESHOLD = 0.01  # singular values below this part of the largest do not count
PLAIN, ROTARY = 'plain linear', 'plain linear with rotary'
BUFFERED = ('rala', 'mala', PLAIN, ROTARY)  # attentions whose buffer is known here
MATRICES = ('buffer', 'attended', 'gated')


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
    """Writes the spectra behind the ranks, a line of three pictures for each block."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.2 * len(ranks)), layout='constrained')
    grid = figure.subplots(len(ranks), len(MATRICES), squeeze=False)
    for line, (name, by_kind) in zip(grid, ranks, strict=True):
        for axes, matrix in zip(line, MATRICES, strict=True):
            of_kinds = {kind: found[matrix] for kind, found in by_kind.items() if matrix in found}
            for kind, rank in of_kinds.items():
                axes.semilogy(range(1, len(rank.spectrum) + 1), [max(value, 1e-9) for value in rank.spectrum],
                              linestyle='-' if 'plain' not in kind else ('--' if kind == PLAIN else ':'),
                              label=f'{kind.upper() if "plain" not in kind else kind}: {rank.numerical:.1f}, '
                                    f'effective {rank.effective:.1f}')
            axes.axhline(threshold, color='gray', linewidth=0.8)
            axes.set(title=f'{name}: {matrix}, of {by_kind[PLAIN][matrix].full}', ylim=(1e-5, 1.5),
                     xlabel='singular value, in order')
            axes.legend(fontsize=7)
            axes.grid(alpha=0.3)
        line[0].set_ylabel('part of the largest')
    write_in_one_move(path, lambda file: figure.savefig(file, dpi=110, format='png'))
