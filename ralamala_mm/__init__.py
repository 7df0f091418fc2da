"""RAVLT and MALA, linear-attention vision transformers, for dense prediction on OpenMMLab.

Importing this package registers both in MMEngine's root registry: `type='RAVLT'` then works under any scope.
"""

from .backbones import MALA, RAVLT
from .version import __version__

__all__ = ['MALA', 'RAVLT', '__version__']
