"""Data: the built-in shapes, checks on the files of a user's own, and images read with care."""

from .loading import LoadCheckedImage, use_checked_loading
from .paths import check_paths

__all__ = ['LoadCheckedImage', 'check_paths', 'use_checked_loading']
