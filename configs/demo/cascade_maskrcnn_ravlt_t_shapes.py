"""Cascade Mask R-CNN with RAVLT-T on the built-in shapes, from scratch; sizes as in the demo of Mask R-CNN."""
_base_ = ['../_base_/shapes_detection.py', '../_base_/models/cascade_maskrcnn.py', '../_base_/backbones/t.py']

width = 64
norm_cfg = dict(type='SyncBN')
box_heads = [
    dict(head, in_channels=width, conv_out_channels=width, fc_out_channels=256, num_classes=_base_.num_classes)
    for head in _base_.model.roi_head.bbox_head]
stages = [dict(stage, sampler=dict(stage.sampler, num=48)) for stage in _base_.model.train_cfg.rcnn]
model = dict(
    backbone=dict(drop_path_rate=0.0),
    neck=dict(in_channels=_base_.embed_dims, out_channels=width, num_outs=4, norm_cfg=norm_cfg),
    rpn_head=dict(in_channels=width, feat_channels=width,
                  anchor_generator=dict(scales=[4, 4 * 2 ** 0.5], strides=[4, 8, 16, 32])),
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=dict(sampling_ratio=1), out_channels=width),
        bbox_head=box_heads,
        mask_roi_extractor=dict(roi_layer=dict(sampling_ratio=1), out_channels=width),
        mask_head=dict(num_convs=2, in_channels=width, conv_out_channels=width, norm_cfg=norm_cfg,
                       num_classes=_base_.num_classes)),
    train_cfg=dict(
        rpn=dict(assigner=dict(pos_iou_thr=0.6), sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=stages),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100)))
