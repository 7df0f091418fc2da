"""`--data DIR` for detectors: a folder with COCO-format annotations, looked at, reported, and put into the config."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict

from ralamala_mm.errors import UserError

from ..classes import config_classes, set_classes
from ..walking import datasets_of
from .coco_check import CheckedSplit, category_names, check_split, mended_copy
from .coco_files import CocoSplit, find_coco
from .report import ERROR, MENDED, NOTE, Problem, Report
from .splits import HELD_OUT, hold_out


def use_coco_folder(config: Config, root: Path, modes: Sequence[str]) -> Report | None:
    """Puts a folder into a detector's config: paths, classes, heads.

    Args:
        config: changed in place, unless the report has errors.
        root: the folder.
        modes: the data loaders that will be used, of 'train', 'val', 'test'.

    Returns:
        The report, or None if the folder holds no COCO-format annotations, or none to train on when that is asked for.

    Raises:
        UserError: an annotation file is no COCO, or its images are nowhere.
    """
    layout, splits = find_coco(root)
    training = splits.get('train') or splits.get('all')
    if not splits or (training is None and 'train' in modes):
        return None
    # Without a test split, tests run on the validation pictures, as in COCO's configs.
    validation = splits.get('val') or splits.get('test')
    chosen = dict(train=training, val=validation, test=splits.get('test') or validation)
    report = Report(str(root), layout)
    wants_masks = bool(config.model.get('roi_head', {}).get('mask_head') or config.model.get('mask_head'))
    known = config_classes(config)
    # Training is looked at in any case, as its classes are the model's, unless the config has just those of the others.
    others = [split for mode in modes if (split := chosen[mode]) and split is not training]
    needs_training = training is not None and (
        'train' in modes or not others or any(category_names(split.content) != list(known) for split in others))
    looked_at = dict.fromkeys([training] * needs_training + others)
    first = next(iter(looked_at))
    checked = {split.name: check_split(split, wants_masks, evaluated=split is not training) for split in looked_at}
    for split in checked.values():
        report.splits.append((split.split.name, split.summary))
        report.problems += split.problems
    classes = category_names(first.content)
    counted = checked[first.name].instances
    report.classes = [(name, str(counted[name])) for name in sorted(classes, key=counted.__getitem__, reverse=True)]
    report.problems += _category_problems(classes, checked, first)
    if report.errors:
        return report

    if classes != list(known):
        set_classes(config, classes)
    files = _files(config, report, chosen, checked, classes)
    for mode, dataset in datasets_of(config):
        if mode not in files:
            continue
        image_dir = (chosen[mode] or training).image_dir
        dataset.data_root = str(root)
        dataset.ann_file = str(files[mode])
        dataset.data_prefix = ConfigDict(img=os.path.relpath(image_dir, root) + '/')
    config.data_root = str(root)
    for mode in ('val', 'test'):
        evaluators = config.get(f'{mode}_evaluator') or []
        for evaluator in [evaluators] if isinstance(evaluators, dict) else evaluators:
            if 'ann_file' in evaluator and mode in files:
                evaluator.ann_file = os.path.join(root, files[mode])
    return report


def _category_problems(classes: Sequence[str], checked: dict[str, CheckedSplit], first: CocoSplit) -> list[Problem]:
    """MMDetection numbers labels by the order in each file, so that every split must list the same in the same order."""
    problems = []
    for name, split in checked.items():
        if split.split is first:
            continue
        names = category_names(split.split.content)
        if unknown := sorted(set(split.instances) - set(classes)):
            problems.append(Problem(ERROR, name, f'has instances of {", ".join(unknown)}, which training does not know'))
        elif names != list(classes):
            problems.append(Problem(MENDED, name, 'categories differ from training, or in order; put into its order'))
            split.needs_copy = True
    return problems


def _files(config: Config, report: Report, chosen: dict[str, CocoSplit | None], checked: dict[str, CheckedSplit],
           classes: Sequence[str]) -> dict[str, Path]:
    """The annotation file of each mode, within the root or a copy in the work directory."""
    folder = Path(config.work_dir, 'data').absolute()
    files = {}
    if chosen['val'] is None:  # then there is a training part
        training = checked[chosen['train'].name]
        rest, held_out = hold_out(training.split.content['images'])
        report.problems.append(Problem(NOTE, 'val', f'there is no validation split: every {HELD_OUT}th image is held out for it'))
        for mode, images in (('train', rest), ('val', held_out)):
            files[mode] = _write(folder / f'{mode}.json', mended_copy(training, classes, images))
        files['test'] = files['val']
        _tell_copies(report, folder)
        return files
    for mode, split in chosen.items():
        if split is None:
            continue  # a folder to test on, without a training part
        if split.name in checked and checked[split.name].needs_copy:
            files[mode] = _write(folder / f'{split.name}.json', mended_copy(checked[split.name], classes))
        else:
            files[mode] = split.ann_file.relative_to(split.root)
    if any(path.is_absolute() for path in files.values()):
        _tell_copies(report, folder)
    return files


def _tell_copies(report: Report, folder: Path) -> None:
    report.problems.append(Problem(NOTE, 'all', f'mended or divided annotations are in {folder}; your files stay as they are'))


def _write(path: Path, content: dict) -> Path:
    """In one move, as several processes may write the same."""
    if not content['annotations']:
        raise UserError(f'nothing would be left of the annotations for {path.stem}')
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f'{path.name}.{os.getpid()}')
    unfinished.write_text(json.dumps(content))
    os.replace(unfinished, path)
    return path
