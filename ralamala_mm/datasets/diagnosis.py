"""Why annotations cannot be used, in a sentence; looked into only after something went wrong, as files are large."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from ralamala_mm.errors import UserError

from .coco_file import NO_ANNOTATIONS, read_coco
from .config import leaf_datasets
from .images import SHARED_REMEDY, shared_files

_PROBED = 100  # samples that tell whether names were written on Windows; reading all of a large set takes seconds
_NOTHING_LEFT = 'need at least one array'  # MMEngine's data sets when they keep their list of samples


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
    content, problem = read_coco(path, fast=False)
    if problem:
        return problem
    ids = content['annotations'].ids.tolist()
    for position, (given, lacks_area) in enumerate(zip(ids, np.isnan(content['annotations'].areas).tolist(), strict=True)):
        if given is None or lacks_area:
            return f'has an entry without "{"id" if given is None else "area"}" in "annotations" (number {position})'
    if len(set(ids)) != len(ids):
        return 'uses an annotation id twice'
    return None


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
