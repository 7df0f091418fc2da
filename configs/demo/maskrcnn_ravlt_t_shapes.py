"""Mask R-CNN with RAVLT-T on the built-in shapes, from scratch: some minutes on two CPU cores."""
_base_ = ['../_base_/shapes_detection.py', '../_base_/models/maskrcnn.py', '../_base_/backbones/t.py']

# A quarter of the width of COCO's heads and 48 instead of 512 regions per picture, as there are four classes and at
# most six objects; batch norm in the heads, as nothing is pretrained.
width = 64
norm_cfg = dict(type='SyncBN')
model = dict(
    backbone=dict(type='RAVLT', arch='t', drop_path_rate=0.0),
    neck=dict(in_channels=_base_.embed_dims, out_channels=width, num_outs=4, norm_cfg=norm_cfg),
    # Anchors of 16, 23, 32, 45, … pixels, half an octave apart: the shapes are 30 to 65 pixels large.
    rpn_head=dict(in_channels=width, feat_channels=width,
                  anchor_generator=dict(scales=[4, 4 * 2 ** 0.5], strides=[4, 8, 16, 32])),
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=dict(sampling_ratio=1), out_channels=width),
        bbox_head=dict(type='Shared4Conv1FCBBoxHead', in_channels=width, conv_out_channels=width, fc_out_channels=256,
                       norm_cfg=norm_cfg, num_classes=_base_.num_classes),
        mask_roi_extractor=dict(roi_layer=dict(sampling_ratio=1), out_channels=width),
        mask_head=dict(num_convs=2, in_channels=width, conv_out_channels=width, norm_cfg=norm_cfg,
                       num_classes=_base_.num_classes)),
    train_cfg=dict(
        rpn=dict(assigner=dict(pos_iou_thr=0.6), sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=dict(num=48))),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100)))
