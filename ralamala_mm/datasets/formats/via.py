"""VGG Image Annotator: a JSON file of images with regions. Format: https://www.robots.ox.ac.uk/~vgg/software/via."""

import math
from pathlib import Path

from ralamala_mm.datasets.locating import has_text
from ralamala_mm.datasets.report import NOTE

from .json_files import entries_by_split, read_json, written_by
from .labels import Found, Instance, LabeledImage, LabelError, Listing, Remark, ellipse, number

_OBJECT = 'object'  # the class of regions without attributes, where there is one kind of object
_WITHOUT_AREA = Remark(NOTE, 'points and lines, which have no area', 'not used')


def find(listing: Listing) -> Found | None:
    """The data set below a folder, if there is one."""
    splits = entries_by_split(listing, _entries)
    return Found('VIA format', splits, lambda item: _read(*item, listing)) if splits else None


def _entries(path: Path) -> list[dict] | None:
    """Of an export of annotations, or of a project that was saved."""
    if not has_text(path, b'"regions"'):
        return None
    try:
        content = read_json(path)
    except LabelError:
        return None
    content = content.get('_via_img_metadata', content) if isinstance(content, dict) else None
    entries = list(content.values()) if isinstance(content, dict) else []
    return entries if all(isinstance(one, dict) and {'filename', 'regions'} <= set(one) for one in entries) else None


def _read(path: Path, entry: dict, listing: Listing) -> LabeledImage:
    with written_by('VIA'):
        found = LabeledImage(listing.image(str(entry['filename']), [path.parent, path.parent / 'images'], listing.split(path)))
        regions = entry['regions']
        for region in regions.values() if isinstance(regions, dict) else regions:  # of version 1 and 2
            name, shape = _name(region.get('region_attributes') or {}), region['shape_attributes']
            if (instance := _instance(shape, name)) is None:
                found.remarks.append((_WITHOUT_AREA, f'{shape["name"]} of {entry["filename"]}'))
            else:
                found.instances.append(instance)
    return found


def _name(attributes: dict) -> str:
    """The class: the one attribute, or the first of several that is a text or a single choice."""
    for value in attributes.values():
        if isinstance(value, str) and value.strip():
            return value.strip()
        if isinstance(value, dict) and len(value) == 1:  # {'cat': True}, of check boxes
            return next(iter(value))
    return _OBJECT


def _instance(shape: dict, name: str) -> Instance | None:
    def given(*keys: str) -> list[float]:
        return [number(shape[key], key) for key in keys]

    kind = shape['name']
    if kind == 'rect':
        return Instance(name, box=tuple(given('x', 'y', 'width', 'height')))
    if kind == 'polygon':
        points = zip(shape['all_points_x'], shape['all_points_y'], strict=True)
        return Instance(name, segmentation=[[number(value, 'a coordinate') for point in points for value in point]])
    if kind == 'circle':
        x, y, radius = given('cx', 'cy', 'r')
        return Instance(name, segmentation=[ellipse(x, y, radius, radius)])
    if kind == 'ellipse':
        angle = math.degrees(number(shape.get('theta') or 0, 'theta'))
        return Instance(name, segmentation=[ellipse(*given('cx', 'cy', 'rx', 'ry'), angle)])
    if kind in ('point', 'polyline'):
        return None
    raise LabelError(f'a region of the shape {kind}, which is not known')
