"""RetinaNet with MALA-L on COCO, 12 epochs."""
_base_ = ['./_base_/retinanet_1x.py', './_base_/backbones/mala_l.py']

model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.embed_dims[1:]))
