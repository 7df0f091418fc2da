"""CVAT's own XML, for images and for video. Format: https://docs.cvat.ai/docs/other/xml_format."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from ralamala_mm.datasets.report import NOTE, split_name

from .labels import (
    Found,
    Instance,
    LabeledImage,
    LabelError,
    Listing,
    Remark,
    corners_box,
    ellipse,
    naming,
    number,
    one_object,
    rotated_rectangle,
    run_lengths,
)
from .xml_files import read_xml, starts_with

_WITHOUT_AREA = ('polyline', 'points', 'cuboid', 'skeleton', 'tag')
_UNUSED = Remark(NOTE, 'lines, points, cuboids, skeletons and tags', 'not used')
_NO_FRAME = Remark(NOTE, 'frames of a video without an image', 'left out: CVAT exports them with "save images"')


@dataclass
class _Image:
    """An image with its elements."""

    path: Path  # of the XML file
    name: str
    subset: str
    size: tuple[int, int]
    shapes: list[Element] = field(default_factory=list)


def find(listing: Listing) -> Found | None:
    """CVAT's XML below a folder, if there is some.

    Raises:
        UserError: a file of it is broken.
    """
    files = [path for path in listing.of('.xml') if starts_with(path, b'<annotations>', b'<annotations ')]
    if not files:
        return None
    splits: dict[str, list[_Image]] = {}
    names: dict[str, None] = {}
    remarks = []
    for path in files:
        own = listing.split_of_file(path)
        with naming(path):
            root = read_xml(path)
            names |= dict.fromkeys(label.text.strip() for label in root.iterfind('meta//labels/label/name') if label.text)
            for image in [*_images(path, root), *_frames(path, root, listing, remarks)]:
                splits.setdefault(split_name(image.subset) or own, []).append(image)
    return Found('CVAT\'s XML format', splits, lambda image: _read(image, listing), list(names) or None, remarks)


def _images(path: Path, root: Element) -> Iterator[_Image]:
    for entry in root.iterfind('image'):
        size = (int(number(entry.get('width'), 'width')), int(number(entry.get('height'), 'height')))
        yield _Image(path, entry.get('name') or '', entry.get('subset') or '', size, list(entry))


def _frames(path: Path, root: Element, listing: Listing, remarks: list[tuple[Remark, str]]) -> Iterator[_Image]:
    """Images of a video's frames, whose objects are tracks."""
    tracks = root.findall('track')
    if not tracks:
        return
    shapes: dict[int, list[Element]] = {}
    for track in tracks:
        for shape in track:
            if shape.get('outside') != '1':
                shape.set('label', track.get('label') or '')
                shapes.setdefault(int(number(shape.get('frame'), 'frame')), []).append(shape)
    size = root.find('meta//original_size')
    if size is None:
        raise LabelError('has tracks and no original_size')
    width, height = (int(number(size.findtext(key), key)) for key in ('width', 'height'))
    numbered = _numbered(path, root, listing)
    remarks += [(_NO_FRAME, f'frame {frame}') for frame in sorted(set(shapes) - set(numbered))]
    for frame, image in sorted(numbered.items()):
        yield _Image(path, str(image), '', (width, height), shapes.get(frame, []))


def _numbered(path: Path, root: Element, listing: Listing) -> dict[int, Path]:
    """Images by their frame: those that CVAT takes out of a video, `frame_000000`, by number, others in their order.

    Raises:
        LabelError: there are as many or other images than one video has.
    """
    images = [image for image in listing.photos if image.is_relative_to(path.parent)]
    numbers = [re.fullmatch(r'frame_(\d+)', image.stem) for image in images]
    numbered = ({int(number[1]): image for number, image in zip(numbers, images, strict=True)} if all(numbers)
                else dict(enumerate(images)))
    size = root.findtext('meta//size')
    if len(numbered) < len(images) or (not all(numbers) and size and int(number(size, 'size')) != len(images)):
        raise LabelError(f'has tracks of {size or "some"} frames, and there are {len(images)} images below its folder: put each '
                         'video with its XML file into a folder of its own')
    return numbered


def _read(entry: _Image, listing: Listing) -> LabeledImage:
    base = entry.path.parent
    folders = [base / 'images' / entry.subset, base / 'images', base, base.parent / 'images']
    found = LabeledImage(listing.image(entry.name, folders, split_name(entry.subset) or ''), entry.size)
    groups: dict[tuple, list[Element]] = {}  # parts of one object, or its box and its outline
    for i, shape in enumerate(entry.shapes):
        if shape.tag in _WITHOUT_AREA:
            found.remarks.append((_UNUSED, f'{shape.tag} of {entry.name}'))
        else:
            group = shape.get('group_id') or '0'
            groups.setdefault((shape.get('label'), group) if group != '0' else (i,), []).append(shape)
    for shapes in groups.values():
        found.instances += one_object([_instance(shape, entry.size) for shape in shapes], entry.size)
    return found


def _instance(shape: Element, size: tuple[int, int]) -> Instance:
    label, angle = shape.get('label'), number(shape.get('rotation') or 0, 'rotation')
    if not label:
        raise LabelError(f'a {shape.tag} without a label')

    def given(*keys: str) -> list[float]:
        return [number(shape.get(key), key) for key in keys]

    if shape.tag == 'box':
        box = corners_box(*given('xtl', 'ytl', 'xbr', 'ybr'))
        return Instance(label, segmentation=[rotated_rectangle(box, angle)]) if angle % 180 else Instance(label, box=box)
    if shape.tag == 'polygon':
        points = [number(value, 'a coordinate') for value in re.split('[,;]', shape.get('points') or '')]
        return Instance(label, segmentation=[points])
    if shape.tag == 'ellipse':
        return Instance(label, segmentation=[ellipse(*given('cx', 'cy', 'rx', 'ry'), angle)])
    if shape.tag == 'mask':  # run lengths row by row within its box, of background first
        left, top, width, height = map(int, given('left', 'top', 'width', 'height'))
        counts = [int(number(value, 'a run length')) for value in (shape.get('rle') or '').split(',')]
        if min(counts) < 0 or sum(counts) != width * height or width * height > size[0] * size[1]:
            raise LabelError(f'a mask of {sum(counts)} pixels whose box has {width}×{height}')
        mask = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(height, width)
        return Instance(label, segmentation=run_lengths(mask, left, top, size))
    raise LabelError(f'a shape {shape.tag}, which is not known')
