"""YOLO: for each image a text file of lines "class x y width height" or "class x y x y …", in shares of the image.

Read are Ultralytics' folders with a `data.yaml` (also Roboflow's), Darknet's with `obj.data` and `obj.names` (also CVAT's and
datumaro's), and folders of images and labels with no more than a list of class names, such as labelImg's and Label Studio's.
Format: https://docs.ultralytics.com/datasets/detect and https://docs.ultralytics.com/datasets/segment.
"""

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from ralamala_mm.datasets.coco_objects import TOO_MANY
from ralamala_mm.datasets.images import image_size
from ralamala_mm.datasets.report import ERROR, NOTE, split_name
from ralamala_mm.errors import UserError

from .labels import Found, Instance, LabeledImage, LabelError, Listing, Remark, by_split, number

_SPLITS = {'train': 'train', 'val': 'val', 'valid': 'val', 'validation': 'val', 'test': 'test'}  # as files write and we call them
_LISTS = ('classes.txt', 'obj.names', 'labels.txt', 'names.txt', 'predefined_classes.txt')  # of class names
_YAML_NAMES = ('data', 'dataset')
_LINE = re.compile(r'\d+(\.0*)?(\s+[-+]?[\d.]+(e[-+]?\d+)?){4,}', re.IGNORECASE)
_PROBED = 50  # text files that are looked into
_ROUNDING = 0.01  # of the image's size, that a label may reach beyond it
_SCORED = Remark(NOTE, 'objects with a score, as predictions have', 'all are taken as truth')
_NO_NAMES = Remark(NOTE, 'classes without names', 'a file classes.txt, one name a line, gives them')
_ORPHANS = Remark(NOTE, 'label files without an image', 'not used')
_ABSENT = Remark(NOTE, 'images that are named for a split and not there', 'left out')
_MANY_ABSENT = Remark(ERROR, 'images that are named for a split and not there', 'too many to be left out')
_UNLISTED = Remark(NOTE, 'labeled images that no split lists', 'not used')
_UNLABELED = Remark(NOTE, 'images without a label file', 'taken as images without objects')
_BEYOND = Remark(ERROR, 'labels with values beyond 0 to 1', 'YOLO gives centers, sizes and points as shares of the image')


@dataclass
class _Description:
    """What a YAML or Darknet file says: the names of classes by number, and files or folders of images by split."""

    path: Path
    names: Mapping[int, str] | None
    images: Mapping[str, Sequence[str]]
    base: str = ''
    has_keypoints: bool = False


def find(listing: Listing) -> Found | None:
    """The YOLO data set below a folder, if there is one.

    Raises:
        UserError: what names the classes cannot be read.
    """
    texts = {path for path in listing.of('.txt') if path.name not in _LISTS}
    described = _from_yaml(listing) or list(_from_darknet(listing))
    splits, remarks = _described_images(listing, described)
    label_of = {image: _label_file(image, texts) for image in listing.images}
    labeled = {image for image, path in label_of.items() if path}
    listed = {image for images in splits.values() for image in images}
    if not splits:
        filled = [path for path in sorted(texts) if path.stat().st_size]
        if not any(one.names for one in described) and not any(map(_is_label_file, filled[:_PROBED])):
            return None
        folders = {image.parent for image in labeled}
        splits = by_split(listing, [image for image in listing.images if image.parent in folders])
    elif labeled - listed:
        remarks += [(_UNLISTED, listing.name(image)) for image in sorted(labeled - listed)]
    labels = {image: label_of[image] for images in splits.values() for image in images}
    used = set(filter(None, labels.values()))
    if not used:
        return None
    lists = {one.path.parent: one.names for one in described if one.names} or _listed_names(listing)
    if not lists:
        lists = {listing.root: {i: f'class {i}' for i in range(_highest_class(used) + 1)}}
        remarks += [(_NO_NAMES, name) for name in lists[listing.root].values()]
    folders = {path.parent for path in used}
    remarks += [(_ORPHANS, listing.name(path)) for path in sorted(texts - set(label_of.values()))
                if path.parent in folders and _is_label_file(path)]
    remarks += [(_UNLABELED, listing.name(image)) for image, path in labels.items() if not path]
    has_keypoints = any(one.has_keypoints for one in described)
    layout = ' and '.join(listing.name(one.path) for one in described)
    return Found(f'YOLO format ({layout})' if described else 'YOLO format', splits,
                 lambda image: _read(image, labels[image], _nearest(lists, labels[image]), has_keypoints),
                 list(dict.fromkeys(names[i] for names in lists.values() for i in sorted(names))), remarks)


