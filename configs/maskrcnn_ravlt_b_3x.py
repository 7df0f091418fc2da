"""Mask R-CNN with RAVLT-B on COCO, 36 epochs, multi-scale."""
_base_ = ['./_base_/maskrcnn_3x.py', './_base_/backbones/ravlt_b.py']

model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.embed_dims))
