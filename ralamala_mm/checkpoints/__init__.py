"""Released and user files into our models: read safely, recognised, loaded with a report."""

from .identify import RecordedBackbone, recorded_backbone, recorded_classes
from .loading import LoadReport, load_backbone_checkpoint, load_weights
from .reading import check_file, fetch, find_weights, read_checkpoint, read_safely_everywhere, trust_checkpoints

__all__ = [
    'LoadReport', 'RecordedBackbone', 'check_file', 'fetch', 'find_weights', 'load_backbone_checkpoint', 'load_weights',
    'read_checkpoint', 'read_safely_everywhere', 'recorded_backbone', 'recorded_classes', 'trust_checkpoints',
]
