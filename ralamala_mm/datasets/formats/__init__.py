"""Annotations of other formats than COCO's, read by one module each and converted into COCO annotation files.

A format is a module with a function `find(listing) -> Found | None`; adding one is that and its name in `_FORMATS`.
"""

from pathlib import Path

from ralamala_mm.datasets.report import NOTE
from ralamala_mm.errors import UserError

from . import createml, cvat_xml, labelme, labelme_xml, object_masks, open_images, panoptic, supervisely, via, voc, yolo
from .conversion import Converted, convert
from .labels import Found, Listing, Remark

_OTHER = Remark(NOTE, 'annotations in another format', 'not used')
# Of two with as many images, the first is taken: those that a file's content proves come before those that names suggest.
_FORMATS = (supervisely, labelme, createml, via, panoptic, cvat_xml, labelme_xml, voc, open_images, yolo, object_masks)

__all__ = ['Converted', 'Found', 'Listing', 'convert', 'convert_folder', 'find_format']


def find_format(listing: Listing) -> Found | None:
    """The format of a folder, of several the one with the most images; None if it is in none that is known.

    Raises:
        UserError: a file that says what the classes are, or where the images, cannot be used.
    """
    found, failure = [], None
    for module in _FORMATS:
        try:
            one = module.find(listing) if module is not object_masks or not found else None
        except UserError as error:
            failure = failure or error
            continue
        found += [one] if one else []
    if not found:
        if failure:
            raise failure
        return None
    best = max(found, key=_count)
    best.remarks += [(_OTHER, f'{one.layout}, {_count(one)} images') for one in found if one is not best]
    return best


def _count(found: Found) -> int:
    return sum(map(len, found.splits.values()))


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
    listing = Listing(root, work_dir)
    found = find_format(listing)
    return found and convert(found, listing, work_dir, for_detector, show_progress)
