"""LabelMe of MIT, the older tool, which datumaro also writes: for each image an XML file with polygons, masks and boxes.

Format: https://github.com/CSAILVision/LabelMeAnnotationTool.
"""

from pathlib import Path
from xml.etree.ElementTree import Element

from ralamala_mm.datasets.images import image_size
from ralamala_mm.datasets.locating import has_text

from .labels import (
    Found,
    Instance,
    LabeledImage,
    LabelError,
    Listing,
    by_split,
    corners_box,
    number,
    one_object,
    read_mask,
    run_lengths,
)
from .xml_files import read_xml, starts_with


def find(listing: Listing) -> Found | None:
    """The data set below a folder, if there is one."""
    files = [path for path in listing.of('.xml') if starts_with(path, b'<annotation>') and has_text(path, b'<imagesize>')]
    if not files:
        return None
    mask_dirs = frozenset(path.parent for path in listing.of('.png') if listing.is_mask(path))
    return Found('LabelMe XML format', by_split(listing, files), lambda path: _read(path, listing), mask_dirs=mask_dirs)


def _read(path: Path, listing: Listing) -> LabeledImage:
    root = read_xml(path)
    image = listing.image((root.findtext('filename') or path.stem).strip(), [path.parent], listing.split(path))
    size = image_size(image) if isinstance(image, Path) else None
    if size is None:
        width, height = (int(number(root.findtext(f'imagesize/{key}'), key)) for key in ('ncols', 'nrows'))
        size = (width, height)
    found = LabeledImage(image, size)
    groups: dict[tuple[str, str], list[Instance]] = {}
    for entry in root.findall('object'):
        if (entry.findtext('deleted') or '0').strip() != '1':
            name = (entry.findtext('name') or '').strip()
            whole = (entry.findtext('parts/ispartof') or entry.findtext('id') or str(len(groups))).strip()
            groups.setdefault((name, whole), []).append(_instance(entry, name, size, path, listing))
    found.instances = [instance for parts in groups.values() for instance in one_object(parts, size)]
    return found


def _instance(entry: Element, name: str, size: tuple[int, int], path: Path, listing: Listing) -> Instance:
    if (mask := entry.findtext('segm/mask')) is not None:
        values = read_mask(listing.near(mask.strip(), path))
        if values.shape != size[::-1]:
            raise LabelError(f'its mask {mask} has another size than its image')
        return Instance(name, segmentation=run_lengths(values, 0, 0, size))
    points = [number(point.findtext(axis), axis) for point in entry.iterfind('polygon/pt') for axis in 'xy']
    if len(points) < 6:
        raise LabelError(f'an object {name} without a polygon')
    if (entry.findtext('type') or '').strip() == 'bounding_box':
        return Instance(name, box=corners_box(min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])))
    return Instance(name, segmentation=[points])
