"""Masks read whole: how they store their classes, and how many pixels have each value or color."""

import collections
import os
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from .class_names import IGNORED
from .config import Color
from .images import image_size
from .mask_folders import MaskSplit
from .mask_merging import HALF, extreme_share
from .progress import in_threads

MANY = 64  # a mask of more colors, or of more values that have no names, is a photograph or was smoothed


@dataclass(frozen=True)
class Mask:
    """One mask: how it stores its classes, and how many pixels have each value (or color).

    `kind` is 'index' (one channel, or a palette's indices), 'grey' (three equal channels), 'color', 'deep' (beyond 8 bits),
    'broken', or 'mixed' (several that cannot be merged). `pure` is the share of pixels whose channels are all nearly 0 or 255,
    and `overlap` counts those that several merged masks of different classes claim.
    """

    kind: str
    size: tuple[int, int]  # width, height
    image_size: tuple[int, int] | None  # None: the image cannot be read, which is reported when it is
    pixels: dict[int | Color, int]
    pure: float = 0
    overlap: int = 0


@dataclass
class CheckedMasks:
    """All masks of a split by the stem of their name."""

    split: MaskSplit
    masks: dict[str, Mask] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)  # stems of images without a mask
    absent: list[str] = field(default_factory=list)  # stems that a list names, without an image
    unpaired: list[str] = field(default_factory=list)  # masks without an image
    renamed: list[str] = field(default_factory=list)  # stems whose files are called a little otherwise

    def stems(self, is_such: Callable[[Mask], bool]) -> list[str]:
        return [stem for stem, mask in self.masks.items() if is_such(mask)]

    @property
    def pixels(self) -> collections.Counter:
        """Over all masks."""
        total = collections.Counter()
        for mask in self.masks.values():
            total.update(mask.pixels)
        return total


def read_mask(split: MaskSplit, stem: str, cut: bool = False) -> Mask:
    """Reads a mask whole, and of the image only its size.

    Args:
        split: where they are.
        stem: the image's name.
        cut: whether values of a smoothed mask are taken for 0 or 255, whichever is nearer.
    """
    size_of_image = image_size(split.image(stem))
    try:
        values, overlap = read_values(split, stem, size_of_image, cut)
    except Exception:  # decoders of broken files raise whatever they come upon
        return Mask('mixed' if split.merged else 'broken', (0, 0), size_of_image, {})
    size = values.shape[1], values.shape[0]
    pure = extreme_share(values)
    if values.ndim == 3:
        if (values[..., 0] == values[..., 1]).all() and (values[..., 0] == values[..., 2]).all():
            return Mask('grey', size, size_of_image, _counts(values[..., 0]), pure)
        packed, counts = np.unique(values.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32), return_counts=True)
        colors = [(int(c) >> 16, int(c) >> 8 & 255, int(c) & 255) for c in packed[:MANY + 1]]
        return Mask('color', size, size_of_image, dict(zip(colors, map(int, counts[:MANY + 1]), strict=True)), pure)
    if values.dtype not in (np.uint8, np.bool_) and values.max(initial=0) > IGNORED:
        return Mask('deep', size, size_of_image, {int(values.max()): 1})
    return Mask('index', size, size_of_image, _counts(values.astype(np.uint8)), pure, overlap)


def read_values(split: MaskSplit, stem: str, size: tuple[int, int] | None, cut: bool) -> tuple[np.ndarray, int]:
    """Values `[H, W]` or colors `[H, W, 3]` of a mask, and how many pixels merged classes share."""
    if split.merged:
        return split.merged.read(stem, size)
    with Image.open(split.mask(stem)) as opened:
        values = np.asarray(opened.convert('RGB') if opened.mode in ('RGBA', 'CMYK', 'LA') else opened)
    return (np.where(values >= HALF, IGNORED, 0).astype(np.uint8) if cut else values), 0


def _counts(values: np.ndarray) -> dict[int, int]:
    counts = np.bincount(values.ravel(), minlength=256)
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}


def check_masks(split: MaskSplit, show_progress: bool) -> CheckedMasks:
    """Reads all masks of a split.

    Args:
        split: where they are.
        show_progress: print how far it is on stderr when it takes long.
    """
    checked = CheckedMasks(split)
    listed = set(split.mask_names)
    stems = split.all_stems
    checked.absent = [stem for stem in split.stems or () if not split.image(stem).exists()]
    stems = sorted(set(stems) - set(checked.absent))
    present = [stem for stem in stems if stem + split.mask_suffix in listed or split.has_mask(stem)]
    checked.missing = sorted(set(stems) - set(present))
    checked.renamed = [stem for stem in present if split.is_renamed(stem)]
    if split.merged:
        checked.unpaired = list(split.merged.unpaired)
    elif split.stems is None:
        paired = {os.path.relpath(split.mask(stem), split.mask_dir) for stem in present}
        checked.unpaired = sorted(listed - paired)
    masks = in_threads(lambda stem: read_mask(split, stem), present, f'inspecting masks of {split.name}', show_progress)
    checked.masks = dict(zip(present, masks, strict=True))
    return checked
