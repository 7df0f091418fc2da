"""Folders of images and masks that belong together.

Layouts that people and tools leave: ADE20K's (`images/training`, `annotations/training`), MMSegmentation's (`img_dir/train`,
`ann_dir/train`), `train/images` with `train/masks`, CamVid's (`train`, `train_labels`), the built-in one (`train`,
`semantic/train`), one pair without splits (`images`, `masks`), masks beside their images (`a.jpg`, `a_mask.png`), Pascal VOC's,
which CVAT and labelme export (`JPEGImages`, `SegmentationClass`, `ImageSets/Segmentation/train.txt`), and each of these one
folder deeper.
"""

import collections
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ralamala_mm.errors import UserError

from .images import find_file
from .locating import find_here_or_deeper, holds_masks, is_hidden, settle_trainval, subfolders
from .report import is_image, split_name

_IMAGE_FOLDERS = ('images', 'image', 'imgs', 'img', 'img_dir', 'inputs')
_VOC_LISTS = Path('ImageSets', 'Segmentation')
_VOC_MASKS = ('SegmentationClassPNG', 'SegmentationClass')  # labelme writes arrays into the second
_IMAGE_ENDINGS = ('_leftImg8bit', '_sat', '_image', '_img', '_rgb')  # before the suffix of images, and not of masks
_MASK_ENDINGS = ('_mask', '-mask', '_masks', '_label', '_labels', '_seg', '_gt')  # of masks beside their images


@dataclass(frozen=True)
class MaskSplit:
    """Images and masks of one split; `stems` names the images without suffix, None for all in the folder."""

    name: str
    image_dir: Path
    mask_dir: Path
    stems: tuple[str, ...] | None = None

    @cached_property
    def image_names(self) -> list[str]:
        """The images in the folder, without the masks that lie among them."""
        names = _images(self.image_dir)
        return [name for name in names if not _is_mask(name)] if self.mask_dir == self.image_dir else names

    @cached_property
    def mask_names(self) -> list[str]:
        """The masks in the folder, without the images that lie among them."""
        names = _images(self.mask_dir)
        return [name for name in names if _is_mask(name)] if self.mask_dir == self.image_dir else names

    @cached_property
    def image_suffix(self) -> str:
        """What most images' names have behind what they share with the masks, such as `.png` or `_leftImg8bit.png`.

        MMSegmentation reads a folder by one suffix.
        """
        suffix = _commonest(Path(name).suffix for name in self.image_names)
        stems = [name.removesuffix(suffix) for name in self.image_names if name.endswith(suffix)]
        ending = next((ending for ending in _IMAGE_ENDINGS if stems and all(stem.endswith(ending) for stem in stems)), '')
        return ending + suffix

    @cached_property
    def other_suffixes(self) -> list[str]:
        """Images with another suffix."""
        return [name for name in self.image_names if not name.endswith(self.image_suffix)]

    @cached_property
    def mask_suffix(self) -> str:
        """What a mask's name has after the image's stem, such as `.png` or `_mask.png`.

        Raises:
            UserError: no mask bears the name of an image.
        """
        masks = sorted(unicodedata.normalize('NFC', name) for name in self.mask_names)
        if not self.all_stems:
            raise UserError(f'{self.image_dir} has no images for {self.name}')
        suffixes = collections.Counter()
        for stem in self.all_stems[::max(1, len(self.all_stems) // 50)]:
            stem = unicodedata.normalize('NFC', stem.replace('\\', os.sep))
            suffixes.update(name.removeprefix(stem) for name in masks if name.startswith(stem)
                            and not name.removeprefix(stem)[:1].isalnum())
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
        return sorted(name.removesuffix(suffix) for name in self.image_names if name.endswith(suffix))

    @property
    def needs_list(self) -> bool:
        """Whether MMSegmentation, which reads all files of a suffix but hidden ones, would read others than the images."""
        return self.stems is not None or self.mask_dir == self.image_dir or any(
            is_hidden(name) for _, folders, _ in os.walk(self.image_dir) for name in folders)

    @property
    def divided(self) -> dict[str, list[str]]:
        """The masks of images that have several, by the image's stem."""
        suffix, owners = self.image_suffix, collections.defaultdict(list)
        stems = {name.removesuffix(suffix) for name in self.image_names if name.endswith(suffix)}
        wanted = set(self.all_stems)
        for name in self.mask_names:
            whole = os.path.splitext(name)[0]
            ends = [len(whole), *(i for i in range(len(whole) - 1, 0, -1) if not whole[i].isalnum())]
            owner = next((whole[:end] for end in ends if whole[:end] in stems), None)
            if owner is not None:
                owners[owner].append(name)
        return {stem: sorted(names) for stem, names in sorted(owners.items()) if len(names) > 1 and stem in wanted}

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


def _is_mask(name: str) -> bool:
    """Whether a file among images is the mask of one, by the end of its name."""
    return re.fullmatch(f'.*({"|".join(_MASK_ENDINGS)})([-_]?[0-9]+)?', os.path.splitext(name)[0].lower()) is not None


def _images(folder: Path) -> list[str]:
    """Names of the images in a folder and the folders within it, relative to it."""
    found = []
    for base, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name)]
        found += [os.path.relpath(os.path.join(base, name), folder) for name in names if is_image(name) and not is_hidden(name)]
    return found


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
    return find_here_or_deeper(root, _find_masks_in, 'images and masks')


