"""RAVLT and MALA for dense prediction."""

from .mala import MALA
from .ravlt import RAVLT

__all__ = ['MALA', 'RAVLT']
