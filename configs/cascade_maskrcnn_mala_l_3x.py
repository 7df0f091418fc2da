"""Cascade Mask R-CNN with MALA-L on COCO, 36 epochs, multi-scale."""
_base_ = ['./_base_/cascade_maskrcnn_3x.py', './_base_/backbones/mala_l.py']

model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.embed_dims))