def _nearest(lists: Mapping[Path, Mapping[int, str]], label: Path | None) -> Mapping[int, str]:
    """The names in the folder that a label file belongs to: splits that were exported apart number their classes apart."""
    around = [folder for folder in lists if label and label.is_relative_to(folder)]
    return lists[max(around, key=lambda folder: len(folder.parts))] if around else next(iter(lists.values()))


def _described_images(listing: Listing,
                      described: Sequence[_Description]) -> tuple[dict[str, list[Path]], list[tuple[Remark, str]]]:
    """Images by split, and what was noted; a file in the folder of a split describes that one."""
    splits: dict[str, dict[Path, None]] = {}
    remarks: list[tuple[Remark, str]] = []
    for one in described:
        own = listing.split(one.path)
        for split, entries in one.images.items():
            images, absent = _images_of(listing, one, entries)
            too_many = len(absent) > TOO_MANY * (len(absent) + len(images)) and len(absent) > len(entries)
            remarks += [(_MANY_ABSENT if too_many else _ABSENT, entry) for entry in absent]
            if images:
                splits.setdefault(own if own != 'all' and len(one.images) == 1 else split, {}).update(dict.fromkeys(images))
    return {split: list(images) for split, images in splits.items()}, remarks


def _from_yaml(listing: Listing) -> list[_Description]:
    """The YAML files with class names and splits that lie highest.

    Raises:
        UserError: it names no classes as YOLO does.
    """
    described: list[_Description] = []
    for path in sorted(listing.of('.yaml', '.yml'), key=lambda path: len(path.parts)):
        if described and len(described[0].path.parts) < len(path.parts):
            break
        try:
            content = yaml.load(path.read_bytes(), Loader=yaml.BaseLoader)  # of texts alone: the class `no` is no False
        except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
            if path.stem in _YAML_NAMES:
                raise UserError(f'{path} is not valid YAML: {" ".join(str(error).split())}') from error
            continue  # of something else
        if not isinstance(content, dict) or not {'train', 'val', 'test', 'path', 'nc'} & set(content) or 'names' not in content:
            continue
        given = content['names']
        if not isinstance(given, list | dict):
            raise UserError(f'{path} has names that are neither a list nor numbers with names: YOLO writes names: [cat, dog]')
        items = list(given.items() if isinstance(given, dict) else enumerate(given))
        if not all(isinstance(name, str) for _, name in items):
            raise UserError(f'{path} has names that are no texts: YOLO writes names: [cat, dog]')
        try:
            names = {int(i): name for i, name in items}
        except (TypeError, ValueError) as error:
            raise UserError(f'{path} numbers its names with what is no number ({error}): YOLO writes 0: cat') from error
        if not names or min(names) < 0 or len(set(names.values())) < len(names):
            raise UserError(f'{path} has no names, or one twice, or a negative number: each class needs a name of its own')
        images = {ours: [str(entry) for entry in (value if isinstance(value, list) else [value])]
                  for theirs, ours in _SPLITS.items() if (value := content.get(theirs))}
        if described and described[-1].path.parent == path.parent and described[-1].names != names:
            raise UserError(f'{described[-1].path} and {path} give the classes different names: leave one')
        described.append(_Description(path, names, images, str(content.get('path') or ''), bool(content.get('kpt_shape'))))
    return described


def _from_darknet(listing: Listing) -> Iterator[_Description]:
    """Files of lines such as "train = data/train.txt" and "names = data/obj.names"."""
    for path in listing.of('.data'):
        lines = [line.partition('=') for line in path.read_text(errors='replace').splitlines()]
        content = {key.strip(): value.strip() for key, equals, value in lines if equals}
        if 'names' not in content:
            continue
        file = next(iter(_resolved(listing, _Description(path, None, {}), content['names'])), None)
        yield _Description(path, _lines_as_names(file) if file and file.is_file() else None,
                           {ours: [content[theirs]] for theirs, ours in _SPLITS.items() if content.get(theirs)})


def _listed_names(listing: Listing) -> dict[Path, Mapping[int, str]]:
    """Names by the folder of their list."""
    lists = [path for path in listing.of('.txt', '.names') if path.name in _LISTS or path.suffix == '.names']
    return {path.parent: _lines_as_names(path) for path in lists}


def _lines_as_names(path: Path) -> Mapping[int, str]:
    """One name a line, as it is.

    Raises:
        UserError: a name stands twice, or there is none.
    """
    names = [line.strip() for line in path.read_text(encoding='utf-8-sig', errors='replace').splitlines() if line.strip()]
    if not names or len(set(names)) < len(names):
        raise UserError(f'{path} lists {"a class twice" if names else "no classes"}: one name a line')
    return dict(enumerate(names))


