"""`--data DIR`: a user's own data inspected, reported, and put into a config without editing it."""

import json
import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path

import msgspec
from mmengine.config import Config, ConfigDict

from ralamala_mm.errors import UserError
from ralamala_mm.files import atomic_write

from .class_names import IGNORED
from .coco import CheckedSplit, CocoSplit, corrected_copy, find_coco
from .coco_checks import check_split
from .config import check_paths, config_classes, datasets_of, is_segmentation, replace_transforms, set_classes, set_data_root
from .images import SHARED_REMEDY, same_images, shared_files
from .inspection_cache import inspect_once
from .mask_files import (
    CheckedMasks,
    MaskEncoding,
    check_masks,
    config_encoding,
    find_encoding,
    is_the_config_s_own,
    shares,
    value_problems,
    write_converted,
)
from .mask_folders import MaskSplit, find_masks
from .recognize import recognize
from .report import CORRECTED, ERROR, HELD_OUT, NOTE, Problem, Report, hold_out, problem

# The settings of a data set that say which data it reads.
_WHERE_AND_WHAT = ('type', 'data_root', 'ann_file', 'data_prefix', 'img_suffix', 'seg_map_suffix', 'reduce_zero_label',
                   'metainfo')
_COCO = ('COCO annotations such as annotations/instances_train2017.json, annotations/train.json, train/_annotations.coco.json or '
         'annotations/instances_default.json')
_MASKS = 'images with masks such as images/train with masks/train, train/images with train/masks, or images with masks'


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
                 weights_classes: Sequence[str] | None = None, crowds: str | None = None) -> Report | None:
    """Inspects the folder and, if the report has no errors, points the config at it: `use_data` without its error."""
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
        return use_coco_folder(config, folder, modes, weights_classes, crowds)

    report = inspect_once(config, folder, (root, modes, weights_classes, crowds), inspect)
    if report is None:
        _use_as_it_is(config, folder, modes, segments)
        return None
    if show:
        print(report, flush=True)
    if not report.errors and 'val' in modes and 'test' not in modes:
        _test_as_validated(config)
    return report


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
        if segments and coco and not masks:
            raise UserError(f'{folder} holds COCO annotations but no masks, and this config is of a segmentor: take a config of '
                            'a detector, or put masks beside the images (images/train, masks/train, …)') from error
        if masks and not segments and not coco:
            raise UserError(f'{folder} holds images with masks but no COCO annotations, and this config is of a detector: take '
                            'a config of a segmentor (semanticfpn_*, upernet_*)') from error
        found = [*(masks if segments else coco)]
        other = '' if found else recognize(folder)
        raise UserError(f'{folder} has no data for {" and ".join(modes)}: looked for {_MASKS if segments else _COCO}'
                        + (f'; found {", ".join(found)} only' if found else '')
                        + (f'; it holds {other}' if other else '')) from error


def use_coco_folder(config: Config, root: Path, modes: Sequence[str], weights_classes: Sequence[str] | None = None,
                    crowds: str | None = None) -> Report | None:
    """Puts a folder into a detector's config: paths, classes, heads.

    Args:
        config: changed in place, unless the report has errors.
        root: the folder.
        modes: the data loaders that will be used, of 'train', 'val', 'test'.
        weights_classes: what the weights that are tested were trained on, in their order; None if nothing says so.
        crowds: what instances marked `iscrowd` are, see `check_split`.

    Returns:
        The report, or None if the folder holds no COCO-format annotations for the modes.

    Raises:
        UserError: an annotation file is no COCO, or its images are nowhere.
    """
    layout, splits = find_coco(root)
    report = Report(str(root), layout)
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
        report.problems += split.problems
    classes = list(weights_classes or inspected[0].category_names)
    counted = checked[inspected[0].name].instances
    report.classes = [(name, str(counted[name])) for name in sorted(classes, key=counted.__getitem__, reverse=True)]
    report.problems += _category_problems(classes, checked, 'the weights' if weights_classes else 'training')
    if 'train' in chosen and chosen.get('val', training) is not training:
        report.problems += _repeated_images(*([os.path.join(split.image_dir, path) for path in split.present.values()]
                                              for split in (chosen['train'], chosen['val'])))
    if not report.errors:
        if classes != list(config_classes(config)):
            set_classes(config, classes)
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


def smallest_trained(config: Config) -> int:
    """The shorter side below which the config's training data set leaves an image out."""
    return next(((dataset.get('filter_cfg') or {}).get('min_size', 0) for _, dataset in datasets_of(config, ['train'])), 0)


