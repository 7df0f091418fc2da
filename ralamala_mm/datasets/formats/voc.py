"""Pascal VOC: for each image an XML file with the boxes of its objects, as also labelImg and Roboflow write it.

Masks of objects are taken from `SegmentationObject/NAME.png`, where there is one, each for the box that it fills.
Coordinates are edges of boxes from 0, but in files of the VOC challenge itself, which number pixels from 1 and include the last.
Format: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html.
"""

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from ralamala_mm.datasets.report import ERROR, NOTE, is_image, split_name
from ralamala_mm.errors import UserError

from .labels import (
    RENAMED,
    Found,
    Instance,
    LabeledImage,
    LabelError,
    Listing,
    Remark,
    by_split,
    corners_box,
    number,
    reading_image,
    rotated_rectangle,
    run_lengths,
)
from .xml_files import read_xml, starts_with

_LISTS = ('ImageSets/Main', 'ImageSets/Segmentation', 'ImageSets')
_IMAGES = ('JPEGImages', 'images', 'image', 'img')
_DIFFICULT = Remark(NOTE, 'objects marked difficult', 'used as all others')
_UNLABELED = Remark(NOTE, 'images without an XML file', 'not used, as nothing says that they show no objects')
_UNLISTED = Remark(NOTE, 'XML files that no list in ImageSets names', 'not used')
_ABSENT = Remark(NOTE, 'names in ImageSets without an XML file and an image', 'left out')
_SEVERAL = Remark(ERROR, 'names in ImageSets that several XML files bear', 'name them with their folder')
_EMPTY = Remark(NOTE, 'images that ImageSets names, without an XML file', 'taken as images without objects')
_NO_BOX = Remark(NOTE, 'masks in SegmentationObject that fill no box', 'not used')
_FILLS = 0.5  # overlap of a mask's box with an object's from which they are one
_OUTLINE, _PALE = 255, 0xE0E0C0  # around objects in SegmentationObject, as an index and as a color


def find(listing: Listing) -> Found | None:
    """The Pascal VOC data set below a folder, if there is one.

    Raises:
        UserError: several folders have lists of the same splits.
    """
    files = [path for path in listing.of('.xml') if starts_with(path, b'<annotation>', b'<annotation ', b'<annotation/')]
    if not files:
        return None
    splits, remarks = _by_lists(listing, files)
    if not splits:
        splits = by_split(listing, files)
        folders = {path.parent for path in files} | {path.parent.parent / name for path in files for name in _IMAGES}
        remarks = [(_UNLABELED, name) for name in listing.unlabeled(files, folders)]
    masks = {(path.parent.parent, path.stem): path for path in listing.images if path.parent.name == 'SegmentationObject'}
    return Found('Pascal VOC format', splits, lambda path: _read(path, listing, masks), remarks=remarks)


def _by_lists(listing: Listing, files: Sequence[Path]) -> tuple[dict[str, list[Path]], list[tuple[Remark, str]]]:
    """Splits by lists such as `ImageSets/Main/train.txt`; those of single classes, `cat_train.txt`, are passed over."""
    for folder in _LISTS:
        lists = [path for path in listing.of('.txt')
                 if path.parent.as_posix().endswith(f'/{folder}') and split_name(path.stem) and '_' not in path.stem]
        if not lists:
            continue
        if len({path.parent for path in lists}) > 1:
            raise UserError(f'{lists[0].parent} and {lists[-1].parent} both hold lists: give one of their data sets to --data')
        splits: dict[str, list[Path]] = {}
        remarks, by_name = [], _by_name(files)
        for path in sorted(lists):
            for name in _names_in(path, by_name):
                if name in by_name and by_name[name] is None:
                    remarks.append((_SEVERAL, f'{name} of {path.name}'))
                    continue
                file = by_name.get(name)
                item = file or listing.image(name, [], split_name(path.stem))
                if isinstance(item, Path):
                    splits.setdefault(split_name(path.stem), []).append(item)
                if file is None:
                    remarks.append((_EMPTY if isinstance(item, Path) else _ABSENT, f'{name} of {path.name}'))
        listed = {path for many in splits.values() for path in many}
        remarks += [(_UNLISTED, listing.name(path)) for path in files if path not in listed]
        return splits, remarks
    return {}, []


def _by_name(files: Sequence[Path]) -> dict[str, Path | None]:
    """Files by how lists may name them: without suffix, with the folders below `Annotations` or without; None for two's."""
    found: dict[str, Path | None] = {}
    for path in files:
        at = next((i for i in reversed(range(len(path.parts))) if path.parts[i].lower() == 'annotations'), len(path.parts) - 2)
        for name in {'/'.join([*path.parts[at + 1:-1], path.stem]), path.stem}:
            found[name] = None if name in found else path
    return found


