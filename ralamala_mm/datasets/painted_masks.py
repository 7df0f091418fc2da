"""Masks for segmentors, painted from the outlines of COCO annotations: smaller objects over larger ones."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as masks

from ralamala_mm.errors import UserError
from ralamala_mm.files import atomic_write

from .class_names import IGNORED
from .coco import CocoSplit
from .coco_annotations import Annotations
from .coco_objects import TOO_MANY
from .inspection_cache import code_digest
from .mask_folders import MaskSplit
from .mask_merging import BACKGROUND
from .progress import in_threads
from .report import ERROR, NOTE, Problem, problem
from .segmentations import run_lengths_of, segmentation_problem

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
    """Writes a mask `folder/DIGEST/SPLIT/IMAGE.png` for each image, unless it was written from the same annotations before.

    Args:
        splits: COCO annotations by split.
        folder: for the masks; made.
        has_background: whether pixels without an object are a class `background` of their own; else they are ignored.
        classes: names by the value of their pixels; by default the background and those of the annotations.
        show_progress: print how far it is on stderr when it takes long.

    Raises:
        UserError: an annotation file is no COCO, its images are nowhere, or the masks cannot be written.
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
            target = folder / _digest(split, found.classes, fill) / name
            found.splits[name], problems = _paint_split(split, target, found.classes, fill, show_progress)
            found.problems += problems
    return found


def _paint_split(split: CocoSplit, folder: Path, classes: Sequence[str], fill: int,
                 show_progress: bool) -> tuple[MaskSplit, list[Problem]]:
    content = split.content
    annotations, names = content['annotations'], {category['id']: category['name'] for category in content['categories']}
    values = {number: classes.index(name) for number, name in names.items() if name in classes}
    files = {image['id']: os.path.relpath(split.image_dir / split.present[image['file_name']], split.root)
             for image in content['images'] if image['file_name'] in split.present}
    outside = [file for file in files.values() if file.startswith('..')]
    files = {number: file for number, file in files.items() if not file.startswith('..')}
    by_file: dict[str, list[int]] = {file: [] for file in files.values()}  # an image may be listed twice
    listed, unlisted = {image['id'] for image in content['images']}, []
    for position, (image, category) in enumerate(zip(annotations.image_ids.tolist(), annotations.category_ids.tolist(),
                                                     strict=True)):
        if image in files and category in values:
            by_file[files[image]].append(position)
        elif image not in listed or category not in values:
            unlisted.append(annotations.name(position))
    sizes = {files[image['id']]: (int(image['height']), int(image['width'])) for image in content['images']
             if image['id'] in files}

    def paint(file: str) -> _Remarks:
        mask, remarks = _painted(annotations, by_file[file], sizes[file], values, fill)
        target = folder / f'{file}.png'
        if not remarks.unreadable and not target.is_file():
            atomic_write(target, lambda path: Image.fromarray(mask).save(path, format='PNG'))
        return remarks

    try:
        done = list(in_threads(paint, by_file, f'painting masks of {split.name}', show_progress))
    except OSError as error:
        raise UserError(f'masks cannot be written to {folder} ({error.strerror}): --work-dir names another folder') from error
    boxes, unreadable, empty = ([entry for remarks in done for entry in getattr(remarks, kind)]
                                for kind in ('boxes', 'unreadable', 'empty'))
    absent = [image['file_name'] for image in content['images'] if image['file_name'] not in split.present]
    found = [  # what, the entries, of how many, what is done about a few, and why many are an error
        ('objects with a box and no outline', boxes, len(annotations), 'the pixels of their boxes are ignored',
         'a segmentor learns pixels: outlines or masks are needed'),
        ('images without a file', absent, len(content['images']), 'left out', 'too many to be left out'),
        ('images outside of the folder', outside, 0, '', 'copy them into it'),
        ('annotations of images or categories that are not listed', unlisted, len(annotations), 'not used',
         'too many to be annotation errors'),
        ('outlines without a pixel', empty, len(annotations), 'not used', 'too many to be annotation errors'),
        ('segmentations that cannot be read', unreadable, 0, '', '')]
    problems = [problem(ERROR, split.name, what, entries, why) if len(entries) > TOO_MANY * total
                else problem(NOTE, split.name, what, entries, done) for what, entries, total, done, why in found if entries]
    return PaintedSplit(split.name, split.root, folder, tuple(by_file)), problems


class _Remarks(NamedTuple):
    """Objects of an image, by name: those with a box alone, those that cannot be read, those without a pixel."""

    boxes: list[str]
    unreadable: list[str]
    empty: list[str]


def _painted(annotations: Annotations, positions: Sequence[int], size: tuple[int, int], values: Mapping[int, int],
             fill: int) -> tuple[np.ndarray, _Remarks]:
    """A mask `[H, W]` uint8, and what is to be noted."""
    mask = np.full(size, fill, np.uint8)
    outlines, remarks = [], _Remarks([], [], [])
    for position in positions:
        outline, value = annotations.segmentation(position), values[annotations.category_ids[position]]
        if not outline:
            remarks.boxes.append(annotations.name(position))
            x, y, width, height = annotations.boxes[position]
            mask[max(0, int(y)):max(0, int(np.ceil(y + height))), max(0, int(x)):max(0, int(np.ceil(x + width)))] = IGNORED
        elif why := segmentation_problem(outline, *size):
            remarks.unreadable.append(f'{annotations.name(position)} {why}')
        elif (encoded := run_lengths_of(outline, *size)) and (area := int(masks.area(encoded))):
            outlines.append((area, position, encoded, value))
        else:
            remarks.empty.append(annotations.name(position))
    for _, _, encoded, value in sorted(outlines, key=lambda outline: (-outline[0], outline[1])):
        mask[masks.decode(encoded).astype(bool)] = value
    return mask, remarks


def _digest(split: CocoSplit, classes: Sequence[str], fill: int) -> str:
    """Of what the masks are painted from."""
    state = split.ann_file.stat()
    text = f'{code_digest()}\0{split.ann_file}\0{state.st_size}\0{state.st_mtime_ns}\0{fill}\0' + '\0'.join(classes)
    return hashlib.blake2b(text.encode('utf-8', 'surrogateescape'), digest_size=6).hexdigest()
