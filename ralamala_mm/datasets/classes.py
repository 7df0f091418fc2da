"""The classes of a config: which it has, their colors, and giving it others."""

import colorsys
import inspect
from collections.abc import Sequence
from importlib import import_module

from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS

from .walking import datasets_of

Color = tuple[int, int, int]  # red, green, blue from 0 to 255
_GOLDEN_ANGLE = 0.381966  # of a circle: hues that follow each other lie far apart, however many there are


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
    """Whether a segmentation data set ignores 0 and counts classes from 1, by its own setting or by its type."""
    if 'reduce_zero_label' in dataset:
        return bool(dataset.reduce_zero_label)
    parameters = inspect.signature(dataset_class(config, dataset)).parameters
    return 'reduce_zero_label' in parameters and parameters['reduce_zero_label'].default is True


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
