"""Images found by the names that annotations give them, wherever they lie below a folder."""

import mmap
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TypeVar
from urllib.parse import unquote

from ralamala_mm.errors import UserError

from .report import is_image, split_of

# Folders of masks, whose files bear the names of the images.
MASK_FOLDERS = ('annotations', 'annotation', 'masks', 'mask', 'labels', 'label', 'ann_dir', 'semantic', 'gt', 'segmentation')
Split = TypeVar('Split')  # a dataclass with a name
_SPLITS = ('train', 'val', 'test')
_OF_SYSTEMS = ('__MACOSX',)  # folders that archives of macOS bring along


def is_hidden(name: str) -> bool:
    """Files and folders that systems and editors make: `._a.png`, `.ipynb_checkpoints`, `__MACOSX`."""
    return name.startswith('.') or name in _OF_SYSTEMS


def has_text(path: Path, text: bytes) -> bool:
    """Whether a file holds these bytes; large files are not read whole for that."""
    if not path.stat().st_size:
        return False
    with path.open('rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(text) >= 0


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, hidden ones left out."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))


def holds_masks(folder: str) -> bool:
    """Whether a folder is one of masks by its name in lower case: `masks`, `train_labels`, `trainannot`."""
    return folder in MASK_FOLDERS or re.split('[^a-z]+', folder)[-1] in MASK_FOLDERS or folder.endswith('annot')


class ImageIndex:
    """All images below a folder, by the last part of their names; the folder is read when it is first asked for.

    Args:
        root: the folder.
        split: 'train', 'val' or 'test': folders named as another one of these are left out.
        files: the images below the root, if they are known.
    """

    def __init__(self, root: Path, split: str = '', files: Sequence[Path] | None = None):
        self.root, self.split, self._files = root, split, files

    @cached_property
    def _by_key(self) -> dict[str, list[tuple[str, ...]]]:
        """Parts of paths within the root, by name and by name without suffix."""
        found = defaultdict(list)
        for parts in self._walk():
            for key in {_key(parts[-1]), _key(os.path.splitext(parts[-1])[0])}:
                found[key].append(parts)
        return found

    def _walk(self) -> Iterator[tuple[str, ...]]:
        if self._files is not None:
            inside = (file.relative_to(self.root).parts for file in self._files)
            yield from (parts for parts in inside if all(map(self._may_hold_images, parts[:-1])))
            return
        for folder, folders, files in os.walk(self.root):
            folders[:] = sorted(name for name in folders if not is_hidden(name) and self._may_hold_images(name))
            inside = PurePosixPath(os.path.relpath(folder, self.root)).parts
            yield from ((*inside, name) for name in sorted(files) if is_image(name) and not is_hidden(name))

    def _may_hold_images(self, folder: str) -> bool:
        is_other_split = self.split in _SPLITS and split_of(folder) not in (None, self.split)
        return not is_other_split and not holds_masks(folder.lower()) and not folder.startswith('Segmentation')

    def find(self, name: str) -> str | None:
        """The one image that a name of another machine means, as a path within the root; None if there is none, or several.

        Args:
            name: as `/home/anna/images/a.jpg`, `..\\images\\a.JPG`, `/data/local-files/?d=images/a%20b.jpg`, or `a` for `a.jpg`.
        """
        wanted = _parts(name)
        if not wanted:
            return None
        candidates = self._by_key.get(_key(wanted[-1]), [])
        common = [_common_end(parts, wanted) for parts in candidates]
        best = [parts for parts, count in zip(candidates, common, strict=True) if count == max(common)]
        return '/'.join(best[0]) if len(best) == 1 else None


def _key(name: str) -> str:
    return unicodedata.normalize('NFC', name).casefold()


def _parts(name: str) -> list[str]:
    text = unquote(name.rpartition('?d=')[2]).replace('\\', '/')
    return [part for part in text.split('/') if part not in ('', '.', '..')]


def _common_end(path: tuple[str, ...], wanted: list[str]) -> int:
    """How many parts two paths have in common before their last ones, from the end."""
    count = 0
    for mine, theirs in zip(reversed(path[:-1]), reversed(wanted[:-1]), strict=False):
        if _key(mine) != _key(theirs):
            break
        count += 1
    return count


def find_here_or_deeper(root: Path, find: Callable[[Path], tuple[str, dict]], leave_out: Path | None) -> tuple[str, dict]:
    """The layout and splits that `find` finds in a folder, or else in the one of its subfolders that has any.

    Args:
        root: the folder.
        find: gives a word for the layout, and the splits by name.
        leave_out: a subfolder that is passed over.

    Raises:
        UserError: several subfolders have some.
    """
    layout, splits = find(root)
    if splits:
        return layout, splits
    passed = leave_out and os.path.realpath(leave_out)
    deeper = [(folder, *found) for folder in subfolders(root)
              if os.path.realpath(folder) != passed and (found := find(folder))[1]]
    if len(deeper) > 1:
        raise UserError(f'{deeper[0][0]} and {deeper[1][0]} both hold COCO annotations: give one of them to --data')
    return (f'{deeper[0][1]}, in the folder {deeper[0][0].name}', deeper[0][2]) if deeper else (layout, {})


def settle_trainval(splits: dict[str, Split]) -> None:
    """Images for training and validation are trained on, unless there are some for training alone."""
    both = splits.pop('trainval', None)
    if both and 'train' not in splits:
        splits['train'] = replace(both, name='train')


def walk_folders(root: Path, depth: int) -> Iterator[Path]:
    """A folder and those in it, as many levels down."""
    yield root
    if depth:
        for folder in subfolders(root):
            yield from walk_folders(folder, depth - 1)
