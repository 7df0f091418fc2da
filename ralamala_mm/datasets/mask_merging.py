"""Masks of one object or one class each, several for an image, merged into one mask of classes.

As `masks/IMAGE/*.png` (Kaggle's Data Science Bowl 2018, Supervisely's `masks_instances`), `masks/IMAGE_1.png`,
`masks/IMAGE_cat_1.png` and `masks/cat/IMAGE.png`. Names without a class give two classes, background and object.
"""

import collections
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

BACKGROUND, OBJECT = 'background', 'object'
_NO_CLASS = ('mask', 'masks', 'obj', 'object', 'objects', 'instance', 'inst', 'label', 'seg', 'gt', 'roi', 'img', 'image')
_OTHER_VIEWS = re.compile('(colou?rs?|overlay|vis|viz|visuali[sz]ation|prob|edges?|contours?|weights?|polygons|.*ids)')
_RARE = 0.1  # share of the images up to which those with several masks are mistakes
_SAMPLE = 3  # images whose masks are read to see whether they are of one object each
PURE = 0.95  # share of the pixels of a smoothed mask that are still black or white
HALF = 128  # from here on a pixel of a smoothed mask is the object
_NEARLY = 16  # JPEG makes such a difference


@dataclass(frozen=True, eq=False)
class MergedMasks:
    """Classes, the background first, and for each image its masks with their classes, those on top last."""

    classes: tuple[str, ...]
    files: Mapping[str, tuple[tuple[str, Path], ...]]
    unpaired: tuple[str, ...] = ()

    def read(self, stem: str, size: tuple[int, int] | None) -> tuple[np.ndarray, int]:
        """The mask of an image as indices of the classes `[H, W]` uint8, and its pixels that several classes claim.

        Args:
            stem: the image's name.
            size: width and height, for an image without objects.

        Raises:
            ValueError: the masks differ in size, or one has more than two values.
        """
        files = sorted(self.files[stem], key=lambda one: self.classes.index(one[0]))
        merged = None if files or size is None else np.zeros(size[::-1], np.uint8)
        overlap = 0
        for name, path in files:
            inside = binary(path)
            if inside is None:
                raise ValueError(f'{path.name} has more than two values')
            merged = np.zeros(inside.shape, np.uint8) if merged is None else merged
            if merged.shape != inside.shape:
                raise ValueError(f'{path.name} has another size than the others')
            number = self.classes.index(name)
            overlap += int((inside & (merged > 0) & (merged != number)).sum())
            merged[inside] = number
        if merged is None:
            raise ValueError('neither mask nor image')
        return merged, overlap


def binary(path: Path) -> np.ndarray | None:
    """Where a mask of one object is not 0 `[H, W]` bool; of a smoothed one, where it is at least half white; None of others."""
    with Image.open(path) as opened:
        values = np.asarray(opened if opened.mode in ('1', 'L', 'P', 'I', 'I;16') else opened.convert('RGB'))
    if values.ndim == 3:
        if (values != values[..., :1]).any():
            return None
        values = values[..., 0]
    present = np.unique(values)
    if len(present) <= 2 and (len(present) == 1 or present[0] == 0):
        return values > 0
    if present[-1] == 255 and extreme_share(values) >= PURE:
        return values >= HALF
    return None


def extreme_share(values: np.ndarray) -> float:
    """The share of the pixels `[H, W]` or `[H, W, 3]` whose values are all nearly 0 or 255."""
    extreme = (values < _NEARLY) | (values > 255 - _NEARLY)
    return float(extreme.reshape(*values.shape[:2], -1).all(-1).mean()) if values.size else 0


def are_smoothed(values: Collection[int]) -> bool:
    """Whether values beside 0 and 255 come from smoothing or JPEG: some are nearly 255, or there are several in each half.

    Classes have values from 0 without large gaps.
    """
    low, high = ([value for value in values if start < value < end] for start, end in ((0, HALF), (HALF - 1, 255)))
    return min(len(low), len(high)) > 1 or bool(high and max([0, *low]) < _NEARLY and min(high) > 255 - _NEARLY)


