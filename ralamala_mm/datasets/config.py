"""The data sets of a config: walks over them, their classes and paths, and the checked readers in their pipelines."""

import colorsys
import inspect
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS

from ralamala_mm.errors import UserError

MODES = ('train', 'val', 'test')
Color = tuple[int, int, int]  # red, green, blue from 0 to 255
_GOLDEN_ANGLE = 0.381966  # of a circle: hues that follow each other lie far apart, however many there are
_WHERE_TO_GET = {
    'CocoDataset': 'COCO 2017 can be downloaded from https://cocodataset.org/#download',
    'ADE20KDataset': 'ADE20K can be downloaded from http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip',
}
_SHAPES = 'the built-in shapes are made by: python tools/make_shapes.py'
LIST_FILE = 'skipped_images.txt'
IMAGES = 'ralamala_mm.datasets.LoadCheckedImage'
_MASKS = 'ralamala_mm.datasets.mask_loading.LoadCheckedMask'
_INSTANCES = 'ralamala_mm.datasets.instance_loading.LoadCheckedInstances'
CHECKED = (IMAGES, _MASKS, _INSTANCES)


def leaf_datasets(dataset: ConfigDict) -> Iterator[ConfigDict]:
    """The data set configs inside a data set config and its wrappers."""
    inner = dataset.get('datasets') or ([dataset['dataset']] if 'dataset' in dataset else [])
    if not inner:
        yield dataset
    for item in inner:
        yield from leaf_datasets(item)


def is_segmentation(config: Config) -> bool:
    """Whether the config belongs to MMSegmentation."""
    return config.get('default_scope') == 'mmseg'


def datasets_of(config: Config, modes: Sequence[str] = MODES) -> Iterator[tuple[str, ConfigDict]]:
    """(mode, data set config) for every data set that the data loaders of `modes` read."""
    for mode in modes:
        loader = config.get(f'{mode}_dataloader')
        for dataset in leaf_datasets(loader.dataset) if loader else ():
            yield mode, dataset


def transforms_of(dataset: ConfigDict) -> Iterator[ConfigDict]:
    """Every transform of a data set's pipeline, those within others such as TestTimeAug too."""

    def inner(transforms) -> Iterator[ConfigDict]:
        for transform in transforms or ():
            if isinstance(transform, dict):
                yield transform
                yield from inner(transform.get('transforms'))
            elif isinstance(transform, list | tuple):
                yield from inner(transform)

    return inner(dataset.get('pipeline'))


def replace_transforms(config: Config, replace: Callable[[ConfigDict], object]) -> None:
    """Applies `replace` in place to every transform of every data set's pipeline."""
    for _, dataset in datasets_of(config):
        for transform in transforms_of(dataset):
            replace(transform)


def dataset_class(config: Config, dataset: ConfigDict) -> type | None:
    """The class that a data set's `type` names, in the config's scope."""
    scope = config.get('default_scope') or 'mmengine'
    if scope in ('mmdet', 'mmseg'):
        import_module(f'{scope}.datasets')
    with DATASETS.switch_scope_and_registry(scope) as registry:
        return registry.get(dataset.type)


def config_classes(config: Config) -> tuple[str, ...]:
    """The classes that the config's data sets are read with, by their `metainfo` or their type; () if neither says."""
    for _, dataset in datasets_of(config):
        classes = (dataset.get('metainfo') or {}).get('classes')
        if classes := classes or getattr(dataset_class(config, dataset), 'METAINFO', {}).get('classes'):
            return tuple(classes)
    return ()


def reduces_zero_label(config: Config, dataset: ConfigDict) -> bool:
    """Whether a data set's masks hold 0 for no class and classes from 1: its own setting, else its class's default.

    False for those that know no such setting, as those of detectors.
    """
    if 'reduce_zero_label' in dataset:
        return bool(dataset.reduce_zero_label)
    parameters = [inspect.signature(kind).parameters for kind in getattr(dataset_class(config, dataset), '__mro__', ())[:-1]]
    return next((known['reduce_zero_label'].default is True for known in parameters if 'reduce_zero_label' in known), False)


