"""Annotations of other formats than COCO's, read by one module each and converted into COCO annotation files.

A format is a module with a function `find(listing) -> Found | None`; adding one is that and its name in `_FORMATS`.
"""

from pathlib import Path

from . import createml, cvat_xml, labelme, labelme_xml, object_masks, open_images, panoptic, supervisely, via, voc, yolo
from .conversion import Converted, convert
from .labels import Listing

# Those that a file's content proves come before those that names suggest.
_FORMATS = (supervisely, labelme, createml, via, panoptic, cvat_xml, labelme_xml, voc, open_images, yolo, object_masks)
# Those with files of masks that are not masks of classes.
_WITH_MASK_FILES = (panoptic, labelme_xml, open_images)

__all__ = ['Converted', 'convert_folder']


def convert_folder(root: Path, work_dir: Path, for_detector: bool, show_progress: bool = True,
                   with_mask_files: bool = False) -> Converted | None:
    """The COCO form of a folder in another format, or None if it is in none that is known.

    Args:
        root: the folder; not changed.
        work_dir: the annotation files go to `work_dir/data/converted`.
        for_detector: leave out regions without instances, such as sky.
        show_progress: print how far it is on stderr when it takes long.
        with_mask_files: look only for formats with files of masks that are not masks of classes.

    Raises:
        UserError: a file that says what the classes are, or where the images, cannot be used.
    """
    listing = Listing(root)
    formats = _WITH_MASK_FILES if with_mask_files else _FORMATS
    found = next((found for module in formats if (found := module.find(listing))), None)
    return found and convert(found, listing, work_dir.absolute() / 'data' / 'converted', for_detector, show_progress)