def _repeated_images(training: Sequence[str], validation: Sequence[str]) -> list[Problem]:
    """Images of the validation split that are training images: the same file, or, of a sample, the same content."""
    if repeated := same_images(training, validation):
        return [problem(NOTE, 'val', 'validation images that are training images', [os.path.basename(one) for one in repeated],
                        'the metrics will say how well these are remembered')]
    return []


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
    files = {mode: split.ann_file.relative_to(split.root) for mode, split in chosen.items()}
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
    return atomic_write(path, lambda unfinished: unfinished.write_bytes(_encode(content)))


def _encode(content: dict) -> bytes:
    try:
        return msgspec.json.encode(content)
    except UnicodeEncodeError:  # file names that are no UTF-8, for which Python has escapes
        return json.dumps(content, default=lambda raw: json.loads(bytes(raw))).encode()


def use_mask_folder(config: Config, root: Path, modes: Sequence[str], weights_classes: Sequence[str] | None,
                    show_progress: bool = True) -> Report | None:
    """Puts a folder into a segmentor's config: paths, classes, heads.

    Args:
        config: changed in place, unless the report has errors.
        root: the folder.
        modes: the data loaders that will be used, of 'train', 'val', 'test'.
        weights_classes: what the weights that are tested were trained on, in their order; None if nothing says so.
        show_progress: print how far it is when it takes long.

    Returns:
        The report, or None if the folder holds no images with masks for the modes.

    Raises:
        UserError: masks do not bear the images' names, or a list of class names cannot be read.
    """
    layout, splits = find_masks(root)
    report = Report(str(root), layout)
    chosen = _choose_masks(splits, modes, report)
    if chosen is None:
        return None
    checked = {split.name: check_masks(split, show_progress) for split in dict.fromkeys(chosen.values())}
    own = is_the_config_s_own(config, root, {mode: checked[split.name] for mode, split in chosen.items()})
    training = splits.get('train') or splits.get('all')
    if training and training.name not in checked and not (own or weights_classes or 'train' in modes):
        checked = {training.name: check_masks(training, show_progress), **checked}  # its masks say which classes there are
    for masks in checked.values():
        report.splits.append((masks.split.name, _summary(masks, root)))
        report.problems += _file_problems(masks)
    encoding = config_encoding(config) if own else find_encoding(root, checked, weights_classes, report)
    if encoding:
        first = next(iter(checked.values()))
        report.classes = shares(encoding, first)
        if not own and (unused := [name for name, share in report.classes if share == '0.0%']):
            report.problems.append(problem(NOTE, first.split.name, 'classes with almost no pixels', unused))
        report.problems += [found for masks in checked.values() for found in value_problems(masks, encoding)]
    if 'train' in chosen and chosen.get('val', training) is not chosen['train']:
        report.problems += _repeated_images(*([str(split.image(stem)) for stem in checked[split.name].masks]
                                              for split in (chosen['train'], chosen['val'])))
    if report.errors:
        return report
    if not own:
        set_classes(config, encoding.classes, encoding.palette)
        for _, dataset in datasets_of(config):
            dataset.type, dataset.reduce_zero_label = 'BaseSegDataset', False
        replace_transforms(config, lambda transform: transform.pop('reduce_zero_label', None))
    _set_mask_paths(config, root, chosen, checked, encoding, report)
    return report


def _choose_masks(splits: Mapping[str, MaskSplit], modes: Sequence[str], report: Report) -> dict[str, MaskSplit] | None:
    """The split for each mode; None if one that is needed is not there. What has one part alone is divided."""
    training, validation = splits.get('train') or splits.get('all'), splits.get('val') or splits.get('test')
    if training and not validation and tuple(modes) != ('train',):
        rest, held_out = hold_out(training.all_stems, training.image_dir)
        report.problems.append(Problem(NOTE, 'val', f'there is no validation split: every {HELD_OUT}th image is held out for it'))
        training, validation = training.only('train', rest), training.only('val', held_out)
    elif 'val' in modes and 'val' not in splits:
        report.problems.append(Problem(NOTE, 'val', 'there is no validation split: the test split is used instead'))
    wanted = dict(train=training, val=validation, test=splits.get('test') or validation)
    chosen = {mode: wanted[mode] for mode in modes}
    return None if None in chosen.values() else chosen


