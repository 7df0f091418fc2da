"""Open Images: CSV files with a box a line, in shares of the image, and others with a mask a line, each the file of one object.

Format: https://storage.googleapis.com/openimages/web.
"""

import csv
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ralamala_mm.datasets.images import image_size
from ralamala_mm.datasets.report import NOTE, split_name

from .labels import (
    Found,
    Instance,
    LabeledImage,
    LabelError,
    Listing,
    Remark,
    corners_box,
    joined,
    naming,
    number,
    read_mask,
    run_lengths,
)

_COLUMNS = {'ImageID', 'LabelName', 'XMin', 'XMax', 'YMin', 'YMax'}
_MASK_COLUMNS = {'MaskPath', 'ImageID', 'LabelName', 'BoxXMin', 'BoxXMax', 'BoxYMin', 'BoxYMax'}
_DIGITS = 4  # of the shares by which a mask and a box are the same object's
_UNNAMED = Remark(NOTE, 'labels that no file of class descriptions names', 'called by their codes')
_UNLABELED = Remark(NOTE, 'images without a box', 'taken as images without objects')


def find(listing: Listing) -> Found | None:
    """The data set in Open Images' format below a folder, if there is one."""
    files = [path for path in listing.of('.csv') if set(_header(path)) >= _COLUMNS]
    if not files:
        return None
    rows: dict[str, dict[str, list[dict[str, str]]]] = {}
    for path in files:
        split = split_name(path.stem) or listing.split(path)
        by_image = rows.setdefault(split, defaultdict(list))
        with naming(path):
            for row in _rows(path):
                by_image[row['ImageID']].append(row)
    names = dict(_descriptions(listing))
    codes = sorted({row['LabelName'] for images in rows.values() for many in images.values() for row in many})
    masks = _masks(listing)
    remarks = [(_UNNAMED, code) for code in codes if names and code not in names]
    splits = {}
    for split, by_image in rows.items():
        others = [image.stem for image in listing.photos if listing.split(image) == split and image.stem not in by_image]
        remarks += [(_UNLABELED, stem) for stem in others]
        splits[split] = [(split, stem, by_image.get(stem, [])) for stem in [*by_image, *others]]
    used = dict.fromkeys(names.get(code, code) for code in codes)
    classes = [name for name in dict.fromkeys(names.values()) if name in used]
    classes += [name for name in used if name not in classes]
    return Found('Open Images format', splits, lambda item: _read(item, names, masks, listing),
                 [*files, *(path for parts in masks.values() for path in parts)], classes, remarks)


def _header(path: Path) -> Sequence[str]:
    with path.open(encoding='utf-8-sig', errors='replace', newline='') as file:
        return next(csv.reader([file.readline(10000)]), [])


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding='utf-8-sig', errors='replace', newline='') as file:
        try:
            yield from csv.DictReader(file)
        except csv.Error as error:
            raise LabelError(f'is not valid CSV ({error})') from error


def _descriptions(listing: Listing) -> Iterator[tuple[str, str]]:
    """Codes of labels with their names, from a file such as `class-descriptions-boxable.csv`, with or without a header."""
    for path in listing.of('.csv'):
        if 'class' in path.name.lower() and not set(_header(path)) >= _COLUMNS:
            with path.open(encoding='utf-8-sig', errors='replace', newline='') as file:
                yield from ((row[0], row[1]) for row in csv.reader(file) if len(row) == 2 and row[0] != 'LabelName')


def _masks(listing: Listing) -> dict[tuple, list[Path]]:
    """Files of masks by the image, the label and the box of their object, of which each can have several parts."""
    files = {path.name: path for path in filter(listing.is_mask, listing.of('.png'))}
    masks: dict[tuple, list[Path]] = defaultdict(list)
    for path in listing.of('.csv'):
        if set(_header(path)) >= _MASK_COLUMNS:
            for row in _rows(path):
                if row['MaskPath'] in files:
                    masks[_key(row, 'Box')].append(files[row['MaskPath']])
    return masks


def _key(row: dict[str, str], prefix: str = '') -> tuple:
    edges = (number(row[f'{prefix}{edge}'], edge) for edge in ('XMin', 'XMax', 'YMin', 'YMax'))
    return row['ImageID'], row['LabelName'], *(round(edge, _DIGITS) for edge in edges)


def _read(item: tuple[str, str, Sequence[dict[str, str]]], names: dict[str, str], masks: dict[tuple, list[Path]],
          listing: Listing) -> LabeledImage:
    split, stem, rows = item
    image = listing.image(stem, [], split)
    size = image_size(image) if rows else None
    found = LabeledImage(image)
    for row in rows if size else ():
        x1, x2, y1, y2 = (number(row[key], key) for key in ('XMin', 'XMax', 'YMin', 'YMax'))
        box = corners_box(x1 * size[0], y1 * size[1], x2 * size[0], y2 * size[1])
        parts = [run_lengths(_resized(read_mask(path), size), 0, 0, size) for path in masks.get(_key(row), ())]
        segmentation = joined([part for part in parts if part], size) if any(parts) else None
        name = names.get(row['LabelName'], row['LabelName'])
        found.instances.append(Instance(name, box, segmentation, crowd=row.get('IsGroupOf') == '1'))
    return found


def _resized(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask in its image's size; those of Open Images have sizes of their own."""
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
