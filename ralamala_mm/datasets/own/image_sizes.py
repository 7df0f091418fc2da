"""Reading how large an image is."""

from pathlib import Path

from PIL import Image

from ..decoding import ORIENTATION


def image_size(path: Path | str) -> tuple[int, int] | None:
    """Width and height of an image as it is seen, turned as its EXIF data say; None if it cannot be read."""
    sizes = image_sizes(path)
    return sizes and sizes[0]


def image_sizes(path: Path | str) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Width and height of an image as it is seen and as it is stored; None if it cannot be read."""
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            lies_on_its_side = picture.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
    except Exception:  # decoders of broken files raise whatever they come upon; the file is told with its name when it is read
        return None
    return ((height, width) if lies_on_its_side else (width, height)), (width, height)
