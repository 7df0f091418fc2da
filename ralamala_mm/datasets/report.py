"""What was found in a user's data, for reading before training starts: splits by their names, problems, the report."""

import itertools
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ralamala_mm.errors import UserError

if TYPE_CHECKING:
    from .contents import Contents

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
HELD_OUT = 10  # without a validation split, every tenth image that has objects is held out for it
_NAMES = {
    'train': ('train', 'training'),
    'val': ('val', 'valid', 'validation'),
    'test': ('test', 'testing'),
}
ERROR, CORRECTED, NOTE = 'ERROR', 'corrected', 'note'  # stops; handled, as the text says; harmless, but good to know
_ORDER = (ERROR, CORRECTED, NOTE)
_SHOWN_CLASSES = 24
_LOCATED = 100  # annotations or images of a problem whose positions are kept


def split_of(text: str) -> str | None:
    """'train', 'val' or 'test' if a name says so, such as `instances_train2017` or `valid`; None also for `train_val`."""
    words = re.findall(r'[a-z]+', text.lower())
    named = {split for split, names in _NAMES.items() if any(word in names for word in words)}
    return named.pop() if len(named) == 1 else None


def split_name(text: str) -> str | None:
    """As `split_of`, and 'trainval' for what is both."""
    return 'trainval' if re.search(r'train[^a-z]?val', text.lower()) else split_of(text)


def hold_out(items: Sequence, root: Path, has_objects: Callable[[object], bool] = lambda item: True) -> tuple[list, list]:
    """Training and validation part of what has only one part; the same ones each time.

    Args:
        items: images, in an order that is always the same.
        root: their folder, for messages.
        has_objects: whether there is anything to find in an image; of the others none is held out.

    Raises:
        UserError: there is one image with objects or none.
    """
    candidates = [i for i, item in enumerate(items) if has_objects(item)]
    if len(candidates) < 2:
        raise UserError(f'{root} has {len(candidates)} image to train on and none to validate on: at least two are needed')
    held_out = set(candidates[::HELD_OUT])
    return [item for i, item in enumerate(items) if i not in held_out], [items[i] for i in sorted(held_out)]


def is_image(path: Path | str) -> bool:
    """By its suffix."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


@dataclass(frozen=True)
class Problem:
    """One kind of defect in one split.

    `correcting` is what `--data` does about it; `needed` says that the libraries would stop at it or count wrongly, were it not
    corrected; `files` names those that have it, where it is one of files. Where the problem is of entries that can be counted,
    `what`, `count`, `which` and `consequence` are the parts of the text, and `annotations` and `images` their positions in the
    lists of an annotation file, the worst ones first.
    """

    level: str
    split: str
    text: str
    correcting: str = ''
    needed: bool = False
    files: tuple[str, ...] = ()
    what: str = ''
    count: int = 0
    which: str = ''
    consequence: str = ''
    annotations: tuple[int, ...] = ()
    images: tuple[int, ...] = ()

    def with_remedy(self, is_corrected: bool = True) -> str:
        """The text with what was done about it, or what `--data` would do."""
        if not self.correcting:
            return self.text
        return f'{self.text}; {"" if is_corrected else "with --data DIR: "}{self.correcting}'


def shown_path(path: Path, root: Path) -> str:
    """A path within a folder relative to it; any other one as it is."""
    return os.path.relpath(path, root) if path.is_relative_to(root) else str(path)


def some(items: Iterable[object], count: int = 3) -> str:
    """'a, b, c and 5 more': the first few of many."""
    items = list(map(str, items))
    more = len(items) - count
    return ', '.join(items[:count]) + (f' and {more} more' if more > 0 else '')


def problem(level: str, split: str, what: str, entries: Sequence[object], consequence: str = '', correcting: str = '',
            needed: bool = False, files: Iterable[object] = (), annotations: Iterable[int] = (),
            images: Iterable[int] = ()) -> Problem:
    """'images smaller than 32 pixels: 2 (a.jpg, b.jpg); training leaves them out', the last being the consequence."""
    which = some(entries)
    text = f'{what}: {len(entries)} ({which})' + (f'; {consequence}' if consequence else '')
    return Problem(level, split, text, correcting, needed, tuple(map(str, files)), what, len(entries), which, consequence,
                   _first(annotations), _first(images))


def _first(positions: Iterable[int]) -> tuple[int, ...]:
    return tuple(map(int, itertools.islice(positions, _LOCATED)))


@dataclass
class Report:
    """The summary that is printed.

    Args:
        root: the folder.
        layout: what kind of folder it was taken for.
        splits: per split its name and a line about it.
        classes: names with the number of instances, or the share of pixels, in the training split.
        problems: in any order.
        contents: what each split holds, as far as it could be read.
        reaches_outside: whether files that lie elsewhere than in the folder were inspected.
        read_from: says where an earlier inspection's report was read; empty for a new one.
    """

    root: str
    layout: str
    splits: list[tuple[str, str]] = field(default_factory=list)
    classes: list[tuple[str, str]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    contents: list['Contents'] = field(default_factory=list)
    reaches_outside: bool = False
    read_from: str = ''

    @property
    def errors(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.level == ERROR]

    def __str__(self) -> str:
        return '\n'.join(self._lines()).encode('utf-8', 'backslashreplace').decode()  # names may be no text

    def _lines(self) -> list[str]:
        lines = [f'Data in {self.root}: {self.layout}']
        lines += [f'  {name:<6} {text}' for name, text in self.splits]
        named = [f'{name} {amount}' for name, amount in self.classes[:_SHOWN_CLASSES]]
        if len(self.classes) > _SHOWN_CLASSES:
            named.append(f'and {len(self.classes) - _SHOWN_CLASSES} more')
        if named:
            lines += _wrap(f'  {len(self.classes)} classes: ', named)
        if not self.problems:
            lines.append('  no problems found')
        for level in _ORDER:
            lines += [f'  {level:<9} {problem.split}: {problem.with_remedy()}'
                      for problem in self.problems if problem.level == level]
        return [*lines, f'  {self.read_from}'] if self.read_from else lines


def _wrap(start: str, items: Sequence[str], width: int = 120) -> list[str]:
    lines = [start]
    for item in items:
        if len(lines[-1]) + len(item) > width:
            lines.append('    ')
        lines[-1] += item + ('' if item is items[-1] else ', ')
    return lines
