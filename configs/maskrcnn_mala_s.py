"""Mask R-CNN with MALA-S on COCO, 12 epochs."""
_base_ = ['./_base_/maskrcnn_1x.py', './_base_/variants/s.py']

model = dict(backbone=dict(type='MALA', arch='s'), neck=dict(in_channels=_base_.embed_dims))