def _names_in(path: Path, known: Collection[str]) -> Iterator[str]:
    """Names of images without suffix; a line may have a -1, 0 or 1 behind a known name, or quotes around it."""
    for line in path.read_text(encoding='utf-8-sig', errors='replace').splitlines():
        name = line.strip()
        name = (name if name in known else re.sub(r'\s+-?[01]$', '', name)).strip('"')
        if name:
            yield name.rpartition('.')[0] if is_image(name) or name.endswith('.xml') else name


def _read(path: Path, listing: Listing, masks: Mapping[tuple[Path, str], Path]) -> LabeledImage:
    if path.suffix.lower() != '.xml':
        return LabeledImage(path)  # an image without objects
    root = read_xml(path)
    name = (root.findtext('filename') or '').strip()
    folders = [path.parent, *(base / inner for base in (path.parent.parent, path.parent) for inner in _IMAGES)]
    folders += [base / inner / path.parent.name for base in (path.parent.parent, path.parent.parent.parent) for inner in _IMAGES]
    image, is_renamed = listing.own_image(path, name, folders)
    sizes = [root.findtext(f'size/{key}') for key in ('width', 'height')]
    size = tuple(int(number(text, 'a size')) for text in sizes) if all(sizes) else None
    found = LabeledImage(image, size if size and min(size) > 0 else None)
    if is_renamed:
        found.remarks.append((RENAMED, f'{path.name}: {name}'))
    counts_from_1 = (root.findtext('source/database') or '').startswith('The VOC')
    for entry in root.findall('object'):
        found.instances.append(_instance(entry, counts_from_1))
        if (entry.findtext('difficult') or '0').strip() == '1':
            found.remarks.append((_DIFFICULT, path.name))
    if mask := masks.get((path.parent.parent, path.stem)):
        _add_masks(found, mask)
    return found


def _add_masks(found: LabeledImage, path: Path) -> None:
    """Gives each object the mask that fills its box best."""
    with reading_image(f'its mask {path.name}'), Image.open(path) as image:
        values = np.asarray(image if image.mode in ('P', 'L') else image.convert('RGB'))
    if values.ndim == 3:  # in the colors of the palette
        values = values.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    outline = _OUTLINE if values.max(initial=0) <= _OUTLINE else _PALE
    size = (values.shape[1], values.shape[0])
    left = [instance for instance in found.instances if instance.box]
    for value in np.setdiff1d(values, [0, outline]).tolist():
        encoded = run_lengths(values == value, 0, 0, size)
        fit = rle.iou([rle.toBbox(encoded)], [list(instance.box) for instance in left], [0] * len(left)) if left else None
        best = left[int(fit.argmax())] if left and fit.max() >= _FILLS else None
        if best is None:
            found.remarks.append((_NO_BOX, f'{value} of {path.name}'))
        else:
            best.segmentation = encoded
            left = [instance for instance in left if instance is not best]


def _instance(entry: Element, counts_from_1: bool) -> Instance:
    name = (entry.findtext('name') or '').strip()
    if not name:
        raise LabelError('an object without a name')
    if (polygon := entry.find('polygon')) is not None and (points := _points(polygon)):
        return Instance(name, segmentation=[points])
    if (edges := entry.find('bndbox')) is not None:
        x1, y1, x2, y2 = (number(edges.findtext(key), key) for key in ('xmin', 'ymin', 'xmax', 'ymax'))
        return Instance(name, box=corners_box(x1 - counts_from_1, y1 - counts_from_1, x2, y2))
    if (turned := entry.find('robndbox')) is not None:  # roLabelImg's: center, size, angle in radians
        x, y, width, height, angle = (number(turned.findtext(key), key) for key in ('cx', 'cy', 'w', 'h', 'angle'))
        box = (x - width / 2, y - height / 2, width, height)
        return Instance(name, segmentation=[rotated_rectangle(box, math.degrees(angle))])
    raise LabelError(f'an object {name} without a box')


def _points(polygon: Element) -> list[float]:
    """Of `<x1>, <y1>, <x2>, …`, as Roboflow writes them."""
    values = {child.tag: number(child.text, child.tag) for child in polygon}
    count = sum(tag.startswith('x') for tag in values)
    try:
        return [values[f'{axis}{i}'] for i in range(1, count + 1) for axis in 'xy']
    except KeyError as error:
        raise LabelError(f'a polygon without {error}') from error
