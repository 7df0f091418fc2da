"""COCO annotation files read: images and categories as they are, annotations as columns; what is wrong is said."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta, Raw, Struct

from .coco_annotations import Annotations, Id

# What bears the name of an annotation file by mistake, by its first bytes.
_OTHER_FILES = {
    b'PK\x03\x04': 'is a ZIP archive: unpack it, and name the file that is in it',
    b'\x1f\x8b': 'is compressed with gzip: unpack it',
    b'version https://git-lfs': 'is a pointer of Git LFS: `git lfs pull` fetches the file itself',
    b'<': 'is a web page or XML, not JSON: an error or a login page was saved in its place'}
_SPACE = b' \t\r\n'
_PARTS = ('images', 'categories', 'annotations')
_REQUIRED = dict(images=('id', 'file_name', 'height', 'width'), annotations=('image_id', 'category_id', 'bbox'),
                 categories=('id', 'name'))
_FARTHEST = 1e9  # pixels, or square pixels
NO_ANNOTATIONS = 'has no list "annotations", which the COCO format asks for'


class _Image(Struct, gc=False):
    """What every image has to have; the others of its keys are kept."""

    id: Id
    height: Annotated[float, Meta(gt=0, lt=_FARTHEST)]
    width: Annotated[float, Meta(gt=0, lt=_FARTHEST)]
    file_name: str = ''
    coco_url: str = ''


class _File(Struct):
    images: Raw
    categories: list[dict]
    annotations: list[Raw]


def read_coco(path: Path, fast: bool = True) -> tuple[dict, str | None]:
    """What a COCO annotation file holds, and why that is not what the format asks for, or None.

    Args:
        path: the file.
        fast: False reads it as pycocotools does, which minds damage in texts that nobody needs too.

    Returns:
        a dict with `images` and `categories` as they are (but those of LVIS, which have a `coco_url` for a `file_name`, get one),
        and `annotations` as `Annotations`; the rest is left out.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        return {}, f'cannot be read ({error.strerror})'
    if not text:
        return {}, 'is empty'
    if not fast:
        return _read_slowly(text)
    try:
        return _read_fast(text), None
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        logging.getLogger(__name__).debug('%s is read by Python, which says what is wrong or reads it: %s', path, error)
    return _read_slowly(text)


def _read_fast(text: bytes) -> dict:
    """What a file without any peculiarity holds.

    Raises:
        msgspec.DecodeError, ValueError: it has one.
    """
    found = msgspec.json.decode(text, type=_File)
    if not all(_is_id(image.id) and (image.file_name or image.coco_url)
               for image in msgspec.json.decode(found.images, type=list[_Image])):
        raise ValueError('ids or names of images')
    content = dict(images=msgspec.json.decode(found.images, type=list[dict]), categories=found.categories,
                   annotations=found.annotations)
    _name_images(content['images'])
    if problem := _entries_problem(content, ('categories',)):
        raise ValueError(problem)
    annotations = Annotations.read(found.annotations)
    if max(np.abs(annotations.boxes).max(), np.nanmax(np.abs(annotations.areas), initial=0)) >= _FARTHEST:
        raise ValueError('a box or an area too large')
    return content | dict(annotations=annotations)


def _read_slowly(text: bytes) -> tuple[dict, str | None]:
    if kind := next((kind for start, kind in _OTHER_FILES.items() if text[:64].lstrip(_SPACE).startswith(start)), None):
        return {}, kind
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        return {}, f'is not valid JSON ({error.msg} in line {error.lineno}, column {error.colno}); was its download cut short?'
    except UnicodeDecodeError:
        return {}, 'is not a text file'
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of brackets
        return {}, f'is not valid JSON ({error})'
    if problem := _structure_problem(content):
        return content if isinstance(content, dict) else {}, problem
    return {part: content[part] for part in _PARTS} | dict(annotations=Annotations.of_dicts(content['annotations'])), None


def _structure_problem(content: object) -> str | None:
    if not isinstance(content, dict):
        return f'holds a {type(content).__name__}, not the object with images, annotations and categories of COCO'
    for part in _PARTS:
        if not isinstance(content.get(part), list):
            return NO_ANNOTATIONS if part == 'annotations' else f'has no list "{part}", which the COCO format asks for'
    _name_images(content['images'])
    return _entries_problem(content) or next(
        (f'has {problem} in "annotations" (number {position})' for position, entry in enumerate(content['annotations'])
         if (problem := _annotation_problem(entry))), None)


def _name_images(images: Sequence[object]) -> None:
    """LVIS names images by the address of COCO's: .../train2017/000000391895.jpg."""
    for image in images:
        if isinstance(image, dict) and 'file_name' not in image and isinstance(image.get('coco_url'), str):
            image['file_name'] = '/'.join(image['coco_url'].split('/')[-2:])


def _entries_problem(content: dict, parts: Sequence[str] = tuple(_REQUIRED)) -> str | None:
    """What is wrong with lists, and with the entries of some parts; of annotations only whether keys are missing."""
    for part in ('images', 'categories'):
        if not content[part]:
            return f'lists no {part}'
    if not content['annotations']:
        return 'has no instances: its list "annotations" is empty'
    for part in parts:
        for position, entry in enumerate(content[part]):
            lacking = [key for key in _REQUIRED[part] if not isinstance(entry, dict) or key not in entry]
            if lacking:
                return f'has an entry without "{lacking[0]}" in "{part}" (number {position})'
            if part in _ENTRY_PROBLEMS and (problem := _ENTRY_PROBLEMS[part](entry)):
                return f'has {problem} in "{part}" (number {position})'
    return None


def _image_problem(image: dict) -> str | None:
    if not isinstance(image['file_name'], str) or not image['file_name']:
        return 'a file_name that is no text'
    if not all(_is_number(image[key]) and image[key] > 0 for key in ('height', 'width')):
        return 'an image without a height and width in numbers'
    return None if _is_id(image['id']) else 'an id that is neither a number nor a text'


def _category_problem(category: dict) -> str | None:
    if not _is_id(category['id']) or not isinstance(category['name'], str):
        return 'a category whose id is neither a number nor a text, or whose name is not a text'
    return None if isinstance(category.get('supercategory'), str | None) else 'a supercategory that is no text'


_ENTRY_PROBLEMS = dict(images=_image_problem, categories=_category_problem)


def _annotation_problem(annotation: dict) -> str | None:
    box = annotation['bbox']
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        return 'a bbox that is not four numbers: x, y, width, height'
    given = {key: value for key, value in annotation.items() if value is not None}
    if not _is_number(given.get('area', 0)):
        return 'an area that is no number'
    if any(given.get(key, 0) not in (0, 1) for key in ('iscrowd', 'ignore')):
        return 'an iscrowd or ignore that is neither 0 nor 1'
    ids_are_good = _is_id(annotation['image_id']) and _is_id(annotation['category_id']) and _is_id(given.get('id', 0))
    return None if ids_are_good else 'an id that is neither a number nor a text'


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < _FARTHEST  # false for NaN, too


def _is_id(value: object) -> bool:
    return isinstance(value, int | str) or (isinstance(value, float) and value.is_integer())
