"""Annotations of other formats than COCO's, read by one module each and converted into COCO annotation files.

A format is a function `find(listing) -> Found | None`; adding one is a module with it, and its name in `_FORMATS`.
"""

from collections.abc import Callable
from pathlib import Path

from . import createml, cvat_xml, labelme, labelme_xml, object_masks, open_images, panoptic, supervisely, via, voc, yolo
from .conversion import Converted, convert
from .labels import Found, Listing

# Those that a file's content proves come before those that names suggest.
_FORMATS: tuple[Callable[[Listing], Found | None], ...] = tuple(module.find for module in (
    supervisely, labelme, createml, via, panoptic, cvat_xml, labelme_xml, voc, open_images, yolo, object_masks))

__all__ = ['Converted', 'convert_folder']


def convert_folder(root: Path, work_dir: Path, for_detector: bool, show_progress: bool = True) -> Converted | None:
    """The COCO form of a folder in another format, or None if it is in none that is known.

    Args:
        root: the folder; not changed.
        work_dir: the annotation files go to `work_dir/data/converted`.
        for_detector: leave out regions without instances, such as sky.
        show_progress: print how far it is on stderr when it takes long.

    Raises:
        UserError: a file that says what the classes are, or where the images, cannot be used.
    """
    listing = Listing(root)
    found = next((found for find in _FORMATS if (found := find(listing))), None)
    return found and convert(found, listing, work_dir / 'data' / 'converted', for_detector, show_progress)
