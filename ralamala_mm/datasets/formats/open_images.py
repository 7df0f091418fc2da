"""Open Images: CSV files with a box a line, in shares of the image, and others with a mask a line, each the file of one object.

Format: https://storage.googleapis.com/openimages/web.
"""

import csv
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ralamala_mm.datasets.images import image_size
from ralamala_mm.datasets.report import NOTE

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
_SAME = 1e-3  # of the image's sides, by which the edges of a mask and of a box may differ
_UNNAMED = Remark(NOTE, 'labels that no file of class descriptions names', 'called by their codes')
_NO_BOX = Remark(NOTE, 'masks that belong to no box', 'not used')
_NO_FILE = Remark(NOTE, 'masks without a file', 'not used')
_UNLABELED = Remark(NOTE, 'images without a box', 'taken as images without objects')


class _Mask(NamedTuple):
    name: str  # of its file
    listed_in: Path
    edges: tuple[float, ...]  # of its object's box


def find(listing: Listing) -> Found | None:
    """The data set in Open Images' format below a folder, if there is one."""
    files = [path for path in listing.of('.csv') if set(_header(path)) >= _COLUMNS]
    if not files:
        return None
    rows: dict[str, dict[str, list[dict[str, str]]]] = {}
    for path in files:
        split = listing.split_of_file(path)
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
    mask_dirs = frozenset(path.parent for path in listing.of('.png') if masks and listing.is_mask(path))
    return Found('Open Images format', splits, lambda item: _read(item, names, masks, listing), classes, remarks,
                 mask_dirs=mask_dirs)


def _header(path: Path) -> Sequence[str]:
    with path.open(encoding='utf-8-sig', errors='replace', newline='') as file:
        line = file.readline(10000)
        return line.strip().split(',') if line.count(',') < 100 else []


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding='utf-8-sig', errors='replace', newline='') as file:
        try:
            for row in csv.DictReader(file):
                if None in row or None in row.values():
                    raise LabelError(f'has a line of another length: {",".join(map(str, row.values()))[:60]}')
                yield row
        except csv.Error as error:
            raise LabelError(f'is not valid CSV ({error})') from error


def _descriptions(listing: Listing) -> Iterator[tuple[str, str]]:
    """Codes of labels with their names, from a file such as `class-descriptions-boxable.csv`, with or without a header."""
    for path in listing.of('.csv'):
        if 'class' in path.name.lower() and not set(_header(path)) >= _COLUMNS:
            with path.open(encoding='utf-8-sig', errors='replace', newline='') as file:
                yield from ((row[0], row[1]) for row in csv.reader(file) if len(row) == 2 and row[0] != 'LabelName')


def _masks(listing: Listing) -> dict[tuple[str, str], list[_Mask]]:
    """Masks by the image and the label of their object, of which each can have several.

    Raises:
        UserError: a file of them cannot be read.
    """
    masks: dict[tuple[str, str], list[_Mask]] = defaultdict(list)
    for path in listing.of('.csv'):
        if set(_header(path)) >= _MASK_COLUMNS:
            with naming(path):
                for row in _rows(path):
                    masks[row['ImageID'], row['LabelName']].append(_Mask(row['MaskPath'], path, _edges(row, 'Box')))
    return masks


def _edges(row: dict[str, str], prefix: str = '') -> tuple[float, ...]:
    return tuple(number(row[f'{prefix}{edge}'], edge) for edge in ('XMin', 'XMax', 'YMin', 'YMax'))


def _read(item: tuple[str, str, Sequence[dict[str, str]]], names: dict[str, str],
          masks: dict[tuple[str, str], list[_Mask]], listing: Listing) -> LabeledImage:
    split, stem, rows = item
    image = listing.image(stem, [], split)
    size = image_size(image) if rows and isinstance(image, Path) else None
    found = LabeledImage(image, size)
    for row in rows if size else ():
        edges = _edges(row)
        of_object = [mask for mask in masks.get((stem, row['LabelName']), ())
                     if max(abs(a - b) for a, b in zip(mask.edges, edges, strict=True)) < _SAME]
        found.remarks += [(_NO_FILE, mask.name) for mask in of_object if not listing.has(mask.name)]
        files = [listing.near(mask.name, mask.listed_in) for mask in of_object if listing.has(mask.name)]
        parts = [run_lengths(_resized(read_mask(file), size), 0, 0, size) for file in files]
        x1, x2, y1, y2 = edges
        box = corners_box(x1 * size[0], y1 * size[1], x2 * size[0], y2 * size[1])
        segmentation = joined([part for part in parts if part], size) if any(parts) else None
        name = names.get(row['LabelName'], row['LabelName'])
        found.instances.append(Instance(name, box, segmentation, crowd=row.get('IsGroupOf') == '1'))
    labels = {row['LabelName'] for row in rows}
    for label in labels if size else ():
        boxes = [_edges(row) for row in rows if row['LabelName'] == label]
        found.remarks += [(_NO_BOX, mask.name) for mask in masks.get((stem, label), ())
                          if not any(max(abs(a - b) for a, b in zip(mask.edges, box, strict=True)) < _SAME for box in boxes)]
    return found


def _resized(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask in its image's size; those of Open Images have sizes of their own."""
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
