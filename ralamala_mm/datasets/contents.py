"""What a split of a data set holds, as arrays and a few examples of its problems: small enough to keep of a million objects.

N images, M objects, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .report import Problem


@dataclass(frozen=True)
class MarkedObject:
    """An object that has a problem, as it is annotated; `segmentation` is None where there is none that can be decoded."""

    name: str  # 'annotation 7'
    label: str  # of its class
    box: tuple[float, float, float, float]  # x, y, width, height in pixels
    segmentation: object = None


@dataclass(frozen=True)
class Example:
    """An image that has a problem, or is an extreme without one."""

    problem: Problem | None
    image: int  # its position in the contents
    objects: tuple[MarkedObject, ...] = ()  # those of the image that have it; none if the image itself has


@dataclass
class CocoContents:
    """The images of an annotation file, and those of its objects whose image and category are listed."""

    split: str
    classes: Sequence[str]
    names: Sequence[str]  # N, `file_name` of each image
    files: Mapping[str, str]  # the path by `file_name`, of images that have a file
    sizes: np.ndarray  # int64 [N, 2]: width, height in pixels, as annotated
    images: np.ndarray  # int32 [M]: index of the object's image
    labels: np.ndarray  # int32 [M]: index of its class
    boxes: np.ndarray  # float32 [M, 4]: x, y, width, height in pixels
    used: np.ndarray  # bool [M]: whether training or evaluation uses it
    examples: list[Example] = field(default_factory=list)


@dataclass
class MaskContents:
    """Images of a split and what the pixels of their masks are."""

    split: str
    classes: Sequence[str]
    names: Sequence[str]  # N, path of each image
    masks: Sequence[str]  # N, path of each mask
    sizes: np.ndarray  # int64 [N, 2]: width, height of the mask in pixels; 0 if it cannot be read
    pixels: np.ndarray  # int64 [N, C + 1]: pixels of each class, and in the last column of none
    values: Mapping[int, str]  # the class that a value in the files stands for, as far as it is known
    examples: list[Example] = field(default_factory=list)


Contents = CocoContents | MaskContents
