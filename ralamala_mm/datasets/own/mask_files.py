"""Finding image and mask folders that belong together, in the layouts that people and tools leave.

ADE20K's (`images/training`, `annotations/training`), MMSegmentation's (`img_dir/train`, `ann_dir/train`), `train/images` with
`train/masks`, the built-in one (`train`, `semantic/train`), one pair without splits (`images`, `masks`), and Pascal VOC's, which
CVAT exports (`JPEGImages`, `SegmentationClass`, `ImageSets/Segmentation/train.txt`).
"""

import collections
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ralamala_mm.errors import UserError

from ..names import find_file
from .splits import is_image, split_of

_IMAGE_FOLDERS = ('images', 'image', 'imgs', 'img', 'img_dir', 'inputs')
_MASK_FOLDERS = ('annotations', 'annotation', 'masks', 'mask', 'labels', 'label', 'ann_dir', 'semantic', 'gt', 'segmentation')
_VOC_LISTS = Path('ImageSets', 'Segmentation')


@dataclass(frozen=True)
class MaskSplit:
    """Images and masks of one split; `stems` names the images without suffix, None for all in the folder."""

    name: str
    image_dir: Path
    mask_dir: Path
    stems: tuple[str, ...] | None = None

    @cached_property
    def image_suffix(self) -> str:
        """The one that most images have; MMSegmentation reads a folder by one suffix."""
        return _commonest(Path(name).suffix for name in _images(self.image_dir))

    @cached_property
    def other_suffixes(self) -> list[str]:
        """Images with another suffix."""
        return [name for name in _images(self.image_dir) if Path(name).suffix != self.image_suffix]

    @cached_property
    def mask_suffix(self) -> str:
        """What a mask's name has after the image's stem, such as `.png` or `_mask.png`.

        Raises:
            UserError: no mask bears the name of an image.
        """
        masks = sorted(unicodedata.normalize('NFC', name) for name in _images(self.mask_dir))
        if not self.all_stems:
            raise UserError(f'{self.image_dir} has no images for {self.name}')
        suffixes = collections.Counter()
        for stem in self.all_stems[::max(1, len(self.all_stems) // 50)]:
            stem = unicodedata.normalize('NFC', stem.replace('\\', os.sep))
            suffixes.update(name.removeprefix(stem) for name in masks if name.startswith(stem)
                            and not name.removeprefix(stem)[0].isalnum())
        if not suffixes:
            raise UserError(f'no mask in {self.mask_dir} bears the name of an image in {self.image_dir}, such as '
                            f'{self.all_stems[0]}')
        return suffixes.most_common(1)[0][0]

    @cached_property
    def all_stems(self) -> list[str]:
        """The names of the split's images, sorted."""
        if self.stems is not None:
            return list(self.stems)
        suffix = self.image_suffix
        return sorted(name.removesuffix(suffix) for name in _images(self.image_dir) if name.endswith(suffix))

    def image(self, stem: str) -> Path:
        return _meant(self.image_dir / (stem + self.image_suffix))

    def mask(self, stem: str) -> Path:
        return _meant(self.mask_dir / (stem + self.mask_suffix))

    def is_renamed(self, stem: str) -> bool:
        """Whether the image or the mask is called otherwise than in the list, or than one another."""
        return (self.image(stem) != self.image_dir / (stem + self.image_suffix)
                or self.mask(stem) != self.mask_dir / (stem + self.mask_suffix))

    def only(self, name: str, stems: Sequence[str]) -> 'MaskSplit':
        """A part of it."""
        return replace(self, name=name, stems=tuple(stems))


def _images(folder: Path) -> list[str]:
    """Names of the images in a folder and the folders within it, relative to it."""
    return [os.path.relpath(os.path.join(base, name), folder) for base, _, names in os.walk(folder)
            for name in names if is_image(name)]


def _meant(path: Path) -> Path:
    return Path(find_file(str(path)) or path)


def _commonest(values) -> str:
    counts = collections.Counter(values)
    return counts.most_common(1)[0][0] if counts else ''


def find_masks(root: Path) -> tuple[str, dict[str, MaskSplit]]:
    """The splits of a folder by name ('train', 'val', 'test', or 'all'), and a word for its layout; none if there are none.

    Raises:
        UserError: several folders could be the same.
    """
    if (root / 'JPEGImages').is_dir() and (root / 'SegmentationClass').is_dir():
        return _find_voc(root)
    found: dict[tuple[str, str], list[Path]] = {}  # by role and split
    folders = [folder for folder in sorted(root.glob('*')) + sorted(root.glob('*/*')) if folder.is_dir()]
    for folder in folders:
        parts = [part.lower() for part in folder.relative_to(root).parts]
        split = next((split for part in parts if (split := split_of(part))), 'all')
        role = 'mask' if any(part in _MASK_FOLDERS for part in parts) else 'image' if split != 'all' or any(
            part in _IMAGE_FOLDERS for part in parts) else None
        has_images = any(is_image(entry.name) for entry in os.scandir(folder))
        if role and has_images:
            found.setdefault((role, split), []).append(folder)
    splits = {}
    for name in ('train', 'val', 'test', 'all'):
        images, masks = found.get(('image', name)), found.get(('mask', name))
        if images and masks and not (name == 'all' and splits):
            splits[name] = MaskSplit(name, _only(images, f'{name} images'), _only(masks, f'{name} masks'))
    return 'folders of images and masks', splits


def _only(folders: list[Path], what: str) -> Path:
    if len(folders) > 1:
        raise UserError(f'{" and ".join(map(str, folders[:3]))} could both be the {what}: leave one')
    return folders[0]


def _find_voc(root: Path) -> tuple[str, dict[str, MaskSplit]]:
    splits = {}
    for path in sorted((root / _VOC_LISTS).glob('*.txt')):
        name = split_of(path.stem) or 'all'  # `trainval.txt` too, which then serves only where it is alone
        stems = [line.strip() for line in path.read_text().splitlines() if line.strip()]
        splits[name] = MaskSplit(name, root / 'JPEGImages', root / 'SegmentationClass', tuple(stems))
    if not splits:
        splits['all'] = MaskSplit('all', root / 'JPEGImages', root / 'SegmentationClass')
    if len(splits) > 1:
        splits.pop('all', None)
    return 'Pascal VOC\'s folders, as CVAT exports them', splits
