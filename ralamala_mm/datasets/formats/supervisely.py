"""Supervisely: for each image a JSON file with objects, beside a `meta.json` of classes.

Format: https://docs.supervisely.com/data-organization/00_ann_format_navi. Rectangles are of whole pixels, the last ones included:
one from 10 to 19 is ten pixels wide.
"""

import base64
import io
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ralamala_mm.datasets.report import NOTE

from .json_files import as_list, holds_keys, read_json, written_by
from .labels import (
    Found,
    Instance,
    LabeledImage,
    LabelError,
    Listing,
    Polygon,
    Remark,
    by_split,
    corners_box,
    filled,
    naming,
    number,
    rectangle,
    run_lengths,
)

_WITHOUT_AREA = Remark(NOTE, 'points, lines, cuboids and keypoints', 'not used')
_PROBED = 20  # JSON files that are looked into
_MOST = 2**28  # bytes of one unpacked bitmap


def find(listing: Listing) -> Found | None:
    """The Supervisely project below a folder, if there is one."""
    files = [path for path in listing.of('.json') if path.parent.name == 'ann']
    if not any(holds_keys(path, 'objects', 'size') for path in files[:_PROBED]):
        return None
    return Found('Supervisely format', by_split(listing, files), lambda path: _read(path, listing), _classes(listing))


def _classes(listing: Listing) -> list[str] | None:
    """Of `meta.json`, those that are no points and lines."""
    path = next((path for path in listing.of('.json') if path.name == 'meta.json'), None)
    if path is None:
        return None
    with naming(path), written_by('Supervisely'):
        return [str(one['title']) for one in read_json(path)['classes'] if one.get('shape') not in ('point', 'line', 'tag')]


def _read(path: Path, listing: Listing) -> LabeledImage:
    content = read_json(path)
    with written_by('Supervisely'):
        size = (int(content['size']['width']), int(content['size']['height']))
        folders = [path.parent.parent / 'img']
        image = listing.image(path.stem, folders, listing.split(path))  # a.jpg.json; older ones a.json
        found = LabeledImage(image, size)
        for entry in as_list(content['objects'], 'objects'):
            instance = _instance(entry, size)
            if instance:
                found.instances.append(instance)
            else:
                found.remarks.append((_WITHOUT_AREA, f'{entry.get("geometryType")} of {path.name}'))
    return found


def _instance(entry: dict, size: tuple[int, int]) -> Instance | None:
    kind, name = entry.get('geometryType'), str(entry['classTitle'])
    if kind == 'bitmap' or (kind is None and entry.get('bitmap')):
        left, top = entry['bitmap']['origin']
        return Instance(name, segmentation=run_lengths(_bitmap(entry['bitmap']['data']), int(left), int(top), size))
    outer, *holes = [_polygon(entry['points']['exterior']), *map(_polygon, entry['points'].get('interior') or [])] \
        if isinstance(entry.get('points'), dict) else [[]]
    if kind == 'rectangle' and len(outer) == 4:
        x, y, width, height = corners_box(*outer)
        box = (x, y, width + 1, height + 1)
        return Instance(name, box=box, segmentation=[rectangle(box)])
    if kind in ('polygon', None) and len(outer) >= 6:
        return Instance(name, segmentation=filled(outer, holes, size) if holes else [outer])
    return None


def _polygon(points: Sequence) -> Polygon:
    return [number(value, 'a coordinate') for point in points for value in point]


def _bitmap(text: str) -> np.ndarray:
    """A mask `[h, w]` of bool out of base64 of a compressed PNG, in which the object is opaque."""
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(text), _MOST)
        if unpacker.unconsumed_tail:
            raise LabelError('a bitmap of more than 256 MiB')
        with Image.open(io.BytesIO(data)) as image:
            values = np.asarray(image.convert('RGBA') if image.mode in ('P', 'PA', 'RGBA', 'LA') else image.convert('L'))
    except (zlib.error, OSError, ValueError, TypeError, Image.DecompressionBombError) as error:
        raise LabelError(f'a bitmap that is no compressed PNG in base64 ({error})') from error
    return values[..., 3] > 0 if values.ndim == 3 else values > 0
