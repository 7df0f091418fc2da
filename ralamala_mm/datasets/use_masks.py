"""A folder of images and masks, or of outlines painted as masks, inspected and put into a segmentor's config."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict

from ralamala_mm.errors import UserError
from ralamala_mm.files import atomic_write

from .class_names import IGNORED
from .coco import find_coco
from .config import datasets_of, replace_transforms, set_classes, transforms_of
from .formats import Found, Listing, convert, find_format
from .images import SHARED_REMEDY, repeated_images, shared_files
from .mask_contents import mask_contents
from .mask_encoding import (
    MaskEncoding,
    by_value,
    config_encoding,
    find_encoding,
    is_the_config_s_own,
    shares,
    value_problems,
    write_converted,
)
from .mask_files import CheckedMasks, check_masks
from .mask_folders import MaskSplit
from .mask_layouts import find_masks
from .painted_masks import Painted, paint_masks
from .report import CORRECTED, ERROR, HELD_OUT, NOTE, Problem, Report, hold_out, problem, shown_path


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
    report = Report(str(root), '')
    listing = Listing(root, Path(config.work_dir))
    found = find_format(listing)
    report.layout, splits = _mask_folders(root, found)
    painted = None if splits else _paint(config, listing, found, weights_classes, show_progress, report)
    if report.errors:
        return report
    if painted:
        splits = painted.splits
    chosen = _choose_masks(splits, modes, report)
    if chosen is None:
        return None
    checked = {split.name: check_masks(split, show_progress) for split in dict.fromkeys(chosen.values())}
    at = next(iter(chosen.values())).root  # the folder itself, or one deeper
    own = not painted and is_the_config_s_own(config, at, {mode: checked[split.name] for mode, split in chosen.items()})
    training = splits.get('train') or splits.get('all')
    if training and training.name not in checked and not (own or weights_classes or 'train' in modes):
        checked = {training.name: check_masks(training, show_progress), **checked}  # its masks say which classes there are
    if painted:
        encoding = by_value(painted.classes)
    else:
        encoding = config_encoding(config) if own else find_encoding(root, checked, weights_classes, report)
    for masks in checked.values():
        report.splits.append((masks.split.name, _summary(masks, root)))
        report.problems += _file_problems(masks, encoding is not None and encoding.cut)
    if encoding:
        first = next(iter(checked.values()))
        report.classes = shares(encoding, first)
        if not own and (unused := [name for name, share in report.classes if share == '0.0%']):
            report.problems.append(problem(NOTE, first.split.name, 'classes with almost no pixels', unused))
        report.problems += [found for masks in checked.values() for found in value_problems(masks, encoding)]
    if 'train' in chosen and chosen.get('val', training) is not chosen['train']:
        report.problems += repeated_images(*([str(split.image(stem)) for stem in checked[split.name].masks]
                                              for split in (chosen['train'], chosen['val'])))
    for mode, split in chosen.items():
        report.problems += _size_problems(config, mode, checked[split.name])
    report.contents = [mask_contents(masks, encoding, report.problems) for masks in checked.values()]
    if report.errors:
        return report
    if not own:
        set_classes(config, encoding.classes, encoding.palette)
        for _, dataset in datasets_of(config):
            dataset.type, dataset.reduce_zero_label = 'BaseSegDataset', False
        replace_transforms(config, lambda transform: transform.pop('reduce_zero_label', None))
    _set_mask_paths(config, root, chosen, checked, encoding, report)
    return report


def _mask_folders(root: Path, found: Found | None) -> tuple[str, dict[str, MaskSplit]]:
    """Folders of masks of classes; none if they are the files of masks of another format."""
    try:
        layout, splits = find_masks(root)
    except UserError:
        if found and found.mask_dirs:
            return '', {}
        raise
    own = found.mask_dirs if found else ()
    return ('', {}) if any(split.mask_dir.absolute() in own for split in splits.values()) else (layout, splits)


def _paint(config: Config, listing: Listing, found: Found | None, weights_classes: Sequence[str] | None, show_progress: bool,
           report: Report) -> Painted | None:
    """Masks from the outlines of COCO annotations, or of another format's; None if there are none."""
    work_dir = Path(config.work_dir)
    layout, splits = find_coco(listing.root, work_dir) if not (found and found.mask_dirs) else ('', {})
    converted = None
    if not splits and found:
        converted = convert(found, listing, work_dir, False, show_progress)
        layout, splits = converted.layout, converted.splits
        report.problems += converted.problems
    if not splits:
        return None
    report.layout = layout
    if report.errors:
        return None
    report.reaches_outside = any(split.reaches_outside for split in splits.values())
    folder = work_dir.absolute() / 'data' / 'painted'
    painted = paint_masks(splits, folder, not converted or converted.has_background, weights_classes, show_progress)
    report.problems += painted.problems
    if not report.errors:
        text = f'masks were painted from outlines into {folder}, smaller objects over larger ones'
        report.problems.append(Problem(NOTE, 'all', text))
    return painted


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


