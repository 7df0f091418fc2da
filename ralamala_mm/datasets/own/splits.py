"""Which part of a data set a file or folder holds, by the names that people and labelling tools give."""

import re
from collections.abc import Sequence
from pathlib import Path

from ralamala_mm.errors import UserError

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
HELD_OUT = 10  # without a validation split, every tenth image is held out for it
_NAMES = {
    'train': ('train', 'training'),
    'val': ('val', 'valid', 'validation'),
    'test': ('test', 'testing'),
}


def split_of(text: str) -> str | None:
    """'train', 'val' or 'test' if a name says so, such as `instances_train2017` or `valid`; None also for `train_val`."""
    words = re.findall(r'[a-z]+', text.lower())
    named = {split for split, names in _NAMES.items() if any(word in names for word in words)}
    return named.pop() if len(named) == 1 else None


def hold_out(items: Sequence, root: Path) -> tuple[list, list]:
    """Training and validation part of what has only one part; the same ones each time.

    Raises:
        UserError: there is one image or none.
    """
    if len(items) < 2:
        raise UserError(f'{root} has {len(items)} image to train on and none to validate on: at least two are needed')
    return [item for i, item in enumerate(items) if i % HELD_OUT], list(items[::HELD_OUT])


def is_image(path: Path | str) -> bool:
    """By its suffix."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES
