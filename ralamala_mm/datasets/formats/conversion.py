"""A data set of another format written once as COCO annotation files in the work directory."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from pycocotools import mask as masks

from ralamala_mm.datasets.coco import CocoSplit, encode_coco
from ralamala_mm.datasets.coco_objects import TOO_MANY
from ralamala_mm.datasets.images import image_size
from ralamala_mm.datasets.inspection_cache import code_digest, state_line
from ralamala_mm.datasets.progress import in_threads
from ralamala_mm.datasets.report import CORRECTED, ERROR, NOTE, Problem, problem, some
from ralamala_mm.datasets.segmentations import is_rectangle, run_lengths_of, segmentation_problem
from ralamala_mm.errors import UserError
from ralamala_mm.files import atomic_write

from .labels import Box, Found, Instance, LabeledImage, LabelError, Listing, Remark

_UNREADABLE = Remark(ERROR, 'annotations that cannot be read')
_NO_SIZE = Remark(ERROR, 'images that cannot be read', 'and whose annotations do not give their size')
_ABSENT = Remark(CORRECTED, 'images without a file', 'left out with their annotations')
_MANY_ABSENT = Remark(ERROR, 'images without a file', 'too many to be left out')
_EMPTY = Remark(NOTE, 'objects without a pixel within their image', 'not used')
_UNUSED = Remark(NOTE, 'images that no annotation is about', 'not used')
_STUFF = Remark(NOTE, 'regions of stuff, which have no instances', 'a detector does not learn them')

_OF_FILES = (_UNREADABLE, _NO_SIZE, _MANY_ABSENT)  # whose entries begin with a file's name


class _Record(msgspec.Struct):
    """What was converted from which state of the files."""

    digest: str
    sizes: dict[str, int]  # bytes of the written files, by split
    problems: list[Problem]


@dataclass
class Converted:
    """A data set in COCO's format.

    Attributes:
        layout: what the report calls it.
        splits: by name.
        problems: what was found while reading.
        has_background: see `Found`.
    """

    layout: str
    splits: dict[str, CocoSplit]
    problems: list[Problem]
    has_background: bool


def convert(found: Found, listing: Listing, work_dir: Path, for_detector: bool, show_progress: bool = True) -> Converted:
    """Writes `work_dir/data/converted/SPLIT.json` for each split, unless they are there and the files have not changed since.

    Args:
        found: the data set.
        listing: of its folder.
        work_dir: the work directory.
        for_detector: leave out stuff.
        show_progress: print how far it is on stderr when it takes long.

    Raises:
        UserError: none of the annotations belongs to an image.
    """
    splits, strays = _settled(found.splits)
    if not splits:
        raise UserError(f'{listing.root} is in {found.layout}, and has no annotations of an image')
    folder = work_dir.absolute() / 'data' / 'converted'
    record_file, digest = folder / 'record.json', _digest(found.layout, listing, for_detector)
    record = _read_record(record_file)
    sizes = {split: file.stat().st_size for split in splits if (file := folder / f'{split}.json').is_file()}
    if record is None or record.digest != digest or record.sizes != sizes:
        contents, problems = _contents(found, splits, listing, for_detector, show_progress)
        if not all(content['images'] for content in contents.values()) and not any(one.level == ERROR for one in problems):
            empty = next(split for split, content in contents.items() if not content['images'])
            absent = next((f'{one.what}: {one.count} ({one.which})' for one in problems
                           if one.split == empty and one.what == _ABSENT.what), 'no images')
            raise UserError(f'{listing.root} is in {found.layout}, and {empty} has {absent}: put them beside the annotations')
        if for_detector and not any(one.level == ERROR for one in problems):
            problems += [Problem(ERROR, split, f'none of its {len(content["images"])} images has an object')
                         for split, content in contents.items() if not content['annotations']]
        if strays:
            names = [_name(item, listing) for item in strays]
            problems.append(problem(NOTE, 'all', 'annotations in the folder of no split', names, 'not used'))
        record = _Record(digest, {}, problems)
        try:
            for split, content in contents.items():
                encoded = encode_coco(content)
                record.sizes[split] = len(encoded)
                atomic_write(folder / f'{split}.json', lambda path, encoded=encoded: path.write_bytes(encoded))
            atomic_write(record_file, lambda path: path.write_bytes(msgspec.json.encode(record)))
        except OSError as error:
            raise UserError(f'the converted annotations cannot be written to {folder} ({error.strerror}): --work-dir names '
                            'another folder') from error
    coco = {split: CocoSplit(split, folder / f'{split}.json', listing.root, named_image_dir=listing.root) for split in splits}
    layout = f'{found.layout}, converted to COCO\'s in {folder}'
    return Converted(layout, coco, record.problems, found.has_background)


def _settled(splits: Mapping[str, list]) -> tuple[dict[str, list], list]:
    """The splits that are used, and what belongs to none while there are others."""
    used = {split: items for split, items in splits.items() if items}
    strays = []
    if both := used.pop('trainval', None):
        if 'train' not in used:
            used['train'] = both
        else:
            known = {item for split in ('train', 'val') for item in used.get(split, ()) if isinstance(item, Path)}
            strays += [item for item in both if not isinstance(item, Path) or item not in known]
    if len(used) > 1:
        strays += used.pop('all', [])
    return used, strays


def _digest(layout: str, listing: Listing, for_detector: bool) -> str:
    """Of all that the result depends on: the code that reads, and all files by name, size and time."""
    digest = hashlib.blake2b(f'{code_digest()} {layout} {for_detector}'.encode(), digest_size=16)
    for path in listing.files:
        digest.update(f'{state_line(str(path), path.stat())}\n'.encode('utf-8', 'surrogateescape'))
    return digest.hexdigest()


def _read_record(path: Path) -> _Record | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Record)
    except (OSError, msgspec.DecodeError):
        return None


def _contents(found: Found, splits: Mapping[str, list], listing: Listing, for_detector: bool,
              show_progress: bool) -> tuple[dict[str, dict], list[Problem]]:
    """What is to be written for each split, and what was noted.

    Raises:
        UserError: a detector has nothing to learn.
    """
    left_out = found.stuff if for_detector else frozenset()
    problems = _problems('all', found.remarks)
    images: dict[str, list[LabeledImage]] = {}
    for split, items in splits.items():
        read = list(in_threads(lambda item: _read(found, item, listing, left_out), items, f'converting {split}', show_progress))
        remarks = [remark for image in read for remark in image.remarks]
        absent = sum(remark is _ABSENT for remark, _ in remarks)
        if TOO_MANY * len(items) < absent < len(items):
            remarks = [(_MANY_ABSENT if remark is _ABSENT else remark, entry) for remark, entry in remarks]
        problems += _problems(split, remarks)
        images[split] = [image for image in read if image.size]
    used = {image.file for many in images.values() for image in many}
    told = {entry for _, entry in found.remarks}
    unused = [name for image in listing.photos if image not in used and (name := listing.name(image)) not in told]
    problems += _problems('all', [(_UNUSED, name) for name in unused])
    _drop_rectangles(images, problems)
    named = {instance.name for many in images.values() for image in many for instance in image.instances}
    listed = [name for name in found.classes or () if name not in left_out]
    if left_out and not listed:
        raise UserError(f'{listing.root} is in {found.layout}, and has classes of stuff alone, {some(sorted(left_out))}, which '
                        'have no instances: take a config of a segmentor (semanticfpn_*, upernet_*)')
    numbers = {name: i for i, name in enumerate([*listed, *sorted(named - set(listed))], 1)}
    return {split: _content(many, numbers, listing) for split, many in images.items()}, problems


def _drop_rectangles(images: Mapping[str, Sequence[LabeledImage]], problems: list[Problem]) -> None:
    """Rectangles that tools draw are boxes where there are no other outlines; among others they are outlines."""
    outlined = [one for many in images.values() for image in many for one in image.instances if one.segmentation]
    rectangles = [one for one in outlined if is_rectangle(one.segmentation)]
    if rectangles and len(rectangles) < len(outlined):
        problems.append(problem(NOTE, 'all', 'rectangles among other outlines', [one.name for one in rectangles],
                                'taken as the outlines of their objects'))
    elif rectangles:
        for one in rectangles:
            one.box, one.segmentation = one.box or _box(one.segmentation), None


def _problems(split: str, remarks: Sequence[tuple[Remark, str]]) -> list[Problem]:
    entries: dict[Remark, list[str]] = defaultdict(list)
    for remark, entry in remarks:
        entries[remark].append(entry)
    return [problem(remark.level, split, remark.what, many, remark.consequence,
                    files=[entry.partition(':')[0] for entry in many] if remark in _OF_FILES else ())
            for remark, many in entries.items()]


def _read(found: Found, item: object, listing: Listing, left_out: Collection[str]) -> LabeledImage:
    """What is said of one image; one without a size if that cannot be used."""
    try:
        image = found.read(item)
    except LabelError as error:
        return LabeledImage('', remarks=[(_UNREADABLE, f'{_name(item, listing)}: {error}')])
    if image.size is None:
        image.size = image_size(image.file) if isinstance(image.file, Path) else None
        if image.size is None:
            image.remarks.append((_NO_SIZE, listing.name(image.file)) if isinstance(image.file, Path) else (_ABSENT, image.file))
    image.remarks += [(_STUFF, instance.name) for instance in image.instances if instance.name in left_out]
    file = listing.name(image.file) if isinstance(image.file, Path) else image.file
    image.remarks += [(_EMPTY, f'{instance.name} of {file}') for instance in image.instances
                      if instance.box is None and not instance.segmentation]
    image.instances = [instance for instance in image.instances
                       if instance.name not in left_out and (instance.box is not None or instance.segmentation)]
    return image


def _name(item: object, listing: Listing) -> str:
    """How messages call what belongs to one image."""
    parts = item if isinstance(item, tuple) else (item,)
    path = next((part for part in parts if isinstance(part, Path)), None)
    return listing.name(path) if path else str(getattr(item, 'name', item))


def _content(images: Sequence[LabeledImage], numbers: Mapping[str, int], listing: Listing) -> dict:
    """What a COCO annotation file holds, images in the order of their names."""
    entries, annotations = [], []
    for i, image in enumerate(sorted(images, key=lambda image: str(image.file)), 1):
        name = os.path.relpath(image.file, listing.root) if isinstance(image.file, Path) else image.file
        entries.append(dict(id=i, file_name=name, width=image.size[0], height=image.size[1]))
        for instance in image.instances:
            annotations.append(dict(id=len(annotations) + 1, image_id=i, category_id=numbers[instance.name],
                                    iscrowd=int(instance.crowd), **_geometry(instance, image.size)))
    return dict(images=entries, annotations=annotations, categories=[dict(id=i, name=name) for name, i in numbers.items()])


def _geometry(instance: Instance, size: tuple[int, int]) -> dict:
    """Box, area and segmentation as COCO writes them; what it cannot read stays as it is, for the inspection to say."""
    outline = instance.segmentation
    box = instance.box if instance.box is not None else _box(outline)
    area = box[2] * box[3]
    is_readable = outline and not segmentation_problem(outline, size[1], size[0])
    if is_readable and (encoded := run_lengths_of(outline, size[1], size[0])):
        area = int(masks.area(encoded))
    return dict(bbox=list(box), area=area, **(dict(segmentation=outline) if outline else {}))


def _box(outline: list[list[float]] | dict) -> Box:
    """x, y, width, height of polygons or run lengths."""
    if isinstance(outline, dict):
        return tuple(masks.toBbox(outline).tolist())
    x, y = ([value for polygon in outline for value in polygon[axis::2]] for axis in (0, 1))
    return (min(x), min(y), max(x) - min(x), max(y) - min(y)) if x and y else (0, 0, 0, 0)


