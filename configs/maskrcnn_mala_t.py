"""Mask R-CNN with MALA-T on COCO, 12 epochs."""
_base_ = ['./_base_/maskrcnn_1x.py', './_base_/variants/t.py']

model = dict(backbone=dict(type='MALA', arch='t'), neck=dict(in_channels=_base_.embed_dims))