def owner_of(name: str, stems: Collection[str]) -> str | None:
    """The longest image's name that a mask's name begins with, as `a_1` for `a_1_mask.png`."""
    ends = [len(name), *(i for i in range(len(name) - 1, 0, -1) if not name[i].isalnum())]
    return next((name[:end] for end in ends if name[:end] in stems), None)


def find_objects(stems: Sequence[str], mask_dir: Path, mask_names: Sequence[str],
                 are_several: bool = True) -> MergedMasks | None:
    """The masks of each image, if they are of one object or class each; None if they are not, or nothing tells whose they are.

    Args:
        stems: names of the images without suffix, relative to their folder.
        mask_dir: the folder of the masks.
        mask_names: its images, relative to it.
        are_several: whether some image must have several, or all must have a folder; else one for each is enough.
    """
    wanted = set(stems)
    words, unpaired = collections.defaultdict(list), []
    bare, exact = collections.Counter(), collections.Counter()
    for name in sorted(mask_names):
        owner, tail = _owner_and_tail(name, wanted)
        if owner is None:
            unpaired.append(name)
        else:
            words[owner].append((_word(tail), name))
            bare[owner] += not _word(tail) and not re.search(r'\d', tail)
            exact[owner] += not tail
    in_folders = [stem for stem in words if all(name.startswith(stem + os.sep) for _, name in words[stem])]
    several = [stem for stem in words if len(words[stem]) > 1]
    if are_several and len(several) <= _RARE * len(words) and not (in_folders and len(in_folders) == len(words)):
        return None
    if any(exact[stem] for stem in several):  # that image's own, and others that may be of images that are missing
        return None
    if not words:
        return None
    views = any(_OTHER_VIEWS.fullmatch(part) for found in words.values() for word, _ in found for part in word.lower().split('_'))
    if views or max(bare.values()) > 1:  # a mask and its colors, or two masks that bear neither class nor number
        return None
    if any(_binary_or_none(mask_dir / name) is None for stem in (several or [*words])[:_SAMPLE] for _, name in words[stem]):
        return None
    images_of = collections.Counter(word for found in words.values() for word in {word for word, _ in found})
    named = all(not any(letter.isdigit() for letter in word) or count > 1 for word, count in images_of.items())
    files = {stem: tuple((word if named and word else OBJECT, mask_dir / name) for word, name in found)
             for stem, found in words.items()}
    # A folder for an image that holds no mask says that there is no object in it.
    files |= {stem: () for stem in wanted - set(files) if (mask_dir / stem).is_dir()}
    return MergedMasks(with_background(word for found in files.values() for word, _ in found), files, tuple(unpaired))


def with_background(classes: Iterable[str]) -> tuple[str, ...]:
    """Different classes in alphabetical order, the background first."""
    return BACKGROUND, *sorted(set(classes) - {BACKGROUND})


def _binary_or_none(path: Path) -> np.ndarray | None:
    try:
        return binary(path)
    except Exception:  # decoders of broken files raise whatever they come upon
        return None


def _owner_and_tail(name: str, stems: Collection[str]) -> tuple[str | None, str]:
    """The image of a mask, and what its name says beside it: `_cat_1` of `a_cat_1.png`, `cat_1` of `a/cat_1.png`, `cat`."""
    whole = os.path.splitext(name)[0]
    folder, _, base = whole.rpartition(os.sep)
    if folder in stems:
        return folder, base.replace(os.path.basename(folder), '')
    if (owner := owner_of(whole, stems)) is not None:
        return owner, whole[len(owner):]
    if folder and os.sep not in folder and (owner := owner_of(base, stems)) is not None:
        return owner, folder
    return None, ''


def _word(tail: str) -> str:
    """The words of a name that are no numbers, and do not just say that it is a mask."""
    words = [word for word in re.split(r'[-_ .()/\\]+', tail) if word and not word.isdigit()]
    return '_'.join(word for word in words if word.lower().rstrip('0123456789') not in _NO_CLASS)
