"""labelme: for each image a JSON file with shapes. Format: https://github.com/wkentaro/labelme."""

import base64
import binascii
import io
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

from ralamala_mm.datasets.images import image_size
from ralamala_mm.datasets.locating import has_text
from ralamala_mm.datasets.report import NOTE

from .json_files import as_list, holds_keys, read_json, written_by
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
    ellipse,
    number,
    one_object,
    rectangle,
    run_lengths,
)

_NO_OBJECTS = ('__ignore__', '_background_')  # the first lines of labelme's lists of labels
_WITHOUT_AREA = Remark(NOTE, 'lines and points, which have no area', 'not used')
_NOT_OBJECTS = Remark(NOTE, 'shapes labeled __ignore__ or _background_', 'not used')
_UNLABELED = Remark(NOTE, 'images without a JSON file', 'not used, as nothing says that they show no objects')
_PROBED = 20  # JSON files that are looked into


def find(listing: Listing) -> Found | None:
    """The labelme data set below a folder, if there is one."""
    files = listing.of('.json')
    if not any(holds_keys(path, 'shapes', 'imagePath') for path in files[:_PROBED]):
        return None
    files = [path for path in files if has_text(path, b'"shapes"')]
    remarks = [(_UNLABELED, name) for name in listing.unlabeled(files, {path.parent for path in files})]
    return Found('labelme format', by_split(listing, files), lambda path: _read(path, listing), remarks=remarks)


def _read(path: Path, listing: Listing) -> LabeledImage:
    content = read_json(path)
    with written_by('labelme'):
        name, shapes = str(content.get('imagePath') or path.stem), as_list(content['shapes'], 'shapes')
        height, width = content.get('imageHeight'), content.get('imageWidth')
        image, is_renamed = listing.own_image(path, name.replace('\\', '/'), [path.parent])
        if width and height:
            size = (int(number(width, 'imageWidth')), int(number(height, 'imageHeight')))
        else:
            size = image_size(image) if isinstance(image, Path) else None
        if size is None:
            raise LabelError('has no imageWidth and imageHeight, and its image is not there or cannot be read')
        found = LabeledImage(image, size)
        if is_renamed:
            found.remarks.append((RENAMED, f'{path.name}: {name}'))
        groups: dict[tuple, list[Instance]] = defaultdict(list)  # shapes of one label and group_id are parts of one object
        for i, shape in enumerate(shapes):
            label, group = str(shape['label']).strip(), shape.get('group_id')
            if not label:
                raise LabelError('a shape without a label')
            if label in _NO_OBJECTS:
                found.remarks.append((_NOT_OBJECTS, path.name))
            elif (instance := _instance(shape, label, size)) is None:
                found.remarks.append((_WITHOUT_AREA, f'{shape.get("shape_type")} of {path.name}'))
            else:
                groups[(label, group) if group is not None else i].append(instance)
    found.instances = [instance for parts in groups.values() for instance in one_object(parts, size)]
    return found


def _instance(shape: dict, label: str, size: tuple[int, int]) -> Instance | None:
    kind = shape.get('shape_type') or 'polygon'
    points = [(number(x, 'a coordinate'), number(y, 'a coordinate')) for x, y in as_list(shape['points'], 'points')]
    if kind == 'mask':
        (left, top), *_ = points
        return Instance(label, segmentation=run_lengths(_decoded(shape.get('mask')), round(left), round(top), size))
    if kind == 'rectangle' and len(points) == 2:
        box = corners_box(*points[0], *points[1])
        return Instance(label, box=box, segmentation=[rectangle(box)])
    if kind == 'circle' and len(points) == 2:
        return Instance(label, segmentation=[ellipse(*points[0], *2 * [math.dist(*points)])])
    if kind in ('polygon', 'rectangle', 'oriented_rectangle') and len(points) >= 3:
        return Instance(label, segmentation=[[value for point in points for value in point]])
    if kind in ('point', 'points', 'line', 'linestrip') or len(points) < 3:
        return None
    raise LabelError(f'a shape of type {kind}, which is not known')


def _decoded(text: object) -> np.ndarray:
    """A mask `[h, w]` of bool out of base64 of a PNG."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as image:
            return np.asarray(image.convert('L')) > 0
    except (TypeError, ValueError, OSError, binascii.Error, Image.DecompressionBombError) as error:
        raise LabelError(f'a mask that is no PNG in base64 ({error})') from error
