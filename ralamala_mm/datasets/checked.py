"""Puts the checked readers of images, masks and instances into a config's pipelines, and says what they do with bad files."""

from pathlib import Path

from mmengine.config import Config, ConfigDict

from ralamala_mm.errors import UserError

from .classes import config_classes
from .walking import datasets_of, transforms_of

LIST_FILE = 'skipped_images.txt'
IMAGES = 'ralamala_mm.datasets.LoadCheckedImage'
_MASKS = 'ralamala_mm.datasets.mask_loading.LoadCheckedMask'
_INSTANCES = 'ralamala_mm.datasets.instance_loading.LoadCheckedInstances'
CHECKED = (IMAGES, _MASKS, _INSTANCES)


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
        raise UserError(f'skip_bad_images is {limit!r}: it takes the number of images that may be left out, such as 100')
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
