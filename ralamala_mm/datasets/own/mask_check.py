"""What the masks of a split hold: sizes, values or colours, read once and in parallel."""

import collections
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ralamala_mm.files import write_in_one_move

from .class_names import Colour
from .image_sizes import image_size
from .mask_files import MaskSplit
from .splits import is_image

IGNORED = 255  # pixels that neither train nor count
MANY = 64  # a mask of more colours, or of more values that have no names, is a photograph or was smoothed


@dataclass(frozen=True)
class Mask:
    """One mask: how it stores its classes, and how many pixels have each value (or colour).

    `kind` is 'index' (one channel, or a palette's indices), 'grey' (three equal channels), 'colour', 'deep' (beyond 8 bits)
    or 'broken'.
    """

    kind: str
    size: tuple[int, int]  # width, height
    image_size: tuple[int, int] | None  # None: the image cannot be read, which is told when it is
    pixels: dict[int | Colour, int]


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


def read_mask(path: Path, image: Path) -> Mask:
    """Reads a mask whole, and of the image only its size."""
    pictured = image_size(image)
    try:
        with Image.open(path) as picture:
            size, mode = picture.size, picture.mode
            values = np.asarray(picture.convert('RGB') if mode in ('RGBA', 'CMYK', 'LA') else picture)
    except Exception:  # decoders of broken files raise whatever they come upon
        return Mask('broken', (0, 0), pictured, {})
    if values.ndim == 3:
        if (values[..., 0] == values[..., 1]).all() and (values[..., 0] == values[..., 2]).all():
            return Mask('grey', size, pictured, _counts(values[..., 0]))
        packed, counts = np.unique(values.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32), return_counts=True)
        colours = [(int(c) >> 16, int(c) >> 8 & 255, int(c) & 255) for c in packed[:MANY + 1]]
        return Mask('colour', size, pictured, dict(zip(colours, map(int, counts[:MANY + 1]), strict=True)))
    if values.dtype not in (np.uint8, np.bool_) and values.max(initial=0) > IGNORED:
        return Mask('deep', size, pictured, {int(values.max()): 1})
    return Mask('index', size, pictured, _counts(values.astype(np.uint8)))


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
    listed = set(os.listdir(split.mask_dir))
    stems = split.all_stems
    checked.absent = [stem for stem in split.stems or () if not split.image(stem).exists()]
    stems = sorted(set(stems) - set(checked.absent))
    present = [stem for stem in stems if stem + split.mask_suffix in listed or split.mask(stem).exists()]
    checked.missing = sorted(set(stems) - set(present))
    checked.renamed = [stem for stem in present if split.is_renamed(stem)]
    if split.stems is None:
        paired = {os.path.relpath(split.mask(stem), split.mask_dir) for stem in present}
        checked.unpaired = sorted(name for name in listed - paired if is_image(name))
    started = told = time.monotonic()
    neighbours = int(os.environ.get('LOCAL_WORLD_SIZE', '1'))  # processes of this node that do the same
    with ThreadPoolExecutor(max(1, min(16, (os.cpu_count() or 1) // neighbours))) as pool:
        masks = pool.map(lambda stem: read_mask(split.mask(stem), split.image(stem)), present)
        for i, (stem, mask) in enumerate(zip(present, masks, strict=True), 1):
            checked.masks[stem] = mask
            now = time.monotonic()
            if show_progress and now - told > 5:
                told = now
                left = (now - started) / i * (len(present) - i)
                print(f'  looking at masks of {split.name}: {i}/{len(present)}, {left:.0f} s left', file=sys.stderr, flush=True)
    return checked


def write_converted(path: Path, target: Path, numbers: dict[int | Colour, int]) -> None:
    """Writes one mask as classes `[H, W]` uint8.

    Args:
        path: the mask, in values or colours of its own.
        target: the file to write, in one move.
        numbers: the class of each value or colour; `IGNORED` for the rest.
    """
    with Image.open(path) as picture:
        values = np.asarray(picture.convert('RGB') if picture.mode in ('RGBA', 'CMYK', 'LA') else picture)
    if values.ndim == 2:
        values = np.repeat(values[..., None], 3, axis=2)
    classes = np.full(values.shape[:2], IGNORED, np.uint8)
    for value, number in numbers.items():
        classes[(values == np.array(value, np.uint8)).all(-1)] = number  # a single value is compared with all three channels
    write_in_one_move(target, lambda unfinished: Image.fromarray(classes).save(unfinished, format='PNG'))
