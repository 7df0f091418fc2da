"""Which part of a data set a file or folder holds, by the names that people and tools give; and how large images are."""

import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
HELD_OUT = 10  # without a validation split, every tenth image is held out for it
_ORIENTATION = 0x0112  # EXIF tag; 5 to 8 are quarter turns
_NAMES = {
    'train': ('train', 'training'),
    'val': ('val', 'valid', 'validation'),
    'test': ('test', 'testing'),
}


def split_of(text: str) -> str | None:
    """'train', 'val' or 'test' if a name says so, such as `instances_train2017` or `valid`."""
    words = re.findall(r'[a-z]+', text.lower())
    return next((split for split, names in _NAMES.items() if any(word in names for word in words)), None)


def folders_of(split: str) -> tuple[str, ...]:
    """Names that a split's folder may have."""
    return _NAMES.get(split, ())


def hold_out(items: Sequence) -> tuple[list, list]:
    """Training and validation part of what has only one part; the same ones each time."""
    return [item for i, item in enumerate(items) if i % HELD_OUT], list(items[::HELD_OUT])


def is_image(path: Path | str) -> bool:
    """By its suffix."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


def image_size(path: Path | str) -> tuple[int, int] | None:
    """Width and height as OpenCV reads the image, turned as its EXIF data say; None if it cannot be read."""
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            lies_on_its_side = picture.getexif().get(_ORIENTATION, 1) >= 5
    except OSError:
        return None
    return (height, width) if lies_on_its_side else (width, height)