def values_under(settings: object, key: str) -> Iterator:
    """Every value under `key`, at any depth."""
    if isinstance(settings, dict):
        for name, value in settings.items():
            yield from [value] if name == key else values_under(value, key)
    elif isinstance(settings, list | tuple):
        for value in settings:
            yield from values_under(value, key)


def set_num_classes(part: ConfigDict | list, number: int) -> None:
    """Sets every `num_classes` within a model's config, in place: box, mask, decode and auxiliary heads, of all stages.

    A loss's `class_weight`, which holds a weight for each of the config's own classes, is dropped.
    """
    if isinstance(part, dict):
        part.pop('class_weight', None)
        if 'num_classes' in part:
            part['num_classes'] = number
    for value in part.values() if isinstance(part, dict) else part:
        if isinstance(value, dict | list):
            set_num_classes(value, number)


def distinct_colors(count: int) -> list[Color]:
    """So many colors, the same ones each time; neighbors differ most."""
    return [tuple(round(255 * value) for value in colorsys.hsv_to_rgb(i * _GOLDEN_ANGLE % 1, 0.75 - i % 2 * 0.2, 0.95))
            for i in range(count)]


def set_classes(config: Config, classes: Sequence[str], palette: Sequence[Color] | None = None) -> None:
    """Gives all data sets of a config these classes, and its heads as many outputs.

    Args:
        config: changed in place.
        classes: names, in the order of their labels.
        palette: a color for each class; `distinct_colors` by default.
    """
    metainfo = dict(classes=tuple(classes), palette=list(palette or distinct_colors(len(classes))))
    for _, dataset in datasets_of(config):
        dataset.metainfo = ConfigDict(metainfo)
    set_num_classes(config.model, len(classes))


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


def use_checked_loading(config: Config) -> None:
    """Makes the readers of images, masks and instances of all pipelines ours, in place."""
    annotations = dict(mmseg=_MASKS, mmdet=_INSTANCES).get(config.get('default_scope'))
    for mode, dataset in datasets_of(config):
        for transform in transforms_of(dataset):
            scope, _, name = str(transform.get('type')).rpartition('.')
            if name == 'LoadImageFromFile' and scope in ('', 'mmcv', 'mmdet', 'mmseg'):
                transform['type'] = IMAGES
            elif name == 'LoadAnnotations' and scope in ('', config.get('default_scope')) and annotations:
                transform['type'] = annotations
            if transform.get('type') == _MASKS:
                transform.update(classes=_class_count(config), ignore_index=_ignore_index(config))
            elif transform.get('type') == _INSTANCES:
                transform['evaluated'] = mode != 'train'


def use_skipping(config: Config, limit: int | None = None, starts_list: bool = False) -> None:
    """Lets training leave out images that cannot be used, and list them in the work directory; evaluation never does.

    Args:
        config: changed in place, after `use_checked_loading`. Its `skip_bad_images` is the limit unless one is given.
        limit: how many distinct images may be left out; None: the config's, and the first is an error if it has none.
        starts_list: begin the list anew, unless the training is resumed.

    Raises:
        UserError: the limit is not a number of images.
    """
    if limit is not None:
        config.skip_bad_images = limit
    limit = config.get('skip_bad_images')
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 0):
        raise UserError(f'skip_bad_images must be a non-negative integer, got {limit!r}')
    list_file = Path(config.work_dir, LIST_FILE).absolute()
    if starts_list and not config.get('resume'):
        list_file.unlink(missing_ok=True)
    policy = dict(bad_files=dict(limit=limit, list_file=str(list_file))) if limit is not None else {}
    for _, dataset in datasets_of(config, ['train']):
        for transform in transforms_of(dataset):
            if transform.get('type') in CHECKED:
                transform.pop('bad_files', None)
                transform.update(ConfigDict(policy))


def _class_count(config: Config) -> int | None:
    return len(config_classes(config)) or None


def _ignore_index(config: Config) -> int:
    head = (config.get('model') or {}).get('decode_head') or {}
    return (head[0] if isinstance(head, list) else head).get('ignore_index', 255)
