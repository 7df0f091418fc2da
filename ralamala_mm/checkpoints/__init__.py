"""Released and user files into our models: read safely, recognised, loaded with a report."""

from .loading import LoadReport, load_backbone_checkpoint, load_weights
from .reading import find_weights, near_names, read_checkpoint

__all__ = ['LoadReport', 'find_weights', 'load_backbone_checkpoint', 'load_weights', 'near_names', 'read_checkpoint']
