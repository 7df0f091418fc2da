"""The classes of a config: which it has, and giving it others."""

from collections.abc import Sequence
from importlib import import_module

from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS

from .walking import datasets_of


def config_classes(config: Config) -> tuple[str, ...]:
    """The classes that the config's data sets are read with, by their `metainfo` or their type; () if neither says."""
    scope = config.get('default_scope') or 'mmengine'
    if scope in ('mmdet', 'mmseg'):
        import_module(f'{scope}.datasets')
    for _, dataset in datasets_of(config):
        if classes := (dataset.get('metainfo') or {}).get('classes'):
            return tuple(classes)
        with DATASETS.switch_scope_and_registry(scope) as registry:
            kind = registry.get(dataset.type)
        if classes := getattr(kind, 'METAINFO', {}).get('classes'):
            return tuple(classes)
    return ()


def set_num_classes(part: ConfigDict | list, number: int) -> None:
    """Sets every `num_classes` within a model's config, in place: box, mask, decode and auxiliary heads, of all stages."""
    for value in part.values() if isinstance(part, dict) else part:
        if isinstance(value, dict | list):
            set_num_classes(value, number)
    if isinstance(part, dict) and 'num_classes' in part:
        part['num_classes'] = number


def set_classes(config: Config, classes: Sequence[str], palette: Sequence[Sequence[int]] | None = None) -> None:
    """Gives all data sets of a config these classes, and its heads as many outputs."""
    metainfo = dict(classes=tuple(classes), **(dict(palette=[tuple(colour) for colour in palette]) if palette else {}))
    for _, dataset in datasets_of(config):
        dataset.metainfo = ConfigDict(metainfo)
    set_num_classes(config.model, len(classes))