def _find_masks_in(root: Path) -> tuple[str, dict[str, MaskSplit]]:
    if (root / 'JPEGImages').is_dir() and any((root / name).is_dir() for name in _VOC_MASKS):
        return _find_voc(root)
    found: dict[tuple[str, str], list[Path]] = {}  # by role and split
    for folder in [*subfolders(root), *(inner for outer in subfolders(root) for inner in subfolders(outer))]:
        parts = [part.lower() for part in folder.relative_to(root).parts]
        split = next((split for part in parts if (split := split_name(part))), 'all')
        role = 'mask' if any(holds_masks(part) for part in parts) else 'image' if split != 'all' or any(
            part in _IMAGE_FOLDERS for part in parts) else None
        has_images = any(is_image(entry.name) and not is_hidden(entry.name) for entry in os.scandir(folder))
        if role and has_images:
            found.setdefault((role, split), []).append(folder)
    splits = {}
    for name in ('train', 'trainval', 'val', 'test', 'all'):
        images, masks = found.get(('image', name)), found.get(('mask', name))
        if images and masks and not (name == 'all' and splits):
            splits[name] = MaskSplit(name, _only(images, f'{name} images'), _only(masks, f'{name} masks'))
    if not splits:
        for folder in [root, *subfolders(root)]:
            files = [name for name in os.listdir(folder) if is_image(name) and not is_hidden(name)]
            if 0 < sum(map(_is_mask, files)) < len(files):
                name = (split_name(folder.name) if folder != root else None) or 'all'
                found.setdefault(('both', name), []).append(folder)
        for role, name in found:
            if role == 'both':
                folder = _only(found[role, name], f'{name} images and masks')
                splits[name] = MaskSplit(name, folder, folder)
    settle_trainval(splits)
    return 'folders of images and masks', splits


def _only(folders: list[Path], what: str) -> Path:
    if len(folders) > 1:
        raise UserError(f'{" and ".join(map(str, folders[:3]))} could both be the {what}: leave one')
    return folders[0]


def _find_voc(root: Path) -> tuple[str, dict[str, MaskSplit]]:
    splits, exact = {}, set()
    mask_dir = next(root / name for name in _VOC_MASKS if (root / name).is_dir())
    for path in sorted((root / _VOC_LISTS).glob('*.txt')):
        name = split_name(path.stem) or 'all'
        lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
        stems = [os.path.splitext(line)[0] if is_image(line) else line for line in lines]
        if name in splits and path.stem != name:
            if name not in exact:
                raise UserError(f'several lists in {root / _VOC_LISTS} are for {name}: leave one')
            continue
        exact |= {name} if path.stem == name else set()
        splits[name] = MaskSplit(name, root / 'JPEGImages', mask_dir, tuple(stems))
    if not splits:
        splits['all'] = MaskSplit('all', root / 'JPEGImages', mask_dir)
    settle_trainval(splits)
    if len(splits) > 1:
        splits.pop('all', None)
    return 'Pascal VOC\'s folders, as CVAT exports them', splits
