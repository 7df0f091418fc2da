"""Why annotations cannot be used, in a sentence; looked into only after something went wrong, as files are large."""

import json
from collections.abc import Sequence
from pathlib import Path

from torch.utils.data import Dataset

from ralamala_mm.errors import UserError

from .config import leaf_datasets
from .images import SHARED_REMEDY, shared_files

_COCO_PARTS = ('images', 'categories', 'annotations')
_REQUIRED = dict(images=('id', 'file_name', 'height', 'width'), annotations=('image_id', 'category_id', 'bbox'),
                 categories=('id', 'name'))
# What bears the name of an annotation file by mistake, by its first bytes.
_OTHER_FILES = {
    b'PK\x03\x04': 'is a ZIP archive: unpack it, and name the file that is in it',
    b'\x1f\x8b': 'is compressed with gzip: unpack it',
    b'version https://git-lfs': 'is a pointer of Git LFS: `git lfs pull` fetches the file itself',
    b'<': 'is a web page or XML, not JSON: an error or a login page was saved in its place'}
_SPACE = b' \t\r\n'
_FARTHEST = 1e9  # pixels, or square pixels
_PROBED = 100  # samples that tell whether names were written on Windows; reading all of a large set takes seconds
_NOTHING_LEFT = 'need at least one array'  # MMEngine's data sets when they keep their list of samples
NO_ANNOTATIONS = 'has no list "annotations", which the COCO format asks for'


def explain_dataset_error(dataset: dict, error: Exception) -> None:
    """Turns the failure to build a data set into a sentence if its files explain it; else returns.

    Raises:
        UserError: the annotation file is broken, or nothing is left to read.
    """
    if isinstance(error, UserError):
        raise error
    for inner in leaf_datasets(dataset):
        path = Path(inner.get('data_root') or '', inner.get('ann_file') or '')
        if problem := _json_problem(path):
            raise UserError(f'annotation file {path} {problem}') from error
        if _NOTHING_LEFT in str(error):
            classes = (inner.get('metainfo') or {}).get('classes') or ()
            prefixes = ', '.join(f'{key}={value}' for key, value in (inner.get('data_prefix') or {}).items())
            why = _classes_remedy(classes) if path.suffix == '.json' else f'{prefixes} and the suffixes must name its files'
            raise UserError(f'{path} gives no usable image: {why}') from error


def _json_problem(path: Path) -> str | None:
    """`coco_problem` of a local JSON file; None for any other annotations."""
    return coco_problem(path) if path.suffix == '.json' and path.is_file() else None


def coco_problem(path: Path) -> str | None:
    """What is wrong with a COCO annotation file, or None."""
    content, problem = read_coco(path)
    if problem:
        return problem
    for position, annotation in enumerate(content['annotations']):
        if lacking := [key for key in ('id', 'area') if key not in annotation]:
            return f'has an entry without "{lacking[0]}" in "annotations" (number {position})'
    ids = [annotation['id'] for annotation in content['annotations']]
    if len(set(ids)) != len(ids):
        return 'uses an annotation id twice'
    return None


def read_coco(path: Path) -> tuple[dict, str | None]:
    """What a COCO annotation file holds, and why that is not what the format asks for, or None."""
    try:
        text = path.read_bytes()
        if kind := next((kind for start, kind in _OTHER_FILES.items() if text[:64].lstrip(_SPACE).startswith(start)), None):
            return {}, kind
        content = json.loads(text or b'""')
    except OSError as error:
        return {}, f'cannot be read ({error.strerror})'
    except json.JSONDecodeError as error:
        return {}, f'is not valid JSON ({error.msg} in line {error.lineno}, column {error.colno}); was its download cut short?'
    except UnicodeDecodeError:
        return {}, 'is not a text file'
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of brackets
        return {}, f'is not valid JSON ({error})'
    if path.stat().st_size == 0:
        return {}, 'is empty'
    return content, _structure_problem(content)


def _structure_problem(content: object) -> str | None:
    if not isinstance(content, dict):
        return f'holds a {type(content).__name__}, not the object with images, annotations and categories of COCO'
    for part in _COCO_PARTS:
        if not isinstance(content.get(part), list):
            return NO_ANNOTATIONS if part == 'annotations' else f'has no list "{part}", which the COCO format asks for'
    for part in ('images', 'categories'):
        if not content[part]:
            return f'lists no {part}'
    if not content['annotations']:
        return 'has no instances: its list "annotations" is empty'
    for part, keys in _REQUIRED.items():
        for position, entry in enumerate(content[part]):
            lacking = [key for key in keys if not isinstance(entry, dict) or key not in entry]
            if lacking:
                return f'has an entry without "{lacking[0]}" in "{part}" (number {position})'
            if problem := _ENTRY_PROBLEMS[part](entry):
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


def _annotation_problem(annotation: dict) -> str | None:
    box = annotation['bbox']
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        return 'a bbox that is not four numbers: x, y, width, height'
    if not _is_number(annotation.get('area') or 0) or (annotation.get('iscrowd') or 0) not in (0, 1):
        return 'an area that is no number, or an iscrowd that is neither 0 nor 1'
    ids_are_good = _is_id(annotation['image_id']) and _is_id(annotation['category_id']) and _is_id(annotation.get('id') or 0)
    return None if ids_are_good else 'an id that is neither a number nor a text'


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < _FARTHEST  # false for NaN, too


def _is_id(value: object) -> bool:
    return isinstance(value, int | str) or (isinstance(value, float) and value.is_integer())


_ENTRY_PROBLEMS = dict(images=_image_problem, annotations=_annotation_problem, categories=_category_problem)


def check_dataset(dataset: Dataset) -> None:
    """Whether a built data set has anything to train on or to evaluate against, and each sample its own file.

    Raises:
        UserError: it has no images, none of them has an instance of the data set's classes, or names lead to one file.
    """
    if not hasattr(dataset, 'get_data_info') or not getattr(dataset, 'ann_file', ''):
        return
    classes = dataset.metainfo.get('classes') or ()
    remedy = _classes_remedy(classes)
    path = Path(dataset.ann_file)
    if len(dataset) == 0:
        raise UserError(f'annotation file {path} gives no usable image: {_json_problem(path) or remedy}')
    if problem := names_problem(dataset):
        raise UserError(f'annotation file {path} has {problem}')
    if 'instances' not in dataset.get_data_info(0) or any(dataset.get_data_info(i)['instances'] for i in range(len(dataset))):
        return
    problem = _json_problem(path)
    if dataset.test_mode and problem == NO_ANNOTATIONS:
        return  # images to predict on, such as COCO's test-dev, whose file has no annotations by intent
    raise UserError(f'annotation file {path} has no instances: {problem or remedy}')


def names_problem(dataset: Dataset) -> str | None:
    """The names of a built data set's images or masks that lead to the same files, in a sentence; None if all have their own."""
    for key in ('img_path', 'seg_map_path'):
        probed = range(0, len(dataset), max(1, len(dataset) // _PROBED))
        if not any('\\' in str(dataset.get_data_info(i).get(key)) for i in probed):
            continue
        names = dict.fromkeys(str(dataset.get_data_info(i).get(key)) for i in range(len(dataset)))
        if shared := shared_files(names):
            return f'different names that lead to one file, such as {shared[0]}; {SHARED_REMEDY}'
    return None


def _classes_remedy(classes: Sequence[str]) -> str:
    return ('the file\'s categories must bear the names of the config\'s classes, '
            f'{", ".join(map(str, classes[:5]))}{", …" if len(classes) > 5 else ""}; metainfo=dict(classes=…) sets them')
