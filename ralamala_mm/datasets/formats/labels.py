"""What a reader of one format says: the files that it found, and of each image its size and objects, in pixels."""

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as masks

from ralamala_mm.datasets.images import find_file
from ralamala_mm.datasets.locating import ImageIndex, holds_masks, is_hidden
from ralamala_mm.datasets.report import CORRECTED, is_image, split_name
from ralamala_mm.errors import UserError

_MOST = 1 << 28  # pixels of an image with masks
_CORNERS = 64  # of the polygon that stands for an ellipse
Box = tuple[float, float, float, float]
Polygon = list[float]


class LabelError(ValueError):
    """An annotation that cannot be read; the text says what is wrong, without the file's name."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Makes an error of a file that the whole data set needs the user's.

    Raises:
        UserError: with the file's name.
    """
    try:
        yield
    except LabelError as error:
        raise UserError(f'{path}: {error}') from error


@contextmanager
def reading_image(what: str) -> Iterator[None]:
    """Makes whatever Pillow raises for a broken file '… cannot be read'.

    Raises:
        LabelError: `what` cannot be read.
    """
    try:
        yield
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise LabelError(f'{what} cannot be read ({error})') from error


class Remark(NamedTuple):
    """A kind of thing that a reader notes; arguments of `report.problem`."""

    level: str
    what: str
    consequence: str = ''


RENAMED = Remark(CORRECTED, 'annotations that name another image than the one beside them that bears their name',
                 'the one beside them is taken')


@dataclass(slots=True)
class Instance:
    """One object.

    Attributes:
        name: its class.
        box: x, y, width, height in pixels; None: that of the segmentation.
        segmentation: polygons `[x, y, x, y, …]` in pixels, or COCO's run lengths; None: there is a box alone.
        crowd: a group of objects.
    """

    name: str
    box: Box | None = None
    segmentation: list[Polygon] | dict | None = None
    crowd: bool = False


@dataclass
class LabeledImage:
    """An image with its objects.

    Attributes:
        file: the image; or its name as the annotations give it, if no such file was found.
        size: width and height in pixels as the annotations give them; None: they do not.
        remarks: what is to be noted, with the entry that the report names.
    """

    file: Path | str
    size: tuple[int, int] | None = None
    instances: list[Instance] = field(default_factory=list)
    remarks: list[tuple[Remark, str]] = field(default_factory=list)


@dataclass
class Found:
    """A data set in one format.

    Attributes:
        layout: what the report calls it.
        splits: what `read` takes, one item for each image, by the name of the split: 'train', 'val', 'test', 'trainval', 'all'.
        read: an item to what it says of one image.

            Raises:
                LabelError: it cannot be read.
        classes: names in the order of their labels; None: those of the objects, sorted.
        remarks: what is to be noted of the whole, with its entries.
        stuff: classes of regions without instances, such as sky, which a detector does not learn.
        mask_dirs: folders with files of masks that are no masks of classes.
        has_background: whether pixels without an object are a class of their own; else nobody said what they are.
    """

    layout: str
    splits: dict[str, list]
    read: Callable[[object], LabeledImage]
    classes: Sequence[str] | None = None
    remarks: list[tuple[Remark, str]] = field(default_factory=list)
    stuff: frozenset[str] = frozenset()
    mask_dirs: frozenset[Path] = frozenset()
    has_background: bool = True