def _size_problems(config: Config, mode: str, masks: CheckedMasks) -> list[Problem]:
    """Images of several sizes in a batch, where the pipeline does not bring them to one."""
    sizes = {mask.image_size for mask in masks.masks.values()} - {None}
    kinds = {transform.get('type') for _, dataset in datasets_of(config, [mode]) for transform in transforms_of(dataset)}
    batch = config[f'{mode}_dataloader'].get('batch_size', 1)
    if batch == 1 or len(sizes) < 2 or any(re.search('Crop|Resize|Pad', str(kind)) for kind in kinds):
        return []
    return [Problem(ERROR, masks.split.name, f'images of {len(sizes)} sizes, and the config neither crops nor resizes them for '
                    f'batches of {batch}: take a config that does (configs/semanticfpn_*, configs/upernet_*), or --cfg-options '
                    f'{mode}_dataloader.batch_size=1')]


def _file_problems(masks: CheckedMasks, are_cut: bool) -> list[Problem]:
    """What is wrong with the files, whatever their values mean; those that are cut may be JPEG."""
    split, stems = masks.split, set(masks.masks)
    sizes = {stem: f'{stem}: image {mask.image_size[0]}×{mask.image_size[1]}, mask {mask.size[0]}×{mask.size[1]}'
             for stem, mask in masks.masks.items()
             if mask.image_size and mask.kind not in ('broken', 'mixed') and mask.image_size != mask.size}
    bad = [
        ('masks of another size than their image', sizes),
        ('masks that cannot be read', _named(masks.stems(lambda mask: mask.kind == 'broken'))),
        (f'masks with values above {IGNORED}', _named(masks.stems(lambda mask: mask.kind == 'deep'))),
        ('images whose masks cannot be read, differ in size, or have more than 0 and one other value',
         _named(masks.stems(lambda mask: mask.kind == 'mixed'))),
    ]
    is_jpeg = split.mask_suffix.lower().endswith(('.jpg', '.jpeg'))
    others = [name for name in split.other_suffixes if split.has_mask(os.path.splitext(name)[0])]
    strays = sorted(set(split.other_suffixes) - set(others))
    shared = [*shared_files([stem + split.image_suffix for stem in masks.masks], split.image_dir),
              *(() if split.merged else shared_files([stem + split.mask_suffix for stem in masks.masks], split.mask_dir))]
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
        (ERROR, list(masks.masks) if is_jpeg and not are_cut else [], 'masks saved as JPEG',
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
    of_masks = 'one for each object' if split.merged else f'*{split.mask_suffix}'
    return (f'{len(masks.masks)} images of {shown} with masks, {len(empty)} of them empty; '
            f'{shown_path(split.image_dir, root)}/*{split.image_suffix}, {shown_path(split.mask_dir, root)}/{of_masks}')


def _set_mask_paths(config: Config, root: Path, chosen: Mapping[str, MaskSplit], checked: Mapping[str, CheckedMasks],
                    encoding: MaskEncoding, report: Report) -> None:
    """Folders, suffixes and lists of the data sets; converted masks and lists go to the work directory."""
    folder = Path(config.work_dir, 'data').absolute()
    config.data_root = str(root)
    written = False
    for mode, dataset in datasets_of(config, list(chosen)):
        split = chosen[mode]
        masks = checked[split.name]
        masks_at, mask_suffix, listed = shown_path(split.mask_dir, root), split.mask_suffix, ''
        if encoding.converts:
            masks_at, mask_suffix, written = str(folder / 'masks' / split.name), '.png', True
            for stem in masks.masks:
                write_converted(split, stem, Path(masks_at, f'{stem}.png'), encoding)
        if masks.missing or split.needs_list:
            names = ''.join(f'{stem}\n' for stem in masks.masks)
            listed = str(atomic_write(folder / f'{split.name}.txt', lambda path, names=names: path.write_text(names)))
            written = True
        dataset.update(data_root=str(root), ann_file=listed, img_suffix=split.image_suffix, seg_map_suffix=mask_suffix,
                       data_prefix=ConfigDict(img_path=shown_path(split.image_dir, root), seg_map_path=masks_at))
    if written:
        report.problems.append(Problem(NOTE, 'all', f'lists and converted masks are in {folder}; your files stay as they are'))
