"""Reading how large an image is, and writing files that several processes may write at once."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image

_ORIENTATION = 0x0112  # EXIF tag; 5 to 8 are quarter turns


def image_size(path: Path | str) -> tuple[int, int] | None:
    """Width and height as OpenCV reads the image, turned as its EXIF data say; None if it cannot be read."""
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            lies_on_its_side = picture.getexif().get(_ORIENTATION, 1) >= 5
    except OSError:
        return None
    return (height, width) if lies_on_its_side else (width, height)


def write_in_one_move(path: Path, write: Callable[[Path], object]) -> Path:
    """Lets `write` fill a file of another name beside `path` and moves it there whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=path.stem, suffix=path.suffix, dir=path.parent)
    os.close(handle)
    write(Path(name))
    os.chmod(name, 0o644)  # temporary files are for their owner alone
    os.replace(name, path)
    return path
