"""The contents of images and masks, from folders that were inspected or counted while a data set was read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from mmengine.config import Config, ConfigDict

from .class_names import IGNORED
from .config import Color, config_classes, reduces_zero_label
from .contents import Example, MaskContents
from .mask_encoding import MaskEncoding
from .mask_files import CheckedMasks
from .report import Problem

_EXAMPLES = 4  # images of a problem that are kept
_VALUES = 64  # values that are shown as classes where nothing says what they are


@dataclass(frozen=True)
class CountedMask:
    """A mask that was read as training reads it; `pixels` is int64 [C + 1], of each class and of none."""

    image: str
    mask: str
    size: tuple[int, int]  # width, height in pixels
    pixels: np.ndarray

    @classmethod
    def of(cls, sample: dict, classes: int) -> 'CountedMask':
        """What a sample's `gt_seg_map` `[H, W]` holds, values from `classes` on being none."""
        mask = sample['gt_seg_map']
        counts = np.bincount(np.minimum(mask, classes).ravel(), minlength=classes + 1)
        return cls(str(sample.get('img_path')), str(sample['seg_map_path']), mask.shape[1::-1], counts)


def mask_contents(checked: CheckedMasks, encoding: MaskEncoding | None, problems: Sequence[Problem]) -> MaskContents:
    """The contents of folders.

    Args:
        checked: images and masks of a split.
        encoding: what their values or colors stand for; without it, each is a class by itself.
        problems: of all splits.
    """
    split, stems = checked.split, list(checked.masks)
    if encoding:
        classes, numbers = list(encoding.classes), encoding.numbers
    else:
        values = [value for value, _ in checked.pixels.most_common(_VALUES) if value != IGNORED]
        numbers = {value: i for i, value in enumerate(sorted(values, key=str))}
        classes = [_value_name(value) for value in numbers]
    pixels = np.zeros((len(stems), len(classes) + 1), np.int64)
    for row, mask in zip(pixels, checked.masks.values(), strict=True):
        for value, count in mask.pixels.items():
            number = numbers.get(value, IGNORED)
            row[number if number != IGNORED else -1] += count * (mask.kind != 'deep')
    sizes = np.array([mask.size for mask in checked.masks.values()], np.int64).reshape(-1, 2)
    masks = [str(split.mask(stem)) for stem in stems]
    found = MaskContents(split.name, classes, [str(split.image(stem)) for stem in stems], masks, sizes, pixels,
                         _named(numbers, classes))
    positions = {mask: i for i, mask in enumerate(masks)}
    for problem in problems:
        if problem.split == split.name:
            images = [positions[file] for file in problem.files[:_EXAMPLES] if file in positions]
            found.examples += [Example(problem, image) for image in images]
    return found


def counted_contents(config: Config, dataset: ConfigDict, split: str, counted: Sequence[CountedMask]) -> MaskContents:
    """The contents of a config's own data set, in the order of the masks' names."""
    classes = list(config_classes(config))
    counted = sorted(counted, key=lambda one: one.mask)
    first = int(reduces_zero_label(config, dataset))
    return MaskContents(split, classes, [one.image for one in counted], [one.mask for one in counted],
                        np.array([one.size for one in counted], np.int64).reshape(-1, 2),
                        np.array([one.pixels for one in counted], np.int64).reshape(-1, len(classes) + 1),
                        {i + first: name for i, name in enumerate(classes)})


def _value_name(value: int | Color) -> str:
    return f'value {value}' if isinstance(value, int) else f'color {", ".join(map(str, value))}'


def _named(numbers: Mapping[int | Color, int], classes: Sequence[str]) -> dict[int, str]:
    return {value: classes[number] for value, number in numbers.items() if isinstance(value, int) and number != IGNORED}
