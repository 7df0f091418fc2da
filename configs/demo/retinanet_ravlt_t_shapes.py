"""RetinaNet with RAVLT-T on the built-in shapes, from scratch."""
_base_ = ['../_base_/shapes_detection.py', '../_base_/models/retinanet.py', '../_base_/backbones/t.py']

# A quarter of the width of COCO's heads; group norm in the head, whose layers serve all levels, as nothing is pretrained.
width = 64
model = dict(
    backbone=dict(drop_path_rate=0.0),
    neck=dict(in_channels=_base_.embed_dims[1:], out_channels=width, num_outs=3, norm_cfg=dict(type='SyncBN')),
    # Anchors from 20 pixels on stride 8: the shapes are 30 to 65 pixels large.
    bbox_head=dict(
        num_classes=_base_.num_classes, in_channels=width, feat_channels=width, stacked_convs=2,
        norm_cfg=dict(type='GN', num_groups=8),
        anchor_generator=dict(octave_base_scale=2.5, strides=[8, 16, 32])))
val_evaluator = dict(metric='bbox')
test_evaluator = val_evaluator
