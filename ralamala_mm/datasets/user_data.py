"""`--data DIR`: a user's own data inspected, reported, and put into a config without editing it."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

from mmengine.config import Config

from ralamala_mm.errors import UserError

from .coco import find_coco
from .config import check_paths, datasets_of, is_segmentation, set_data_root
from .inspection_cache import inspect_once
from .mask_layouts import find_masks
from .recognize import recognize
from .report import Report
from .use_coco import use_coco_folder
from .use_masks import use_mask_folder

# The settings of a data set that say which data it reads.
_WHERE_AND_WHAT = ('type', 'data_root', 'ann_file', 'data_prefix', 'img_suffix', 'seg_map_suffix', 'reduce_zero_label',
                   'metainfo')
_OTHERS = 'YOLO, Pascal VOC, labelme, CVAT, Open Images, CreateML, Supervisely or VGG Image Annotator'
_COCO = ('COCO annotations such as annotations/instances_train2017.json, annotations/train.json, train/_annotations.coco.json or '
         f'annotations/instances_default.json, and those of {_OTHERS}')
_SIGNS = ('data.yaml', 'annotations.xml', 'ImageSets', 'annotations/*.json', '*annotations*.json', 'meta.json')  # of a data set
_MASKS = ('images with masks such as images/train with masks/train, train/images with train/masks, or images with masks, and '
          f'outlines of COCO, {_OTHERS}')


def use_data(config: Config, root: str, modes: Sequence[str], show: bool = True,
             weights_classes: Sequence[str] | None = None, crowds: str | None = None) -> Report | None:
    """Makes a config read the data in a folder.

    Args:
        config: of a detector on COCO-format data or of a segmentor; changed in place. For other data sets, and for a folder
            that does not exist here, its `data_root` alone is replaced.
        root: the folder.
        modes: the data loaders that will be used, of 'train', 'val', 'test'; those that the config lacks are passed over.
        show: print the report.
        weights_classes: what the weights that are tested were trained on, in their order; None if nothing says so.
        crowds: what COCO's instances marked `iscrowd` are, see `check_split`.

    Returns:
        The report, or None for other data sets.

    Raises:
        UserError: the data cannot be used as it is, and the report says why; or there is nothing that the config can use.
    """
    report = inspect_data(config, root, modes, show, weights_classes, crowds)
    if report and report.errors:
        count = len(report.errors)
        raise UserError(f'the data in {root} cannot be used as it is: {count} kind{"s" if count > 1 else ""} of defect marked '
                        'ERROR in the report above')
    return report


def inspect_data(config: Config, root: str, modes: Sequence[str], show: bool = True,
                 weights_classes: Sequence[str] | None = None, crowds: str | None = None, anew: bool = False) -> Report | None:
    """Inspects the folder and, if the report has no errors, points the config at it: `use_data` without its error.

    Args:
        anew: inspect data that have not changed too, for the report's `contents`, which are not kept.
    """
    folder = Path(root)
    if folder.is_file():
        raise UserError(f'--data {root} is a file: give the folder of the images and annotations, an archive unpacked')
    modes = [mode for mode in modes if config.get(f'{mode}_dataloader')]
    datasets = [(mode, dataset.type.split('.')[-1]) for mode, dataset in datasets_of(config, modes)]
    segments = is_segmentation(config)
    if '://' in root or not folder.is_dir() or not (segments or {kind for _, kind in datasets} == {'CocoDataset'}):
        set_data_root(config, root)
        return None
    if len(datasets) > len(modes):
        raise UserError('--data names one data set, and this config joins several: set their paths with --cfg-options instead')

    def inspect() -> Report | None:
        if segments:
            return use_mask_folder(config, folder, modes, weights_classes, show)
        return use_coco_folder(config, folder, modes, weights_classes, crowds, show)

    report = inspect_once(config, folder, (root, modes, weights_classes, crowds), inspect, anew)
    if report is None:
        _use_as_it_is(config, folder, modes, segments)
        return None
    if show:
        print(report, flush=True)
    if not report.errors and 'val' in modes and 'test' not in modes:
        _test_as_validated(config)
    return report


def _higher(folder: Path) -> str:
    """A sentence about the data set that a folder is a part of, if one of the next two above it has its files."""
    for above in list(folder.absolute().parents)[:2]:
        sign = next((path for name in _SIGNS for path in sorted(above.glob(name))), None)
        if sign:
            return f'a part of a data set, whose {sign.relative_to(above)} is in {above}: give that folder'
    return ''


def _test_as_validated(config: Config) -> None:
    """The test part of the config, which the saved one is used with later, reads what is validated on."""
    validated = dict(datasets_of(config, ['val', 'test']))
    if 'test' in validated:
        for key in _WHERE_AND_WHAT:
            if key in validated['val']:
                validated['test'][key] = deepcopy(validated['val'][key])
        if isinstance(config.get('val_evaluator'), dict) and 'ann_file' in config.val_evaluator and config.get('test_evaluator'):
            config.test_evaluator.ann_file = config.val_evaluator.ann_file


def _use_as_it_is(config: Config, folder: Path, modes: Sequence[str], segments: bool) -> None:
    """Replaces the data root only, and keeps the config's relative paths: a folder in the layout of the config.

    Raises:
        UserError: it is not in that layout either; the text says what was looked for.
    """
    set_data_root(config, str(folder))
    try:
        check_paths(config, modes)
    except UserError as error:
        coco, masks = find_coco(folder)[1], find_masks(folder)[1]
        if masks and not segments and not coco:
            raise UserError(f'{folder} holds images with masks but no COCO annotations, and this config is of a detector: take '
                            'a config of a segmentor (semanticfpn_*, upernet_*)') from error
        found = [*((masks or coco) if segments else coco)]
        other = '' if found else _higher(folder) or recognize(folder)
        raise UserError(f'{folder} has no data for {" and ".join(modes)}: looked for {_MASKS if segments else _COCO}'
                        + (f'; found {", ".join(found)} only' if found else '')
                        + (f'; it holds {other}' if other else '')) from error
