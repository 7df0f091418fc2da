"""RAVLT and MALA, linear-attention vision transformers, for dense prediction on OpenMMLab.

Importing this package registers both in MMEngine's root registry: `type='RAVLT'` then works under any scope.
"""

from importlib.util import find_spec

if find_spec('mmengine') is None:
    raise ImportError('ralamala_mm needs MMEngine: run `make install`, or `pip install mmengine` (or onedl-mmengine)')

from .compatibility import find_moved_modules, restore_find_loader

restore_find_loader()
find_moved_modules()

from .backbones import MALA, RAVLT  # noqa: E402
from .version import __version__  # noqa: E402

__all__ = ['MALA', 'RAVLT', '__version__']
