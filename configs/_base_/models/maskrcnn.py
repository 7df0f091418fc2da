"""MMDetection's Mask R-CNN; the top-level config names the backbone and the neck's channels."""
_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'

# _delete_: no key of the ResNet (depth, style, …) may reach our backbones.
model = dict(backbone=dict(_delete_=True, type='RAVLT', arch='t'))
