"""Where the tiles of a large picture lie, and what is predicted in each."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from mmengine.structures import BaseDataElement

from ralamala_mm.errors import OptionError

Infer = Callable[[Sequence[np.ndarray]], list[BaseDataElement]]  # predicts pictures as a whole
SMALLEST = 32  # pixels of a tile: the coarsest stride of the backbones


@dataclass(frozen=True)
class Window:
    """A tile's place in the picture; y1 and x1 are the first row and column after it."""

    y0: int
    x0: int
    y1: int
    x1: int

    def of(self, picture: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(picture[self.y0:self.y1, self.x0:self.x1])


def check_tiles(tile: int | None, overlap: int | None) -> int:
    """The overlap in pixels, a quarter of the tile by default.

    Raises:
        OptionError: a tile that is too small, or an overlap that is not within it.
    """
    if tile is None:
        if overlap is not None:
            raise OptionError('--overlap is the overlap of tiles: give --tile SIZE too')
        return 0
    if not isinstance(tile, int) or tile < SMALLEST:
        raise OptionError(f'--tile {tile}: tiles have a whole number of pixels, {SMALLEST} at least')
    overlap = tile // 4 if overlap is None else overlap
    if not isinstance(overlap, int) or not 0 <= overlap < tile:
        raise OptionError(f'--overlap {overlap}: it takes a whole number from 0 to {tile - 1}, less than the tile')
    return overlap


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along a side; the last one ends with the side."""
    if length <= tile:
        return [0]
    return [*range(0, length - tile, tile - overlap), length - tile]


def windows_of(height: int, width: int, tile: int, overlap: int) -> list[Window]:
    """The tiles of a picture, row by row."""
    return [Window(y, x, min(y + tile, height), min(x + tile, width))
            for y in starts(height, tile, overlap) for x in starts(width, tile, overlap)]


def predict_windows(infer: Infer, picture: np.ndarray, windows: Sequence[Window], size: int) -> Iterator[BaseDataElement]:
    """What is predicted in each window, so many at a time."""
    remaining = iter(windows)
    while batch := list(itertools.islice(remaining, size)):
        yield from infer([window.of(picture) for window in batch])
