"""Mask R-CNN with RAVLT-T on the built-in shapes, from scratch: some minutes on two CPU cores."""
_base_ = ['../_base_/shapes_detection.py', '../_base_/models/maskrcnn.py', '../_base_/backbones/t.py']

# Images go in at 5/8 of their size: a training of some minutes gains more from the iterations that this pays for.
resize = dict(type='Resize', scale=(80, 80), keep_ratio=True)
train_pipeline = [*_base_.train_pipeline[:2], resize, *_base_.train_pipeline[2:]]
test_pipeline = [_base_.test_pipeline[0], resize, *_base_.test_pipeline[2:]]
# Loaded by the training's own process: a worker would take more time from its threads than it saves.
train_dataloader = dict(batch_size=5, num_workers=0, persistent_workers=False, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=10, num_workers=0, persistent_workers=False, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
epochs = 4
train_cfg = dict(max_epochs=epochs, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=2))
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], T_max=epochs)]

# A quarter of the width of COCO's heads and 24 instead of 512 regions per image, as there are four classes and at
# most five objects; boxes and masks for all classes in common, which learn from every object; batch norm in the
# heads, as nothing is pretrained.
width = 64
norm_cfg = dict(type='SyncBN')
model = dict(
    data_preprocessor=dict(pad_size_divisor=16),
    # Initialised by fan-in and fan-out: the 0.02 of pretraining recipes leaves the blocks idle for hundreds of iterations.
    backbone=dict(type='RAVLT', arch='t', drop_path_rate=0.0, init_cfg=dict(type='Xavier', layer='Conv2d')),
    neck=dict(in_channels=_base_.embed_dims, out_channels=width, num_outs=4, norm_cfg=norm_cfg),
    # Anchors of 16 to 62 pixels, half an octave apart: the shapes are 20 to 42 pixels large, less where others cover them.
    rpn_head=dict(in_channels=width, feat_channels=width,
                  anchor_generator=dict(scales=[1, 2 ** 0.5], base_sizes=[16, 22, 32, 44], strides=[4, 8, 16, 32])),
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=dict(sampling_ratio=1), out_channels=width),
        bbox_head=dict(type='Shared4Conv1FCBBoxHead', in_channels=width, conv_out_channels=width, fc_out_channels=256,
                       norm_cfg=norm_cfg, num_classes=_base_.num_classes, reg_class_agnostic=True,
                       loss_cls=dict(loss_weight=2.0)),
        mask_roi_extractor=dict(roi_layer=dict(sampling_ratio=1), out_channels=width),
        mask_head=dict(num_convs=2, in_channels=width, conv_out_channels=width, norm_cfg=norm_cfg,
                       num_classes=_base_.num_classes, class_agnostic=True)),
    train_cfg=dict(
        rpn=dict(assigner=dict(pos_iou_thr=0.6), sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=100, max_per_img=50),
        rcnn=dict(sampler=dict(num=24, pos_fraction=0.4))),
    test_cfg=dict(rpn=dict(nms_pre=100, max_per_img=50)))

# A high learning rate, which falls with the number of inputs of a layer and rises for depthwise convolutions, that have
# nine or 25: one rate for all is too low for some, or makes the gradients of the first stages explode. Norms are decayed too,
# as these keys are longer than the one that spares them; in so few iterations that is all the same.
optim_wrapper = dict(
    optimizer=dict(lr=1.6e-3, betas=(0.9, 0.98)),
    clip_grad=dict(max_norm=5.0),
    paramwise_cfg=dict(custom_keys={
        'layers.0': dict(lr_mult=0.6), 'layers.1': dict(lr_mult=0.45),
        'layers.2': dict(lr_mult=0.3), 'layers.3': dict(lr_mult=0.2),
        **{f'{name}.weight': dict(lr_mult=2.0) for name in ('pos', 'lepe', 'dwconv')},
        'shared_fcs': dict(lr_mult=0.5)}))
