"""RAVLT and MALA for dense prediction."""

from .ravlt import RAVLT

# isort: split
# The order of the papers is that of sentences which name the families.
from .mala import MALA

__all__ = ['MALA', 'RAVLT']