def _file_problems(masks: CheckedMasks) -> list[Problem]:
    """What is wrong with the files, whatever their values mean."""
    split, stems = masks.split, set(masks.masks)
    sizes = {stem: f'{stem}: image {mask.image_size[0]}×{mask.image_size[1]}, mask {mask.size[0]}×{mask.size[1]}'
             for stem, mask in masks.masks.items() if mask.image_size and mask.kind != 'broken' and mask.image_size != mask.size}
    bad = [
        ('masks of another size than their image', sizes),
        ('masks that cannot be read', _named(masks.stems(lambda mask: mask.kind == 'broken'))),
        (f'masks with values above {IGNORED}', _named(masks.stems(lambda mask: mask.kind == 'deep'))),
    ]
    others = [name for name in split.other_suffixes if split.mask(os.path.splitext(name)[0]).exists()]
    strays = sorted(set(split.other_suffixes) - set(others))
    shared = [*shared_files([stem + split.image_suffix for stem in masks.masks], split.image_dir),
              *shared_files([stem + split.mask_suffix for stem in masks.masks], split.mask_dir)]
    found = [
        (ERROR, shared, 'different names that lead to one file', SHARED_REMEDY),
        (CORRECTED, masks.absent, 'images that a list names, without a file', 'left out'),
        (CORRECTED, masks.renamed, 'file names written as on Windows, or in another Unicode form than the file\'s',
         'the files were found'),
        (ERROR, [f'{stem}: {", ".join(names[:3])}' for stem, names in split.divided.items()], 'images with several masks',
         'MMSegmentation reads one mask for an image, with the class of each pixel: merge them, or move those of other '
         'endings elsewhere'),
        (ERROR, [ascii(stem) for stem in stems if not _is_text(stem)], 'file names that are no text in UTF-8', 'rename them'),
        (CORRECTED, masks.missing, 'images without a mask', 'left out'),
        (NOTE, masks.unpaired, 'masks without an image', 'not used'),
        (NOTE, strays, f'images without a mask that do not end in {split.image_suffix}', 'not used'),
        (ERROR, others if split.stems is None and stems else [], f'images that do not end in {split.image_suffix} as most do',
         'MMSegmentation reads one suffix per folder: rename them'),
        (ERROR, list(masks.masks) if split.mask_suffix.lower().endswith(('.jpg', '.jpeg')) else [], 'masks saved as JPEG',
         'which changes their values: save them as PNG'),
    ]
    problems = [problem(level, split.name, what, entries, consequence) for level, entries, what, consequence in found if entries]
    return problems + [problem(ERROR, split.name, what, list(entries.values()), files=map(split.mask, entries))
                       for what, entries in bad if entries]


def _named(stems: Sequence[str]) -> dict[str, str]:
    return {stem: stem for stem in stems}


def _is_text(name: str) -> bool:
    """Whether a list in UTF-8, one name a line, can hold it."""
    return not any('\ud800' <= letter <= '\udfff' or letter in '\r\n' for letter in name)


def _summary(masks: CheckedMasks, root: Path) -> str:
    sizes = sorted({mask.image_size for mask in masks.masks.values() if mask.image_size}, key=lambda size: size[0] * size[1])
    empty = masks.stems(lambda mask: set(mask.pixels) <= {0, (0, 0, 0)})
    shown = ' to '.join(dict.fromkeys(f'{width}×{height}' for width, height in sizes[:1] + sizes[-1:]))
    split = masks.split
    return (f'{len(masks.masks)} images of {shown} with masks, {len(empty)} of them empty; '
            f'{split.image_dir.relative_to(root)}/*{split.image_suffix}, {split.mask_dir.relative_to(root)}/*{split.mask_suffix}')


def _set_mask_paths(config: Config, root: Path, chosen: Mapping[str, MaskSplit], checked: Mapping[str, CheckedMasks],
                    encoding: MaskEncoding, report: Report) -> None:
    """Folders, suffixes and lists of the data sets; converted masks and lists go to the work directory."""
    folder = Path(config.work_dir, 'data').absolute()
    config.data_root = str(root)
    written = False
    for mode, dataset in datasets_of(config, list(chosen)):
        split = chosen[mode]
        masks = checked[split.name]
        masks_at, mask_suffix, listed = os.path.relpath(split.mask_dir, root), split.mask_suffix, ''
        if encoding.converts:
            masks_at, mask_suffix, written = str(folder / 'masks' / split.name), '.png', True
            for stem in masks.masks:
                write_converted(split.mask(stem), Path(masks_at, f'{stem}.png'), encoding.numbers)
        if masks.missing or split.needs_list:
            names = ''.join(f'{stem}\n' for stem in masks.masks)
            listed = str(atomic_write(folder / f'{split.name}.txt', lambda path, names=names: path.write_text(names)))
            written = True
        dataset.update(data_root=str(root), ann_file=listed, img_suffix=split.image_suffix, seg_map_suffix=mask_suffix,
                       data_prefix=ConfigDict(img_path=os.path.relpath(split.image_dir, root), seg_map_path=masks_at))
    if written:
        report.problems.append(Problem(NOTE, 'all', f'lists and converted masks are in {folder}; your files stay as they are'))
