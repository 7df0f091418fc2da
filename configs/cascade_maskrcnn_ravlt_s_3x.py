"""Cascade Mask R-CNN with RAVLT-S on COCO, 36 epochs, multi-scale."""
_base_ = ['./_base_/cascade_maskrcnn_3x.py', './_base_/backbones/ravlt_s.py']

model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.embed_dims))
