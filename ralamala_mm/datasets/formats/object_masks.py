"""One mask for each object, in the layouts that `mask_layouts` finds: `masks/a/*.png` or `masks/a_1.png` of `images/a.png`, …"""

import re
from collections.abc import Sequence
from pathlib import Path

from ralamala_mm.datasets.mask_layouts import find_masks
from ralamala_mm.datasets.mask_merging import binary
from ralamala_mm.datasets.report import CORRECTED
from ralamala_mm.errors import UserError

from .labels import Found, Instance, LabeledImage, LabelError, Listing, Remark, reading_image, run_lengths

_EMPTY = Remark(CORRECTED, 'masks without a pixel', 'not used')


def find(listing: Listing) -> Found | None:
    """The data set below a folder, if its images have a mask for each object; masks of one class each are none."""
    try:
        _, found = find_masks(listing.root)
    except UserError:
        return None  # of masks of classes, which no detector reads
    splits = {name: [(split.image(stem), files) for stem, files in sorted(split.merged.files.items())]
              for name, split in found.items() if split.merged}
    if not any(re.search(r'\d', path.stem.removeprefix(image.stem)) for items in splits.values() for image, files in items
               for _, path in files):
        return None
    return Found('images with one mask for each object', splits, lambda item: _read(*item))


def _read(image: Path, masks: Sequence[tuple[str, Path]]) -> LabeledImage:
    found = LabeledImage(image)
    for name, path in masks:
        with reading_image(path.name):
            values = binary(path)
        if values is None:
            raise LabelError(f'{path.name} has more than 0 and one other value')
        size = (values.shape[1], values.shape[0])
        found.size = found.size or size
        if found.size != size:
            raise LabelError(f'{path.name} has another size than the other masks of the image')
        if encoded := run_lengths(values, 0, 0, size):
            found.instances.append(Instance(name, segmentation=encoded))
        else:
            found.remarks.append((_EMPTY, path.name))
    return found
