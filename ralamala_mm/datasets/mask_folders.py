"""Images and masks that belong together by their names, as MMSegmentation reads them: one folder and one suffix for each."""

import collections
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ralamala_mm.errors import UserError

from .class_names import ClassNames
from .images import find_file
from .locating import is_hidden
from .mask_merging import MergedMasks, owner_of
from .report import is_image, some

IMAGE_ENDINGS = ('_leftImg8bit', '_sat', '_image', '_img', '_rgb')  # before the suffix of images, and not of masks
_MASK_ENDINGS = ('_mask', '-mask', '_masks', '_label', '_labels', '_seg', '_gt')  # of masks beside their images


@dataclass(frozen=True)
class MaskSplit:
    """Images and masks of one split.

    Attributes:
        stems: names of the images without suffix; None for all in the folder.
        root: the folder in which the layout was found, where lists of class names lie.
        image_ending, mask_ending: what names have behind the stem, where the layout says it; else it is looked for.
        classes: what the values of the masks are, where the layout says it.
        merged: the masks of images that have one for each object or class; `mask_dir` and `mask_ending` do not count then.
    """

    name: str
    image_dir: Path
    mask_dir: Path
    stems: tuple[str, ...] | None = None
    root: Path = Path()
    image_ending: str = ''
    mask_ending: str = ''
    classes: ClassNames | None = None
    merged: MergedMasks | None = None

    @cached_property
    def image_names(self) -> list[str]:
        """The images in the folder, without the masks that lie among them."""
        names = images_in(self.image_dir)
        return [name for name in names if not is_mask(name)] if self.mask_dir == self.image_dir else names

    @cached_property
    def mask_names(self) -> list[str]:
        """The masks in the folder, without the images that lie among them."""
        names = images_in(self.mask_dir)
        if self.mask_ending:
            return [name for name in names if name.endswith(self.mask_ending)]
        return [name for name in names if is_mask(name)] if self.mask_dir == self.image_dir else names

    @cached_property
    def image_suffix(self) -> str:
        """What most images' names have behind what they share with the masks, such as `.png` or `_leftImg8bit.png`.

        MMSegmentation reads a folder by one suffix.
        """
        if self.image_ending:
            return self.image_ending
        suffix = _commonest(Path(name).suffix for name in self.image_names)
        stems = [name.removesuffix(suffix) for name in self.image_names if name.endswith(suffix)]
        ending = next((ending for ending in IMAGE_ENDINGS if stems and all(stem.endswith(ending) for stem in stems)), '')
        return ending + suffix

    @cached_property
    def other_suffixes(self) -> list[str]:
        """Images with another suffix."""
        return [] if self.image_ending else [name for name in self.image_names if not name.endswith(self.image_suffix)]

    @cached_property
    def mask_suffix(self) -> str:
        """What a mask's name has after the image's stem, such as `.png` or `_mask.png`.

        Raises:
            UserError: no mask bears the name of an image.
        """
        if not self.all_stems:
            raise UserError(f'{self.image_dir} has no images for {self.name}')
        if self.mask_ending or self.merged:
            return self.mask_ending
        masks = sorted(unicodedata.normalize('NFC', name) for name in self.mask_names)
        suffixes = collections.Counter()
        for stem in self.all_stems[::max(1, len(self.all_stems) // 50)]:
            stem = unicodedata.normalize('NFC', stem.replace('\\', os.sep))
            suffixes.update(name.removeprefix(stem) for name in masks if name.startswith(stem)
                            and not name.removeprefix(stem)[:1].isalnum())
        if not suffixes:
            raise UserError(f'no mask in {self.mask_dir} bears the name of an image in {self.image_dir}, such as '
                            f'{self.all_stems[0]}{self._different_folders()}')
        return suffixes.most_common(1)[0][0]

    def _different_folders(self) -> str:
        """What to do if the names are alike and the sub-folders differ."""
        images = {os.path.basename(stem) for stem in self.all_stems}
        if not any(owner_of(os.path.splitext(os.path.basename(name))[0], images) for name in self.mask_names):
            return ''
        folders = [sorted({os.path.dirname(name) for name in names} - {''}) for names in (self.image_names, self.mask_names)]
        of_images, of_masks = (f'in the sub-folders {some(several)}' if several else 'in no sub-folders' for several in folders)
        return f': the images lie {of_images}, the masks {of_masks}; make both sides alike'

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
        """The masks of images that have several which are not merged, by the image's stem."""
        if self.merged:
            return {}
        suffix, owners = self.image_suffix, collections.defaultdict(list)
        stems = {name.removesuffix(suffix) for name in self.image_names if name.endswith(suffix)}
        wanted = set(self.all_stems)
        for name in self.mask_names:
            owner = owner_of(os.path.splitext(name)[0], stems)
            if owner is not None:
                owners[owner].append(name)
        return {stem: sorted(names) for stem, names in sorted(owners.items()) if len(names) > 1 and stem in wanted}

    def image(self, stem: str) -> Path:
        return _meant(self.image_dir / (stem + self.image_suffix))

    def mask(self, stem: str) -> Path:
        """The mask, or the first of several that are merged, or the folder of none."""
        if self.merged:
            return next((path for _, path in self.merged.files.get(stem, ())), self.mask_dir)
        return _meant(self.mask_dir / (stem + self.mask_suffix))

    def has_mask(self, stem: str) -> bool:
        return stem in self.merged.files if self.merged else self.mask(stem).exists()

    def is_renamed(self, stem: str) -> bool:
        """Whether the image or the mask is called otherwise than in the list, or than one another."""
        return (self.image(stem) != self.image_dir / (stem + self.image_suffix)
                or (not self.merged and self.mask(stem) != self.mask_dir / (stem + self.mask_suffix)))

    def only(self, name: str, stems: Sequence[str]) -> 'MaskSplit':
        """A part of it."""
        return replace(self, name=name, stems=tuple(stems))


def is_mask(name: str) -> bool:
    """Whether a file among images is the mask of one, by the end of its name."""
    return re.fullmatch(f'.*({"|".join(_MASK_ENDINGS)})([-_]?[0-9]+)?', os.path.splitext(name)[0].lower()) is not None


def images_in(folder: Path) -> list[str]:
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
