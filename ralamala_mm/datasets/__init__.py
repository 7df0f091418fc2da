"""Data: the built-in shapes, a user's own folders looked at, checks on files, and images read with care."""

from .checked import use_checked_loading, use_skipping
from .loading import LoadCheckedImage
from .own import use_data
from .paths import check_paths, set_data_root

__all__ = ['LoadCheckedImage', 'check_paths', 'set_data_root', 'use_checked_loading', 'use_data', 'use_skipping']
