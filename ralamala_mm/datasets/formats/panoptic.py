"""COCO panoptic: a JSON file of segments, and for each image a PNG whose colors are their numbers.

Format: https://cocodataset.org/#format-data. Segments of things are instances; those of stuff, such as sky, are not.
"""

from pathlib import Path

import numpy as np
from msgspec import Struct
from PIL import Image

from ralamala_mm.datasets.locating import has_text
from ralamala_mm.datasets.report import NOTE

from .json_files import read_json
from .labels import Found, Instance, LabeledImage, LabelError, Listing, Remark, naming, reading_image, run_lengths

_NO_PIXELS = Remark(NOTE, 'segments without a pixel', 'not used')


class _Segment(Struct):
    id: int
    category_id: int
    iscrowd: int = 0


class _Annotation(Struct):
    image_id: int | str
    file_name: str
    segments_info: list[_Segment]


class _Image(Struct):
    id: int | str
    file_name: str
    width: int
    height: int


class _Category(Struct):
    id: int
    name: str
    isthing: int = 1


class _File(Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


def find(listing: Listing) -> Found | None:
    """The panoptic data set below a folder, if there is one.

    Raises:
        UserError: a file that is called one is none.
    """
    files = [path for path in listing.of('.json') if has_text(path, b'"segments_info"')]
    if not files:
        return None
    splits: dict[str, list] = {}
    is_thing: dict[str, bool] = {}
    for path in files:
        with naming(path):
            content = read_json(path, _File)
        categories = {category.id: category for category in content.categories}
        is_thing |= {category.name: bool(category.isthing) for category in content.categories}
        images = {image.id: image for image in content.images}
        split = listing.split_of_file(path)
        splits.setdefault(split, []).extend((path, images.get(entry.image_id), entry, categories, split)
                                            for entry in content.annotations)
    return Found('COCO panoptic format', splits, lambda item: _read(*item, listing), list(is_thing),
                 stuff=frozenset(name for name, thing in is_thing.items() if not thing),
                 mask_dirs=frozenset(folder for path in files for folder in _folders(path)), has_background=False)


def _folders(path: Path) -> list[Path]:
    """Where the PNG files of an annotation file may lie."""
    return [path.with_suffix(''), path.parent, path.parent.parent / path.stem]


def _read(path: Path, image: _Image | None, entry: _Annotation, categories: dict[int, _Category], split: str,
          listing: Listing) -> LabeledImage:
    if image is None:
        raise LabelError(f'has an annotation of the image {entry.image_id}, which it does not list')
    found = LabeledImage(listing.image(image.file_name, [path.parent], split), (image.width, image.height))
    folders = _folders(path)
    mask = next((folder / entry.file_name for folder in folders if (folder / entry.file_name).is_file()), None)
    if mask is None:
        raise LabelError(f'names {entry.file_name}, which is not in {folders[0]}')
    with reading_image(f'names {mask.name}, which'), Image.open(mask) as opened:
        numbers = np.asarray(opened.convert('RGB')).astype(np.uint32) @ np.array([1, 1 << 8, 1 << 16], np.uint32)
    if numbers.shape != (image.height, image.width):
        raise LabelError(f'gives {image.file_name} {image.width}×{image.height} pixels, and {mask.name} has '
                         f'{numbers.shape[1]}×{numbers.shape[0]}')
    for segment in entry.segments_info:
        if segment.category_id not in categories:
            raise LabelError(f'has a segment of the category {segment.category_id}, which it does not list')
        category = categories[segment.category_id]
        encoded = run_lengths(numbers == segment.id, 0, 0, (image.width, image.height))
        if encoded is None:
            found.remarks.append((_NO_PIXELS, f'segment {segment.id} of {entry.file_name}'))
        else:
            found.instances.append(Instance(category.name, segmentation=encoded, crowd=bool(segment.iscrowd)))
    return found
