"""Mask R-CNN with RAVLT-T on the built-in shapes, from scratch: some minutes on two CPU cores."""
_base_ = ['../_base_/models/maskrcnn.py', '../_base_/datasets/shapes_instance.py', '../_base_/schedules/1x.py',
          '../_base_/runtime/detection.py', '../_base_/variants/t.py']

# Half the width of COCO's heads and 128 instead of 512 regions per picture: there are four classes and six objects.
model = dict(
    backbone=dict(type='RAVLT', arch='t', drop_path_rate=0.0),
    neck=dict(in_channels=_base_.embed_dims, out_channels=64),
    # Anchors from 16 to 256 pixels, as the shapes are 20 to 60 pixels large.
    rpn_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        bbox_head=dict(in_channels=64, fc_out_channels=512, num_classes=_base_.num_classes),
        mask_roi_extractor=dict(out_channels=64),
        mask_head=dict(num_convs=2, in_channels=64, conv_out_channels=64, num_classes=_base_.num_classes)),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=250),
        rcnn=dict(sampler=dict(num=48))),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=100)))

train_cfg = dict(max_epochs=6)
optim_wrapper = dict(optimizer=dict(lr=5e-4), clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=0, T_max=6, eta_min=1e-6, convert_to_iter_based=True),
]
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(max_keep_ckpts=2))
