"""Rotary position of a two-dimensional token grid: the angles, kept as cosine and sine tables."""

from functools import cached_property

import torch
from torch import Tensor

ROTARY_BASE = 10000.0


class RotaryTable:
    """By how much each channel pair (2j, 2j+1) of each token of an H×W grid is turned; token (y, x) has index y·W + x.

    The first half of the pairs turns with the row, the other half with the column, so that one line for each row
    and one for each column say it all: `cos` and `sin` are `[H + W, D/4]`, rows first, fp32.
    """

    def __init__(self, cos: Tensor, sin: Tensor, height: int, width: int):
        self.cos = cos
        self.sin = sin
        self.height = height
        self.width = width

    def over_grid(self) -> tuple[Tensor, Tensor]:
        """cos and sin of each token, `[H·W, D/2]`."""

        def spread(table: Tensor) -> Tensor:
            rows = table[:self.height, None].expand(-1, self.width, -1)
            columns = table[None, self.height:].expand(self.height, -1, -1)
            # A plain number, so that exporters know the shape's rank.
            return torch.cat([rows, columns], dim=-1).reshape(-1, 2 * int(table.shape[1]))

        return spread(self.cos), spread(self.sin)

    @cached_property
    def turns(self) -> Tensor:
        """e^(i·angle) of each token, `[H·W, D/2]`, complex."""
        with torch.inference_mode(False):  # or training after inference could not use them
            return torch.complex(*self.over_grid())


def rotary_frequencies(head_dim: int, device: torch.device | str = 'cpu') -> Tensor:
    """Angle per step on the grid, `[D/2]`, each value twice as it stands in the released state dicts.

    Raises:
        ValueError: `head_dim` is not a positive multiple of 4.
    """
    if head_dim <= 0 or head_dim % 4:
        raise ValueError(f'rotary position needs a head dimension that is a multiple of 4, not {head_dim}')
    return (1.0 / ROTARY_BASE ** torch.linspace(0, 1, head_dim // 4, device=device)).repeat_interleave(2)


def rotary_table(height: int, width: int, frequencies: Tensor) -> RotaryTable:
    """The turns of a grid; rows and columns are counted from 0 whatever its size.

    Args:
        height: H, rows of the token grid.
        width: W, its columns.
        frequencies: `[D/2]` of `rotary_frequencies`, on the device where the tables are wanted.
    """
    per_step = frequencies.float()[::2]  # [D/4]
    positions = torch.cat([torch.arange(count, device=per_step.device) for count in (height, width)])
    angles = positions[:, None] * per_step  # [H + W, D/4]
    return RotaryTable(angles.cos(), angles.sin(), height, width)
