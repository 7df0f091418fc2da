"""The files and folders that a config's data sets name: moved to another root, and checked before anything is built."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict

from ralamala_mm.errors import UserError

from .walking import MODES, datasets_of

_WHERE_TO_GET = {
    'CocoDataset': 'COCO 2017 can be had from https://cocodataset.org/#download',
    'ADE20KDataset': 'ADE20K can be had from http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip',
}
_SHAPES = 'the built-in shapes are made by: python tools/make_shapes.py'


def check_paths(config: Config, modes: Sequence[str]) -> None:
    """Checks data root, annotation files and image folders of what the data loaders of `modes` read.

    Raises:
        UserError: something is missing; the text says which option sets it and where the data can be had.
    """
    for mode, dataset in datasets_of(config, modes):
        _check_dataset_paths(dataset, f'{mode}_dataloader.dataset')
    for mode in modes:
        evaluators = config.get(f'{mode}_evaluator') or []
        for evaluator in [evaluators] if isinstance(evaluators, dict) else evaluators:
            path = evaluator.get('ann_file')
            if path and not _is_remote(path) and not Path(path).is_file():
                raise UserError(f'the annotation file {path} of the metric does not exist: {mode}_evaluator.ann_file names it; '
                                '--data DIR sets it together with the data set')


def set_data_root(config: Config, root: str) -> None:
    """Replaces the config's `data_root` wherever a data set or a metric uses it.

    Raises:
        UserError: the config has no `data_root` at its top.
    """
    old = (config.get('data_root') or '').rstrip('/')
    if not old:
        raise UserError('--data needs a config with data_root at its top; this one has none: '
                        'set the paths with --cfg-options train_dataloader.dataset.data_root=… and so on')
    new = root.rstrip('/') + '/'

    def moved(value):
        if isinstance(value, str) and (value == old or value.startswith(old + '/')):
            return new + value[len(old) + 1:]
        if isinstance(value, dict):
            for key in list(value):
                value[key] = moved(value[key])
        elif isinstance(value, list):
            return [moved(item) for item in value]
        return value

    for key in ('data_root', *(f'{mode}_{part}' for mode in MODES for part in ('dataloader', 'evaluator'))):
        if config.get(key) is not None:
            config[key] = moved(config[key])


def _check_dataset_paths(dataset: ConfigDict, option: str) -> None:
    root = dataset.get('data_root') or ''
    if _is_remote(root) or (dataset.get('backend_args') or {}).get('backend', 'local') != 'local':
        return
    hint = _SHAPES if Path(root).name == 'shapes' else _WHERE_TO_GET.get(dataset.type.split('.')[-1], '')
    advice = '--data DIR sets the folder' + (f'; {hint}' if hint else '')
    if root and not Path(root).is_dir():
        raise UserError(f'the data set\'s folder {root} does not exist: {advice}')
    for key, value, wants_folder in _named_files(dataset):
        path = Path(root, value)
        if _is_remote(value) or (path.is_dir() if wants_folder else path.is_file()):
            continue
        kind = 'image folder' if wants_folder else 'annotation file'
        raise UserError(f'the {kind} {path} does not exist: {option}.{key} names it within the data root; {advice}')


def _named_files(dataset: ConfigDict) -> Iterator[tuple[str, str, bool]]:
    """(option, path within the root, whether it is a folder) of everything the data set names."""
    if dataset.get('ann_file'):
        yield 'ann_file', dataset.ann_file, False
    for name, value in (dataset.get('data_prefix') or {}).items():
        if value:
            yield f'data_prefix.{name}', value, True


def _is_remote(path: str) -> bool:
    return '://' in path