def _resolved(listing: Listing, described: _Description, entry: str) -> Iterator[Path]:
    """Existing files and folders that an entry may mean, the likeliest first.

    Relative to `path`, to the file, or to the folder. Roboflow's exports are a folder deeper than they say (`../train/images`),
    Darknet's lack the folder `data`, and absolute paths are those of another machine: leading parts are dropped.
    """
    entry = entry.replace('\\', '/')
    bases = [described.path.parent / described.base, described.path.parent, listing.root]
    ways = [base / entry for base in bases]
    parts = [part for part in entry.split('/') if part not in ('', '.', '..')]
    while parts:
        ways += [base.joinpath(*parts) for base in bases[1:]]
        if split_name(parts[0]):
            break  # without it, another split would be meant
        parts = parts[1:]
    inside = Path(os.path.realpath(listing.root))
    return (way for way in ways if os.path.exists(way) and Path(os.path.realpath(way)).is_relative_to(inside))


def _images_of(listing: Listing, described: _Description, entries: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Images that entries of a split mean, and the entries that mean none: folders, lists of images, or images."""
    images: dict[Path, None] = {}
    absent, inside = [], set(listing.images)
    for entry in entries:
        way = next(_resolved(listing, described, entry), None)
        if way is None:
            absent.append(entry)
        elif way.is_dir():
            folder = os.path.join(os.path.normpath(way), '')
            images |= dict.fromkeys(image for image in listing.images if str(image).startswith(folder))
        elif way.suffix == '.txt':
            for line in filter(None, map(str.strip, way.read_text(errors='replace').splitlines())):
                image = listing.image(line, [way.parent, described.path.parent / described.base, listing.root])
                if image in inside:
                    images[image] = None
                else:
                    absent.append(line)
        elif (image := Path(os.path.normpath(way))) in inside:
            images[image] = None
    return list(images), absent


def _label_file(image: Path, texts: Collection[Path]) -> Path | None:
    """Beside the image, or in the folder `labels` that goes with `images`."""
    parts, name = image.parent.parts, f'{image.stem}.txt'
    at = next((i for i in reversed(range(len(parts))) if parts[i].lower() in ('images', 'image', 'jpegimages', 'img')), None)
    ways = [Path(*parts[:at], 'labels', *parts[at + 1:], name)] if at is not None else []
    ways += [image.parent / name, image.parent / 'labels' / name, image.parent.parent / 'labels' / name,
             image.parent.parent / 'labels' / image.parent.name / name]
    return next((way for way in ways if way in texts), None)


def _is_label_file(path: Path) -> bool:
    with path.open('rb') as file:
        line = file.readline(1000).decode('ascii', 'replace').strip()
    return _LINE.fullmatch(line) is not None


def _highest_class(files: Collection[Path]) -> int:
    lines = (line.strip() for path in files for line in path.read_text(errors='replace').splitlines())
    numbers = (line.split(maxsplit=1)[0] for line in lines if line)
    return max((int(float(one)) for one in numbers if re.fullmatch(r'\d{1,6}(\.0*)?', one)), default=0)


def _read(image: Path, path: Path | None, names: Mapping[int, str], has_keypoints: bool) -> LabeledImage:
    found = LabeledImage(image)
    size = image_size(image) if path else None
    if not path or size is None:
        return found  # an image that cannot be read is reported by whoever reads its size
    for i, line in enumerate(path.read_text(encoding='utf-8-sig', errors='replace').splitlines(), 1):
        if line.strip():
            try:
                remark = _read_line(line.split(), names, size, has_keypoints, found.instances)
            except LabelError as error:
                raise LabelError(f'{path.name} line {i}: {error}') from error
            if remark:
                found.remarks.append((remark, f'{path.name} line {i}'))
    return found


def _read_line(texts: Sequence[str], names: Mapping[int, str], size: tuple[int, int], has_keypoints: bool,
               instances: list[Instance]) -> Remark | None:
    """Adds the object of a line.

    Raises:
        LabelError: the line is none.
    """
    label, *values = [number(text, f'value {i}') for i, text in enumerate(texts, 1)]
    if label not in names:
        raise LabelError(f'class {texts[0]} is not one of {min(names)} to {max(names)}')
    if len(values) < 4:
        raise LabelError(f'{len(texts)} values; a box has five, a polygon seven or more')
    remark = None
    if has_keypoints:
        values = values[:4]
    elif len(values) == 5 or (len(values) % 2 and len(values) > 6):
        values, remark = values[:-1], _SCORED
    if min(values) < -_ROUNDING or max(values) > 1 + _ROUNDING:
        return _BEYOND
    width, height = size
    scaled = [value * (height if i % 2 else width) for i, value in enumerate(values)]
    if len(values) == 4:
        x, y, w, h = scaled
        instances.append(Instance(names[int(label)], box=(x - w / 2, y - h / 2, w, h)))
    else:
        instances.append(Instance(names[int(label)], segmentation=[scaled]))
    return remark
