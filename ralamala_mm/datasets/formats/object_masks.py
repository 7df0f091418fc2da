"""One mask for each object: `masks/a/*.png` or `masks/a_1.png` of `images/a.png`, or `ID/masks/*.png` of `ID/images/ID.png`."""

import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ralamala_mm.datasets.report import CORRECTED

from .labels import Found, Instance, LabeledImage, LabelError, Listing, Remark, by_split, read_mask, run_lengths

_CLASS = 'object'
_NUMBERED = re.compile(r'(?P<stem>.+?)[-_.](?:(?P<name>[A-Za-z][A-Za-z ]*)[-_.])?\d+')  # a_1, a_cat_1
_PROBED = 20  # masks that are looked into
_EMPTY = Remark(CORRECTED, 'masks without a pixel', 'not used')


def find(listing: Listing) -> Found | None:
    """The data set below a folder, if its images have several masks each."""
    by_stem: dict[str, list[Path]] = {}
    for path in listing.photos:
        by_stem.setdefault(path.stem, []).append(path)
    masks: dict[Path, list[tuple[Path, str]]] = {}
    for path in filter(listing.is_mask, listing.images):
        numbered = _NUMBERED.fullmatch(path.stem)
        for stem in (path.parent.name, path.parent.parent.name, numbered['stem'] if numbered else ''):
            of_split = [image for image in by_stem.get(stem, ()) if listing.split(image) == listing.split(path)]
            if len(of_split) == 1:
                name = numbered['name'] if numbered and numbered['stem'] == stem else None
                masks.setdefault(of_split[0], []).append((path, name or _CLASS))
                break
    several = [path for many in masks.values() if len(many) > 1 for path, _ in many]
    if not several or not all(map(_is_binary, several[:_PROBED])):
        return None
    return Found('images with one mask for each object', by_split(listing, listing.photos),
                 lambda image: _read(image, masks.get(image, ())), [path for many in masks.values() for path, _ in many])


def _is_binary(path: Path) -> bool:
    """Whether a mask has one value besides black, as one of an object has and one of classes has not."""
    try:
        with Image.open(path) as image:
            return len(image.convert('RGB').getcolors(2) or ()) > 0
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return True  # it is reported when it is read


def _read(image: Path, masks: Sequence[tuple[Path, str]]) -> LabeledImage:
    found = LabeledImage(image)
    for path, name in masks:
        values = read_mask(path)
        found.size = found.size or (values.shape[1], values.shape[0])
        if found.size != (values.shape[1], values.shape[0]):
            raise LabelError(f'{path.name} has another size than the other masks of the image')
        if encoded := run_lengths(values, 0, 0, found.size):
            found.instances.append(Instance(name, segmentation=encoded))
        else:
            found.remarks.append((_EMPTY, path.name))
    return found
