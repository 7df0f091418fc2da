"""RetinaNet with RAVLT-S on COCO, 12 epochs."""
_base_ = ['./_base_/retinanet_1x.py', './_base_/backbones/ravlt_s.py']

model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.embed_dims[1:]))
