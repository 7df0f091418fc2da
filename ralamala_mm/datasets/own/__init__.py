"""`--data DIR`: a user's own data looked at, reported, and put into a config without editing it."""

from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from ralamala_mm.errors import UserError

from ..paths import set_data_root
from ..walking import datasets_of
from .coco import use_coco_folder
from .coco_files import find_coco
from .mask_files import find_masks
from .masks import use_mask_folder
from .report import Report

__all__ = ['Report', 'use_data']


def use_data(config: Config, root: str, modes: Sequence[str], show: bool = True) -> None:
    """Makes a config read the data in a folder.

    Args:
        config: of a detector on COCO-format data or of a segmentor; changed in place. For other data sets, and for a folder
            that does not exist here, its `data_root` alone is replaced.
        root: the folder.
        modes: the data loaders that will be used, of 'train', 'val', 'test'.
        show: print the report.

    Raises:
        UserError: the data cannot be used as it is; the report says why.
    """
    folder = Path(root)
    kinds = {dataset.type.split('.')[-1] for _, dataset in datasets_of(config)}
    segments = config.get('default_scope') == 'mmseg'
    if '://' in root or not folder.is_dir() or not (segments or kinds == {'CocoDataset'}):
        set_data_root(config, root)
        return
    report = use_mask_folder(config, folder, modes, show) if segments else use_coco_folder(config, folder, modes)
    if report is None:
        _refuse_the_other_kind(folder, segments)
        set_data_root(config, root)  # a folder in the config's own layout with a part missing is told by its paths
        return
    if show:
        print(report, flush=True)
    if report.errors:
        count = len(report.errors)
        raise UserError(f'the data in {root} cannot be used as it is: {count} kind{"s" if count > 1 else ""} of defect marked '
                        'ERROR in the report above')


def _refuse_the_other_kind(folder: Path, segments: bool) -> None:
    """Whether the folder suits the other task.

    Raises:
        UserError: it does.
    """
    coco, masks = find_coco(folder)[1], find_masks(folder)[1]
    if segments and coco and not masks:
        raise UserError(f'{folder} holds COCO annotations but no masks, and this config is of a segmentor: take a config of a '
                        'detector, or put masks beside the images (images/train, masks/train, …)')
    if masks and not segments and not coco:
        raise UserError(f'{folder} holds images with masks but no COCO annotations, and this config is of a detector: take a '
                        'config of a segmentor (semanticfpn_*, upernet_*)')
