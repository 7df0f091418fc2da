"""Rotary position of a two-dimensional token grid: the angles, kept as cosine and sine tables."""

import torch
from torch import Tensor

ROTARY_BASE = 10000.0
RotaryTable = tuple[Tensor, Tensor]


def rotary_frequencies(head_dim: int, device: torch.device | str = 'cpu') -> Tensor:
    """Angle per step on the grid, `[D/2]`, each value twice as it stands in the released state dicts.

    Raises:
        ValueError: `head_dim` is not a positive multiple of 4.
    """
    if head_dim <= 0 or head_dim % 4:
        raise ValueError(f'rotary position needs a head dimension that is a multiple of 4, not {head_dim}')
    return (1.0 / ROTARY_BASE ** torch.linspace(0, 1, head_dim // 4, device=device)).repeat_interleave(2)


def rotary_table(height: int, width: int, frequencies: Tensor) -> RotaryTable:
    """Cosine and sine by which each channel pair (2j, 2j+1) of each token is turned.

    The first half of the pairs turns with the row y, the other half with the column x; rows and columns
    are counted from 0 whatever the size of the grid. Only H + W of the H·W rows are computed, the rest repeats.

    Args:
        height: H, rows of the token grid.
        width: W, its columns; token (y, x) has index y·W + x.
        frequencies: `[D/2]` of `rotary_frequencies`, on the device where the tables are wanted.

    Returns:
        cos and sin, each `[H·W, D/2]`, fp32.
    """
    per_step = frequencies.float()[::2]  # [D/4]
    by_row = torch.arange(height, device=per_step.device)[:, None] * per_step  # [H, D/4]
    by_column = torch.arange(width, device=per_step.device)[:, None] * per_step  # [W, D/4]

    def over_grid(function) -> Tensor:
        rows = function(by_row)[:, None].expand(-1, width, -1)
        columns = function(by_column)[None].expand(height, -1, -1)
        return torch.cat([rows, columns], dim=-1).flatten(0, 1)

    return over_grid(torch.cos), over_grid(torch.sin)
