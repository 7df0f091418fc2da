"""`--data DIR` for detectors: a folder with COCO-format annotations, looked at, reported, and put into the config."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict

from ralamala_mm.errors import UserError
from ralamala_mm.files import write_in_one_move

from ..classes import config_classes, set_classes
from ..walking import datasets_of
from .coco_check import CheckedSplit, category_names, check_split, mended_copy
from .coco_files import CocoSplit, find_coco
from .report import ERROR, MENDED, NOTE, Problem, Report
from .splits import HELD_OUT, hold_out


def use_coco_folder(config: Config, root: Path, modes: Sequence[str], weights_classes: Sequence[str] | None) -> Report | None:
    """Puts a folder into a detector's config: paths, classes, heads.

    Args:
        config: changed in place, unless the report has errors.
        root: the folder.
        modes: the data loaders that will be used, of 'train', 'val', 'test'.
        weights_classes: what the weights that are tested were trained on, in their order; None if nothing says so.

    Returns:
        The report, or None if the folder holds no COCO-format annotations for the modes.

    Raises:
        UserError: an annotation file is no COCO, or its images are nowhere.
    """
    layout, splits = find_coco(root)
    report = Report(str(root), layout)
    chosen = _choose(splits, modes, report)
    if chosen is None:
        return None
    training = splits.get('train') or splits.get('all')
    known = weights_classes or config_classes(config)
    looked_at = list(dict.fromkeys(chosen.values()))
    if training and training not in looked_at and not weights_classes and any(
            category_names(split.content) != list(known) for split in looked_at):
        looked_at.insert(0, training)  # whose classes are the model's, in its order
    checked = {split.name: check_split(split, wants_masks(config), split is not training, smallest_trained(config))
               for split in looked_at}
    for split in checked.values():
        report.splits.append((split.split.name, split.summary))
        report.problems += split.problems
    classes = list(weights_classes or category_names(looked_at[0].content))
    counted = checked[looked_at[0].name].instances
    report.classes = [(name, str(counted[name])) for name in sorted(classes, key=counted.__getitem__, reverse=True)]
    report.problems += _category_problems(classes, checked, 'the weights' if weights_classes else 'training')
    if not report.errors:
        if classes != list(config_classes(config)):
            set_classes(config, classes)
        _set_paths(config, root, chosen, _files(config, report, chosen, checked, classes))
    return report


def _choose(splits: dict[str, CocoSplit], modes: Sequence[str], report: Report) -> dict[str, CocoSplit] | None:
    """The split for each mode; None if one that is needed is not there. What has one part alone serves for both."""
    training = splits.get('train') or splits.get('all')
    validation = splits.get('val') or splits.get('test') or training
    # Without a test split, tests run on the validation pictures, as in COCO's configs.
    wanted = dict(train=training, val=validation, test=splits.get('test') or validation)
    chosen = {mode: wanted[mode] for mode in modes}
    if not chosen or None in chosen.values():
        return None
    if 'val' in modes and 'val' not in splits and 'test' in splits:
        report.problems.append(Problem(NOTE, 'val', 'there is no validation split: the test split serves for it'))
    return chosen


def wants_masks(config: Config) -> bool:
    """Whether the config's model learns masks."""
    return bool(config.model.get('roi_head', {}).get('mask_head') or config.model.get('mask_head'))


def smallest_trained(config: Config) -> int:
    """The shorter side below which the config's training data set leaves an image out."""
    return next(((dataset.get('filter_cfg') or {}).get('min_size', 0) for _, dataset in datasets_of(config, ['train'])), 0)


def _category_problems(classes: Sequence[str], checked: dict[str, CheckedSplit], whose: str) -> list[Problem]:
    """MMDetection numbers labels by the order in each file, so that every split must list the same in the same order."""
    problems = []
    for name, split in checked.items():
        if unknown := sorted(set(split.instances) - set(classes)):
            problems.append(Problem(ERROR, name, f'has instances of {", ".join(unknown)}, unknown to {whose}'))
        elif category_names(split.split.content) != list(classes):
            problems.append(Problem(MENDED, name, f'categories differ from those of {whose}, or in order; put into that order'))
            split.needs_copy = True
    return problems


def _files(config: Config, report: Report, chosen: dict[str, CocoSplit], checked: dict[str, CheckedSplit],
           classes: Sequence[str]) -> dict[str, Path]:
    """The annotation file of each mode, within the root or a copy in the work directory."""
    folder = Path(config.work_dir, 'data').absolute()
    files = {mode: split.ann_file.relative_to(split.root) for mode, split in chosen.items()}
    written = set()
    for mode, split in chosen.items():
        found = checked[split.name]
        divided = split.name in ('train', 'all') and (mode != 'train' or chosen.get('val') is split)
        if divided:
            rest, held_out = hold_out(split.content['images'], split.root)
            copy = mended_copy(found, classes, rest if mode == 'train' else held_out)
            files[mode] = _write(folder / ('train.json' if mode == 'train' else 'val.json'), copy)
            written.add('held out')
        elif found.needs_copy:
            files[mode] = _write(folder / f'{split.name}.json', mended_copy(found, classes))
            written.add('mended')
    if 'held out' in written:
        report.problems.append(Problem(NOTE, 'val', f'there is no validation split: every {HELD_OUT}th image is held out for it'))
    if written:
        text = f'mended or divided annotations are in {folder}; your files stay as they are'
        report.problems.append(Problem(NOTE, 'all', text))
    return files


def _set_paths(config: Config, root: Path, chosen: dict[str, CocoSplit], files: dict[str, Path]) -> None:
    config.data_root = str(root)
    for mode, dataset in datasets_of(config, list(chosen)):
        dataset.data_root = str(root)
        dataset.ann_file = str(files[mode])
        dataset.data_prefix = ConfigDict(img=os.path.relpath(chosen[mode].image_dir, root) + '/')
    for mode in chosen:
        evaluators = config.get(f'{mode}_evaluator') or []
        for evaluator in [evaluators] if isinstance(evaluators, dict) else evaluators:
            if 'ann_file' in evaluator:
                evaluator.ann_file = os.path.join(root, files[mode])


def _write(path: Path, content: dict) -> Path:
    if not content['annotations']:
        raise UserError(f'nothing would be left of the annotations for {path.stem}')
    return write_in_one_move(path, lambda unfinished: unfinished.write_text(json.dumps(content)))
