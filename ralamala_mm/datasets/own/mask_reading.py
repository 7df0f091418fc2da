"""What the values or colours of masks stand for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from ..classes import config_classes, reduces_zero_label
from ..walking import datasets_of
from .class_names import ClassNames, Colour, read_class_names
from .mask_check import IGNORED, MANY, CheckedMasks, Mask
from .report import ERROR, MENDED, NOTE, Problem, Report, problem, some


@dataclass(frozen=True)
class Reading:
    """How masks become classes."""

    classes: Sequence[str]
    numbers: Mapping[int | Colour, int]  # the class that each value or colour stands for, or IGNORED
    palette: Sequence[Colour] | None = None
    converts: bool = False  # whether masks are written anew; else their values are the classes


def by_value(classes: Sequence[str], palette: Sequence[Colour] | None = None, converts: bool = False) -> Reading:
    """Values are class numbers from 0."""
    return Reading(classes, {**{i: i for i in range(len(classes))}, IGNORED: IGNORED}, palette, converts)


def is_the_config_s_own(config: Config, root: Path, checked: Mapping[str, CheckedMasks]) -> bool:
    """Whether the folder is the data set that the config is written for, such as ADE20K in another place.

    Args:
        config: with its own paths yet.
        root: the folder.
        checked: the masks of each mode.
    """
    mode, dataset = next(datasets_of(config, list(checked)))
    prefixes = dataset.get('data_prefix') or {}
    if not all(value and (root / value).is_dir() for value in prefixes.values()) or read_class_names(root):
        return False
    masks = checked[mode]
    if 'ADE20K' in dataset.type:  # many people's own data lies in ADE20K's folders
        return all(Path(stem).name.startswith('ADE_') for stem in masks.masks)
    known = config_reading(config).numbers
    return all(mask.kind == 'index' for mask in masks.masks.values()) and all(value in known for value in masks.pixels)


def config_reading(config: Config) -> Reading:
    """As the config's data set type reads its masks; some, as ADE20K's, ignore 0."""
    _, dataset = next(datasets_of(config))
    classes = config_classes(config)
    if not reduces_zero_label(config, dataset):
        return by_value(classes)
    return Reading(classes, {0: IGNORED, **{i + 1: i for i in range(len(classes))}, IGNORED: IGNORED})


def find_reading(root: Path, checked: Mapping[str, CheckedMasks], weights_classes: Sequence[str] | None,
                 report: Report) -> Reading | None:
    """What the masks' values or colours stand for; None, and a problem in the report, if that cannot be told.

    Args:
        root: the folder.
        checked: the masks of each split.
        weights_classes: what the weights that are tested were trained on, if they say so.
        report: receives the problems.
    """
    names = read_class_names(root)
    masks = [mask for part in checked.values() for mask in part.masks.values()]
    pixels = set().union(*(mask.pixels for mask in masks)) if masks else set()
    where = ', '.join(checked)
    if any(mask.kind == 'colour' for mask in masks):
        return _by_colour(names, masks, pixels, where, weights_classes, report)
    if pixels == {0, IGNORED}:
        text = 'masks hold 0 and 255 alone: 255 is taken for the object, not for "ignore"'
        report.problems.append(Problem(MENDED, where, text))
        default = names.names if names and len(names.names) == 2 else ('background', 'object')
        return Reading(weights_classes or default, {0: 0, IGNORED: 1}, converts=True)
    if names and weights_classes and tuple(names.names) != tuple(weights_classes):
        report.problems.append(Problem(ERROR, where, f'{names.path} names {some(names.names, 8)}; the weights were trained on '
                                       f'{some(weights_classes, 8)}'))
        return None
    grey = any(mask.kind == 'grey' for mask in masks)
    if grey:
        report.problems.append(Problem(MENDED, where, 'masks are grey pictures of three channels; one is used'))
    if names or weights_classes:
        return by_value(names.names if names else weights_classes, names and names.colours, converts=grey)
    values = sorted(value for value in pixels if value != IGNORED)
    if len(values) > MANY:
        report.problems.append(Problem(ERROR, where, f'masks have {len(values)} different values: they were smoothed or saved as '
                                       f'JPEG; if they are classes, a file classes.txt in {root} with one name a line says so'))
        return None
    report.problems.append(Problem(NOTE, where, f'no list of class names was found: a file classes.txt in {root}, one name a '
                                   'line, gives them'))
    return by_value([f'class {i}' for i in range(max(values[-1:] + [1]) + 1)], converts=grey)


def _by_colour(names: ClassNames | None, masks: Sequence[Mask], pixels: set, where: str, weights_classes: Sequence[str] | None,
               report: Report) -> Reading | None:
    """Coloured masks need a list that says which colour is which class."""

    def stop(text: str) -> None:
        report.problems.append(Problem(ERROR, where, text))

    kinds = [mask.kind for mask in masks]
    colours = sorted(pixel if isinstance(pixel, tuple) else (pixel,) * 3 for pixel in pixels)
    if any(mask.kind == 'colour' and len(mask.pixels) > MANY for mask in masks):
        return stop(f'coloured masks have more than {MANY} colours: they are photographs, or were smoothed or saved as JPEG')
    if single := kinds.count('index'):
        return stop(f'{single} masks have one channel, the other {len(kinds) - single} are coloured: make all alike')
    if names is None or names.colours is None:
        return stop(f'{len(masks)} masks are coloured (RGB), and nothing says which colour is which class: put a labelmap.txt '
                    f'with lines like "name:r,g,b::" beside them; colours found: {some(colours, 6)}')
    classes = list(weights_classes or names.names)
    if unknown := sorted(set(names.names) - set(classes)):
        return stop(f'{names.path.name} names {some(unknown)}, unknown to the weights, which were trained on {some(classes, 8)}')
    numbers = {colour: classes.index(name) for name, colour in zip(names.names, names.colours, strict=True)}
    if strange := [colour for colour in colours if colour not in numbers]:
        return stop(f'masks have colours that {names.path} does not list: {some(strange, 6)}')
    text = f'masks are coloured (RGB); {names.path.name} says which colour is which class'
    report.problems.append(Problem(MENDED, where, text))
    grey = {colour[0]: number for colour, number in numbers.items() if len(set(colour)) == 1}  # masks of one grey colour
    return Reading(classes, {**numbers, **grey}, None if weights_classes else names.colours, converts=True)


def value_problems(masks: CheckedMasks, reading: Reading) -> list[Problem]:
    """Values that stand for no class: on a GPU they would end training with an assertion that names nothing."""
    wrong = {stem: values for stem, mask in masks.masks.items() if mask.kind in ('index', 'grey')
             and (values := [value for value in mask.pixels if value not in reading.numbers])}
    if not wrong:
        return []
    values = sorted({value for values in wrong.values() for value in values})
    top = max(value for value in reading.numbers if isinstance(value, int) and value != IGNORED)
    return [problem(ERROR, masks.split.name, 'masks with values outside the classes', list(wrong),
                    f'values {some(values, 8)}, where 0 to {top} and {IGNORED} (ignored) may be',
                    files=map(masks.split.mask, wrong))]


def shares(reading: Reading, masks: CheckedMasks) -> list[tuple[str, str]]:
    """The share of pixels of each class, largest first."""
    pixels = masks.pixels
    total = sum(pixels.values()) or 1
    share = dict.fromkeys(range(len(reading.classes)), 0.0)
    for value, number in reading.numbers.items():
        if number != IGNORED:
            share[number] += pixels[value] / total
    return [(reading.classes[number], f'{share[number]:.1%}') for number in sorted(share, key=share.__getitem__, reverse=True)]