class Listing:
    """All files below a folder, links followed, hidden ones and those that lead nowhere left out.

    Args:
        root: the folder.
        work_dir: is left out, where it lies in the folder.
    """

    def __init__(self, root: Path, work_dir: Path):
        self.root = Path(os.path.abspath(root))
        self._work_dir = os.path.realpath(work_dir)
        self._indices: dict[str, ImageIndex] = {}

    @cached_property
    def _by_suffix(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        seen = {self._work_dir}
        for folder, folders, names in os.walk(self.root, followlinks=True):
            if (place := os.path.realpath(folder)) in seen:  # links can lead in a circle
                folders.clear()
                continue
            seen.add(place)
            folders[:] = sorted(name for name in folders if not is_hidden(name))
            for name in sorted(names):
                if not is_hidden(name) and os.path.isfile(path := os.path.join(folder, name)):
                    found.setdefault(os.path.splitext(name)[1].lower(), []).append(Path(path))
        return found

    @cached_property
    def files(self) -> list[Path]:
        return sorted(path for paths in self._by_suffix.values() for path in paths)

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for path in self.files:
            found.setdefault(path.name, []).append(path)
        return found

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return name in self._by_name

    def near(self, name: str, path: Path) -> Path:
        """The file of a name that belongs to another file: of the same split, and with most folders in common.

        Raises:
            LabelError: there is none, or several are as near.
        """
        alike = self._by_name.get(name, [])
        splits = {self.split(path), self.split_of_file(path)}
        alike = [one for one in alike if self.split(one) in splits] or alike
        common = [len(os.path.commonpath([one, path])) for one in alike]
        nearest = [one for one, length in zip(alike, common, strict=True) if length == max(common)]
        if len(nearest) != 1:
            raise LabelError(f'names {name}, which is not there' if not nearest else
                             f'names {name}, which could be {self.name(nearest[0])} or {self.name(nearest[1])}')
        return nearest[0]

    def of(self, *suffixes: str) -> list[Path]:
        """Files of these suffixes, given in lower case."""
        return [path for suffix in suffixes for path in self._by_suffix.get(suffix, ())]

    @cached_property
    def images(self) -> list[Path]:
        """Images, those in folders of masks too."""
        return sorted(path for suffix, paths in self._by_suffix.items() if is_image(f'a{suffix}') for path in paths)

    @cached_property
    def photos(self) -> list[Path]:
        """Images without those in folders of masks."""
        return [path for path in self.images if not self.is_mask(path)]

    def is_mask(self, path: Path) -> bool:
        """Whether a file lies in a folder of masks."""
        return any(holds_masks(part) or part.startswith('segmentation')
                   for part in path.relative_to(self.root).as_posix().lower().split('/')[:-1])

    def name(self, path: Path) -> str:
        """How messages call a file."""
        return os.path.relpath(path, self.root)

    def split(self, path: Path) -> str:
        """The split that a file belongs to by its folders, the innermost first; 'all' if none says so."""
        parts = path.relative_to(self.root).parts[:-1]
        return next((name for part in reversed(parts) if (name := split_name(part))), 'all')

    def image(self, name: str, folders: Sequence[Path], split: str = '') -> Path | str:
        """The image that a name means, in one of these folders, else anywhere below the root; else the name itself."""
        for folder in folders:
            found = find_file(os.path.join(folder, name))
            if found and (path := Path(os.path.normpath(found))).is_relative_to(self.root):
                return path
        index = self._indices.setdefault(split, ImageIndex(self.root, split, self.images))
        found = index.find(name)
        return self.root / found if found else name

    def own_image(self, path: Path, named: str, folders: Sequence[Path]) -> tuple[Path | str, bool]:
        """The image of an annotation file, and whether the file names another one than that of its own name.

        Args:
            path: the annotation file; the image that bears its name is the one, whatever the file says: files are renamed.
            named: the image's name in the file; '' for none.
            folders: where images lie.
        """
        split = self.split(path)
        own = next((image for folder in folders for image in self._by_stem.get((folder, path.stem), ())), None)
        image = self.image(named, folders, split) if named else path.stem
        if isinstance(image, str) and own is None:
            beside = self.image(path.stem, folders, split)
            image = beside if isinstance(beside, Path) else image
        return own or image, own is not None and isinstance(image, Path) and image.stem != own.stem

    @cached_property
    def _by_stem(self) -> dict[tuple[Path, str], list[Path]]:
        found: dict[tuple[Path, str], list[Path]] = {}
        for path in self.images:
            found.setdefault((path.parent, path.stem), []).append(path)
        return found

    def unlabeled(self, files: Sequence[Path], folders: Collection[Path]) -> list[str]:
        """Images in some folders whose name no annotation file bears, as messages call them."""
        stems = {path.stem for path in files}
        return [self.name(image) for image in self.images if image.stem not in stems and image.parent in folders]

    def split_of_file(self, path: Path) -> str:
        """The split of an annotation file of many images: by its own name, else by its folders."""
        return split_name(path.stem) or self.split(path)


def by_split(listing: Listing, paths: Sequence[Path]) -> dict[str, list[Path]]:
    """Files by the split that their folders name."""
    splits: dict[str, list[Path]] = {}
    for path in paths:
        splits.setdefault(listing.split(path), []).append(path)
    return splits


def number(value: object, what: str) -> float:
    """A finite number out of an annotation.

    Raises:
        LabelError: it is none.
    """
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = np.nan
    if not abs(found) < 1e9:
        raise LabelError(f'{what} is {value!r}, not a number')
    return found


def corners_box(x1: float, y1: float, x2: float, y2: float) -> Box:
    """x, y, width, height of a box that is given by two opposite corners, in any order."""
    return min(x1, x2), min(y1, y2), abs(x2 - x1), abs(y2 - y1)


def rectangle(box: Box) -> Polygon:
    """The four corners of a box."""
    x, y, width, height = box
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def rotated_rectangle(box: Box, angle: float) -> Polygon:
    """The corners of a box turned about its center by `angle` degrees, clockwise as seen in an image."""
    x, y, width, height = box
    return _rotated(np.array(rectangle(box)).reshape(-1, 2), (x + width / 2, y + height / 2), angle)


def ellipse(x: float, y: float, radius_x: float, radius_y: float, angle: float = 0) -> Polygon:
    """An ellipse about (x, y) as a polygon; `angle` in degrees, clockwise as seen in an image."""
    turn = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
    across, down = radius_x * np.cos(turn), radius_y * np.sin(turn)
    return _rotated(np.stack([x + across, y + down], axis=1), (x, y), angle)


def _rotated(points: np.ndarray, center: tuple[float, float], angle: float) -> Polygon:
    """Points `[N, 2]` turned about a center by `angle` degrees, clockwise as seen in an image."""
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return ((points - center) @ np.array([[cos, sin], [-sin, cos]]) + center).ravel().tolist()


def run_lengths(mask: np.ndarray, left: int, top: int, size: tuple[int, int]) -> dict | None:
    """COCO's run lengths of a mask `[h, w]` of bool whose corner lies at (left, top) of an image; None if it is outside.

    Args:
        mask: a part of the image; what reaches beyond the image is cut off.
        left: column of its first pixel.
        top: row of its first pixel.
        size: width and height of the image.
    """
    if size[0] * size[1] > _MOST:
        raise LabelError(f'an image of {size[0]}×{size[1]} pixels, which is too many')
    whole = np.zeros((size[1], size[0]), np.uint8, order='F')
    y, x = max(top, 0), max(left, 0)
    part = mask[y - top:max(0, size[1] - top), x - left:max(0, size[0] - left)]
    whole[y:y + part.shape[0], x:x + part.shape[1]] = part
    if not whole.any():
        return None
    encoded = masks.encode(whole)
    return dict(size=[size[1], size[0]], counts=encoded['counts'].decode())


def read_mask(path: Path) -> np.ndarray:
    """A mask `[H, W]` of bool: where a grey image is not black.

    Raises:
        LabelError: it cannot be read.
    """
    with reading_image(f'its mask {path.name}'), Image.open(path) as image:
        return np.asarray(image.convert('L')) > 0


def filled(outer: Polygon, holes: Sequence[Polygon], size: tuple[int, int]) -> dict:
    """COCO's run lengths of a polygon with holes, in an image of width and height `size`."""
    width, height = size
    whole = masks.decode(masks.frPyObjects([outer], height, width))[..., 0]
    for hole in holes:
        whole &= 1 - masks.decode(masks.frPyObjects([hole], height, width))[..., 0]
    encoded = masks.encode(np.asfortranarray(whole))
    return dict(size=[height, width], counts=encoded['counts'].decode())


def one_object(parts: Sequence[Instance], size: tuple[int, int]) -> list[Instance]:
    """Shapes that a tool groups as one object: its parts, or its outline with its box; those of several boxes stay apart.

    Args:
        parts: of one class.
        size: width and height of the image.
    """
    boxes = [one for one in parts if one.box and not one.segmentation]
    outlines = [one.segmentation for one in parts if one.segmentation]
    if len(parts) == 1 or len(boxes) > 1 or not outlines:
        return list(parts)
    return [Instance(parts[0].name, boxes[0].box if boxes else None, joined(outlines, size))]


def joined(parts: Sequence[list[Polygon] | dict], size: tuple[int, int]) -> list[Polygon] | dict:
    """One segmentation of several, in an image of width and height `size`."""
    if all(isinstance(part, list) for part in parts):
        return [polygon for part in parts for polygon in part]
    width, height = size
    if any(isinstance(part, list) and min(map(len, part)) < 6 for part in parts):
        raise LabelError('a polygon of fewer than three points')
    encoded = [rle for part in parts for rle in (masks.frPyObjects(part, height, width) if isinstance(part, list) else [part])]
    merged = masks.merge(encoded)
    return dict(size=[height, width], counts=merged['counts'].decode())
