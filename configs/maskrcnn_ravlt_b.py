"""Mask R-CNN with RAVLT-B on COCO, 12 epochs."""
_base_ = ['./_base_/maskrcnn_1x.py', './_base_/variants/b.py']

model = dict(backbone=dict(type='RAVLT', arch='b'), neck=dict(in_channels=_base_.embed_dims))
