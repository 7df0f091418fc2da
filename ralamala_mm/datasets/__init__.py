"""Data: the built-in shapes, a user's own folders inspected, checks on files, and images read with care."""

from .config import check_paths, set_data_root, use_checked_loading, use_skipping
from .images import LoadCheckedImage
from .user_data import use_data

__all__ = ['LoadCheckedImage', 'check_paths', 'set_data_root', 'use_checked_loading', 'use_data', 'use_skipping']
