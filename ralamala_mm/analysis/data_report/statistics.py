"""What is counted of a data set's contents. N images, M objects, C classes, K of them chosen; whole arrays at once."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ralamala_mm.datasets.contents import CocoContents, Contents, MaskContents

PER_IMAGE = (0, 1, 2, 3, 4, 5, 6, 8, 11, 16, 21, 31, 51, 101)  # objects: where bins start
OBJECT_SIZES = (0, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)  # square roots of boxes' areas in pixels
IMAGE_SIZES = (0, 64, 128, 256, 384, 512, 640, 768, 1024, 1280, 1600, 2048, 3072, 4096)  # longer sides in pixels


@dataclass(eq=False)
class SplitStatistics:
    """Numbers of one split, its classes in the order of its contents; `name` tells splits of one name apart."""

    name: str
    contents: Contents

    @property
    def images(self) -> int:
        return len(self.contents.names)

    @property
    def classes(self) -> Sequence[str]:
        return self.contents.classes

    @cached_property
    def amounts(self) -> np.ndarray:
        """int64 `[C]`, objects or pixels of each class."""
        if isinstance(self.contents, MaskContents):
            return self.contents.pixels[:, :-1].sum(0)
        return np.bincount(self.contents.labels, minlength=len(self.classes))

    @cached_property
    def images_with(self) -> np.ndarray:
        """int64 `[C]`, images in which a class is."""
        if isinstance(self.contents, MaskContents):
            return (self.contents.pixels[:, :-1] > 0).sum(0)
        count = len(self.classes)
        pairs = np.unique(self.contents.images.astype(np.int64) * count + self.contents.labels)
        return np.bincount(pairs % count, minlength=count)

    @cached_property
    def unused(self) -> np.ndarray:
        """int64 `[C]`, objects that neither training nor evaluation uses."""
        return np.bincount(self.contents.labels[~self.contents.used], minlength=len(self.classes))

    @cached_property
    def per_image(self) -> np.ndarray:
        """int64 `[N]`, objects that are used, or classes of a mask; all objects where none is used."""
        if isinstance(self.contents, MaskContents):
            return (self.contents.pixels[:, :-1] > 0).sum(1)
        used = self.contents.used
        return np.bincount(self.contents.images[used] if used.any() else self.contents.images, minlength=self.images)

    @cached_property
    def empty(self) -> int:
        """Images without an object, used or not."""
        return self.images - len(np.unique(self.contents.images))

    @cached_property
    def object_sizes(self) -> np.ndarray:
        """float `[M]`, square roots of boxes' areas in pixels."""
        return np.sqrt(np.prod(np.maximum(self.contents.boxes[:, 2:], 0), axis=1, dtype=np.float64))

    def presence(self, labels: Sequence[int]) -> np.ndarray:
        """float32 `[N, K]`, 1 where an image has a class.

        Args:
            labels: indices of K classes.
        """
        if isinstance(self.contents, MaskContents):
            return (self.contents.pixels[:, labels] > 0).astype(np.float32)
        column = np.full(len(self.classes), -1)
        column[labels] = np.arange(len(labels))
        found = np.zeros((self.images, len(labels)), np.float32)
        columns = column[self.contents.labels]
        chosen = columns >= 0
        found[self.contents.images[chosen], columns[chosen]] = 1
        return found

    def together(self, labels: Sequence[int]) -> np.ndarray:
        """int64 `[K, K]`, images that have two classes; on the diagonal, one."""
        found = self.presence(labels)
        return (found.T @ found).round().astype(np.int64)


def statistics_of(contents: Sequence[Contents]) -> list[SplitStatistics]:
    """Numbers of all splits; the second of a name is called 'train (2)'."""
    names: list[str] = []
    for one in contents:
        same = sum(name.partition(' (')[0] == one.split for name in names)
        names.append(f'{one.split} ({same + 1})' if same else one.split)
    return [SplitStatistics(name, one) for name, one in zip(names, contents, strict=True)]


def binned(values: np.ndarray, starts: Sequence[int]) -> np.ndarray:
    """int64 `[bins]`, how many values are in each bin; the last one has no end."""
    return np.bincount(np.searchsorted(starts, values, side='right') - 1, minlength=len(starts))


def bin_names(starts: Sequence[int], whole: bool, largest: float) -> list[str]:
    """'6–7' of whole numbers, '8–16' of others, up to the next bin's start; '101+' for the last, unless nothing is larger."""
    names = []
    for start, stop in itertools.pairwise(starts):
        last = stop - 1 if whole else stop
        names.append(f'{start}' if last == start else f'{start}–{last}')
    return [*names, f'{starts[-1]}' if largest == starts[-1] else f'{starts[-1]}+']


def share(counts: np.ndarray) -> np.ndarray:
    """Of all, in percent."""
    return 100 * counts / max(counts.sum(), 1)


def is_coco(statistics: Sequence[SplitStatistics]) -> bool:
    """Whether the splits are of objects, and not of masks."""
    return isinstance(statistics[0].contents, CocoContents)
