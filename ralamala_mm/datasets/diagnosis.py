"""Why annotations cannot be used, in a sentence; looked into only after something went wrong, as files are large."""

import json
from collections.abc import Iterator
from pathlib import Path

from torch.utils.data import Dataset

from ralamala_mm.errors import UserError

_COCO_PARTS = ('images', 'categories', 'annotations')
NO_ANNOTATIONS = 'has no list "annotations", which the COCO format asks for'


def explain_dataset_error(dataset: dict, error: Exception) -> None:
    """Turns the failure to build a COCO-format data set into a sentence if its file explains it; else returns.

    Raises:
        UserError: the annotation file is broken.
    """
    if isinstance(error, UserError):
        raise error
    for path in _annotation_files(dataset):
        if path.suffix == '.json' and path.is_file():
            problem = coco_problem(path)
            if problem:
                raise UserError(f'annotation file {path} {problem}') from error


def _annotation_files(dataset: dict) -> Iterator[Path]:
    for inner in dataset.get('datasets') or [dataset.get('dataset')]:
        if inner:
            yield from _annotation_files(inner)
    if dataset.get('ann_file'):
        yield Path(dataset.get('data_root') or '', dataset['ann_file'])


def coco_problem(path: Path) -> str | None:
    """What is wrong with a COCO annotation file, or None."""
    if path.stat().st_size == 0:
        return 'is empty'
    try:
        content = json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        return f'is not valid JSON ({error.msg} in line {error.lineno}, column {error.colno}); was its download cut short?'
    except UnicodeDecodeError:
        return 'is not a text file'
    if not isinstance(content, dict):
        return f'holds a {type(content).__name__}, not the object with images, annotations and categories of COCO'
    for part in _COCO_PARTS:
        if not isinstance(content.get(part), list):
            return NO_ANNOTATIONS if part == 'annotations' else f'has no list "{part}", which the COCO format asks for'
    if not content['annotations']:
        return 'has no instances: its list "annotations" is empty'
    required = dict(images=('id', 'file_name', 'height', 'width'), annotations=('id', 'image_id', 'category_id', 'bbox'),
                    categories=('id', 'name'))
    for part, keys in required.items():
        for position, entry in enumerate(content[part]):
            lacking = [key for key in keys if not isinstance(entry, dict) or key not in entry]
            if lacking:
                return f'has an entry without "{lacking[0]}" in "{part}" (number {position})'
    ids = [annotation['id'] for annotation in content['annotations']]
    if len(set(ids)) != len(ids):
        return 'uses an annotation id twice'
    return None


def check_dataset(dataset: Dataset) -> None:
    """Whether a built detection data set has anything to train on or to evaluate against.

    Raises:
        UserError: it has no images, or none of them has an instance of the data set's classes.
    """
    if not hasattr(dataset, 'get_data_info') or not getattr(dataset, 'ann_file', ''):
        return
    classes = dataset.metainfo.get('classes') or ()
    remedy = ('the file\'s categories must bear the names of the config\'s classes, '
              f'{", ".join(map(str, classes[:5]))}{", …" if len(classes) > 5 else ""}; metainfo=dict(classes=…) sets them')
    if len(dataset) == 0:
        raise UserError(f'annotation file {dataset.ann_file} gives no usable image: {_coco_problem_of(dataset) or remedy}')
    if 'instances' not in dataset.get_data_info(0) or any(dataset.get_data_info(i)['instances'] for i in range(len(dataset))):
        return
    problem = _coco_problem_of(dataset)
    if dataset.test_mode and problem == NO_ANNOTATIONS:
        return  # pictures to predict on, such as COCO's test-dev, whose file has no annotations by intent
    raise UserError(f'annotation file {dataset.ann_file} has no instances: {problem or remedy}')


def _coco_problem_of(dataset: Dataset) -> str | None:
    path = Path(dataset.ann_file)
    return coco_problem(path) if path.suffix == '.json' and path.is_file() else None
