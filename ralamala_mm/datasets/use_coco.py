"""A folder of COCO annotations, or of another format converted to it, inspected and put into a detector's config."""

import os
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict

from ralamala_mm.errors import UserError
from ralamala_mm.files import atomic_write

from .coco import CheckedSplit, CocoSplit, corrected_copy, encode_coco, find_coco
from .coco_checks import check_split
from .config import config_classes, datasets_of, replace_transforms, set_classes
from .formats import convert_folder
from .images import repeated_images
from .report import CORRECTED, ERROR, HELD_OUT, NOTE, Problem, Report, hold_out, shown_path


def use_coco_folder(config: Config, root: Path, modes: Sequence[str], weights_classes: Sequence[str] | None = None,
                    crowds: str | None = None, show_progress: bool = True) -> Report | None:
    """Puts a folder into a detector's config: paths, classes, heads.

    Args:
        config: changed in place, unless the report has errors.
        root: the folder.
        modes: the data loaders that will be used, of 'train', 'val', 'test'.
        weights_classes: what the weights that are tested were trained on, in their order; None if nothing says so.
        crowds: what instances marked `iscrowd` are, see `check_split`.
        show_progress: print how far it is when it takes long.

    Returns:
        The report, or None if the folder holds no COCO-format annotations for the modes.

    Raises:
        UserError: an annotation file is no COCO, or its images are nowhere.
    """
    layout, splits = find_coco(root, Path(config.work_dir))
    converted = None if splits else convert_folder(root, Path(config.work_dir), True, show_progress)
    if converted:
        layout, splits = converted.layout, converted.splits
    report = Report(str(root), layout, problems=list(converted.problems) if converted else [])
    if report.errors:
        return report
    chosen = _choose_coco(splits, modes, report)
    if chosen is None:
        return None
    training = splits.get('train') or splits.get('all')
    known = weights_classes or config_classes(config)
    inspected = list(dict.fromkeys(chosen.values()))
    if training and training not in inspected and not weights_classes and any(
            split.category_names != list(known) for split in inspected):
        inspected.insert(0, training)  # whose classes are the model's, in its order
    evaluated = [chosen[mode] for mode in ('val', 'test') if mode in chosen]
    checked = {split.name: check_split(split, wants_masks(config), split in evaluated, smallest_trained(config), crowds=crowds,
                                       trained=split is training) for split in inspected}
    report.reaches_outside = any(split.reaches_outside for split in inspected)
    for split in checked.values():
        report.splits.append((split.split.name, split.summary))
        report.contents.append(split.contents)
        report.problems += split.problems
    classes = list(weights_classes or inspected[0].category_names)
    counted = checked[inspected[0].name].instances
    report.classes = [(name, str(counted[name])) for name in sorted(classes, key=counted.__getitem__, reverse=True)]
    report.problems += _category_problems(classes, checked, 'the weights' if weights_classes else 'training')
    if 'train' in chosen and chosen.get('val', training) is not training:
        report.problems += repeated_images(*([os.path.join(split.image_dir, path) for path in split.present.values()]
                                              for split in (chosen['train'], chosen['val'])))
    if not report.errors:
        if classes != list(config_classes(config)):
            set_classes(config, classes)
        if not wants_masks(config):
            replace_transforms(config, _read_no_masks)
        _set_coco_paths(config, chosen, _files(config, report, chosen, checked, classes))
    return report


def _choose_coco(splits: dict[str, CocoSplit], modes: Sequence[str], report: Report) -> dict[str, CocoSplit] | None:
    """The split for each mode; None if one that is needed is not there. What has one part alone serves for both."""
    training = splits.get('train') or splits.get('all')
    validation = splits.get('val') or splits.get('test') or training
    # Without a test split, tests run on the validation images, as in COCO's configs.
    wanted = dict(train=training, val=validation, test=splits.get('test') or validation)
    chosen = {mode: wanted[mode] for mode in modes}
    if not chosen or None in chosen.values():
        return None
    if 'val' in modes and 'val' not in splits and 'test' in splits:
        report.problems.append(Problem(NOTE, 'val', 'there is no validation split: the test split is used instead'))
    return chosen


def wants_masks(config: Config) -> bool:
    """Whether the config's model learns masks."""
    return bool(config.model.get('roi_head', {}).get('mask_head') or config.model.get('mask_head'))


def _read_no_masks(transform: dict) -> None:
    """A pipeline that a detector of boxes shares with one of masks reads masks that the data need not have."""
    if transform.get('with_mask'):
        transform['with_mask'] = False


def smallest_trained(config: Config) -> int:
    """The shorter side below which the config's training data set leaves an image out."""
    return next(((dataset.get('filter_cfg') or {}).get('min_size', 0) for _, dataset in datasets_of(config, ['train'])), 0)


def _category_problems(classes: Sequence[str], checked: dict[str, CheckedSplit], whose: str) -> list[Problem]:
    """MMDetection numbers labels by the order in each file, so that every split must list the same in the same order."""
    problems = []
    for name, split in checked.items():
        if unknown := sorted(set(split.instances) - set(classes)):
            problems.append(Problem(ERROR, name, f'has instances of {", ".join(unknown)}, unknown to {whose}'))
        elif split.split.category_names != list(classes):
            text = f'categories differ from those of {whose}, or in order; put into that order'
            problems.append(Problem(CORRECTED, name, text))
            split.needs_copy = True
    return problems


def _files(config: Config, report: Report, chosen: dict[str, CocoSplit], checked: dict[str, CheckedSplit],
           classes: Sequence[str]) -> dict[str, Path]:
    """The annotation file of each mode, within the root or a copy in the work directory."""
    folder = Path(config.work_dir, 'data').absolute()
    files = {mode: Path(shown_path(split.ann_file, split.root)) for mode, split in chosen.items()}
    written = set()
    for mode, split in chosen.items():
        found = checked[split.name]
        divided = split.name in ('train', 'all') and (mode != 'train' or chosen.get('val') is split)
        if divided:
            rest, held_out = hold_out(split.content['images'], split.root,
                                      lambda image, ids=found.with_objects: image['id'] in ids)
            copy = corrected_copy(found, classes, rest if mode == 'train' else held_out)
            files[mode] = _write(folder / ('train.json' if mode == 'train' else 'val.json'), copy)
            written.add('held out')
        elif found.needs_copy:
            files[mode] = _write(folder / f'{split.name}.json', corrected_copy(found, classes))
            written.add('corrected')
    if 'held out' in written:
        report.problems.append(Problem(NOTE, 'val', 'there is no validation split: every '
                                       f'{HELD_OUT}th image that has objects is held out for it'))
    if written:
        text = f'corrected or divided annotations are in {folder}; your files stay as they are'
        report.problems.append(Problem(NOTE, 'all', text))
    return files


def _set_coco_paths(config: Config, chosen: dict[str, CocoSplit], files: dict[str, Path]) -> None:
    root = next(iter(chosen.values())).root  # of the folder that was given, or one deeper
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
    return atomic_write(path, lambda unfinished: unfinished.write_bytes(encode_coco(content)))
