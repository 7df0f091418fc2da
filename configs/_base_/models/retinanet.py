"""MMDetection's RetinaNet; the top-level config names the backbone and the neck's channels."""
_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'

# The released runs compute four maps and skip the first in the neck (start_level=1), which leaves its norm without a
# gradient. The backbone gives the other three instead: the same network, and plain DDP can train it.
model = dict(
    backbone=dict(_delete_=True, type='RAVLT', arch='t', out_indices=(1, 2, 3)),
    neck=dict(start_level=0))
