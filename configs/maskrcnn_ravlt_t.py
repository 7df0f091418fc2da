"""Mask R-CNN with RAVLT-T on COCO, 12 epochs."""
_base_ = ['./_base_/maskrcnn_1x.py', './_base_/variants/t.py']

model = dict(backbone=dict(type='RAVLT', arch='t'), neck=dict(in_channels=_base_.embed_dims))
