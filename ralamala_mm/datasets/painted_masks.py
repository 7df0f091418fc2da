"""Masks for segmentors, painted from the outlines of COCO annotations: smaller objects over larger ones."""

import collections
import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as masks

from ralamala_mm.files import atomic_write

from .class_names import IGNORED
from .coco import CocoSplit
from .coco_annotations import Annotations
from .coco_objects import TOO_MANY
from .mask_folders import MaskSplit
from .progress import with_progress
from .report import ERROR, NOTE, Problem, problem
from .segmentations import segmentation_problem, valid_polygons

BACKGROUND = 'background'
_MOST_CLASSES = IGNORED  # values of a mask of 8 bits, without the ignored one


class PaintedSplit(MaskSplit):
    """Images of any suffix, with a mask `NAME.SUFFIX.png` each."""

    image_suffix, mask_suffix = '', '.png'


@dataclass
class Painted:
    """Painted masks of several splits.

    Attributes:
        classes: names by the value of their pixels.
        splits: by name.
        problems: what was found while painting.
    """

    classes: list[str]
    splits: dict[str, MaskSplit] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def paint_masks(splits: Mapping[str, CocoSplit], folder: Path, has_background: bool, classes: Sequence[str] | None = None,
                show_progress: bool = True) -> Painted:
    """Writes a mask `folder/SPLIT/IMAGE.png` for each image, unless it was written from the same annotations before.

    Args:
        splits: COCO annotations by split.
        folder: for the masks; made.
        has_background: whether pixels without an object are a class `background` of their own; else they are ignored.
        classes: names by the value of their pixels; by default the background and those of the annotations.
        show_progress: print how far it is on stderr when it takes long.

    Raises:
        UserError: an annotation file is no COCO, or its images are nowhere.
    """
    named = dict.fromkeys(name for split in splits.values() for name in split.category_names)
    found = Painted(list(classes or dict.fromkeys([*([BACKGROUND] if has_background else []), *named])))
    if unknown := [name for name in named if name not in found.classes]:
        found.problems.append(problem(ERROR, 'all', 'classes unknown to the weights', unknown))
    elif len(found.classes) > _MOST_CLASSES:
        found.problems.append(Problem(ERROR, 'all', f'{len(found.classes)} classes; a mask holds {_MOST_CLASSES} at most'))
    else:
        fill = found.classes.index(BACKGROUND) if has_background and BACKGROUND in found.classes else IGNORED
        for name, split in splits.items():
            found.splits[name], problems = _paint_split(split, folder / name, found.classes, fill, show_progress)
            found.problems += problems
    return found


def _paint_split(split: CocoSplit, folder: Path, classes: Sequence[str], fill: int,
                 show_progress: bool) -> tuple[MaskSplit, list[Problem]]:
    names = {category['id']: category['name'] for category in split.content['categories']}
    values = {number: classes.index(name) for number, name in names.items() if name in classes}
    annotations = split.content['annotations']
    by_image: dict[int, list[int]] = collections.defaultdict(list)
    for position, image in enumerate(annotations.image_ids.tolist()):
        by_image[image].append(position)
    files = {image['id']: os.path.relpath(split.image_dir / split.present[image['file_name']], split.root)
             for image in split.content['images'] if image['file_name'] in split.present}
    images = [image for image in split.content['images'] if image['id'] in files]
    _forget_others(folder, split, classes, fill)

    def paint(image: dict) -> tuple[list[str], list[str]]:
        size = (int(image['height']), int(image['width']))
        mask, boxes, bad = _painted(annotations, by_image[image['id']], size, values, fill)
        target = folder / f'{files[image["id"]]}.png'
        if not bad and not target.is_file():
            atomic_write(target, lambda path: Image.fromarray(mask).save(path, format='PNG'))
        return boxes, bad

    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        what, total = f'painting masks of {split.name}', len(images) if show_progress else 0
        done = list(with_progress(pool.map(paint, images), what, total))
    boxes, bad = [entry for part, _ in done for entry in part], [entry for _, part in done for entry in part]
    absent = [image['file_name'] for image in split.content['images'] if image['id'] not in files]
    found = [  # what, the entries, of how many, what is done about a few, and why many are an error
        ('objects with a box and no outline', boxes, len(split.content['annotations']), 'the pixels of their boxes are ignored',
         'a segmentor learns pixels: outlines or masks are needed'),
        ('images without a file', absent, len(split.content['images']), 'left out', 'too many to be left out'),
        ('segmentations that cannot be read', bad, 0, '', '')]
    problems = [problem(ERROR, split.name, what, entries, why) if len(entries) > TOO_MANY * total
                else problem(NOTE, split.name, what, entries, done) for what, entries, total, done, why in found if entries]
    return PaintedSplit(split.name, split.root, folder, tuple(files.values())), problems


def _painted(annotations: Annotations, positions: Sequence[int], size: tuple[int, int], values: Mapping[int, int],
             fill: int) -> tuple[np.ndarray, list[str], list[str]]:
    """A mask `[H, W]` uint8, the objects that have a box alone, and those that cannot be read."""
    mask = np.full(size, fill, np.uint8)
    outlines, boxes, bad = [], [], []
    for position in positions:
        outline, value = annotations.segmentation(position), values.get(annotations.category_ids[position])
        if value is None:
            continue
        if not outline:
            boxes.append(annotations.name(position))
            x, y, width, height = annotations.boxes[position]
            mask[max(0, int(y)):max(0, int(np.ceil(y + height))), max(0, int(x)):max(0, int(np.ceil(x + width)))] = IGNORED
        elif why := segmentation_problem(outline, *size):
            bad.append(f'{annotations.name(position)} {why}')
        elif encoded := _encoded(outline, size):
            outlines.append((int(masks.area(encoded)), position, encoded, value))
    for _, _, encoded, value in sorted(outlines, key=lambda outline: (-outline[0], outline[1])):
        mask[masks.decode(encoded).astype(bool)] = value
    return mask, boxes, bad


def _encoded(outline: list | dict, size: tuple[int, int]) -> dict | None:
    """Compressed run lengths; None of polygons without an area."""
    if isinstance(outline, dict):
        return masks.frPyObjects(outline, *size) if isinstance(outline['counts'], list) else outline
    polygons = valid_polygons(outline)
    return masks.merge(masks.frPyObjects(polygons, *size)) if polygons else None


def _forget_others(folder: Path, split: CocoSplit, classes: Sequence[str], fill: int) -> None:
    """Removes masks that were painted from other annotations, and notes from which the next ones are."""
    state = split.ann_file.stat()
    text = f'{split.ann_file}\0{state.st_size}\0{state.st_mtime_ns}\0{fill}\0' + '\0'.join(classes)
    digest, record = hashlib.blake2b(text.encode('utf-8', 'surrogateescape')).hexdigest(), folder / '.painted_from'
    if folder.is_dir() and not (record.is_file() and record.read_text(errors='replace') == digest):
        shutil.rmtree(folder)
    atomic_write(record, lambda path: path.write_text(digest))
