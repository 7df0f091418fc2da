"""Mask R-CNN with a RAVLT of some 0.1 M parameters, with averaged weights, dropped paths and augmentation."""
_base_ = '../../../configs/demo/maskrcnn_ravlt_t_shapes.py'

tiny = [16, 16, 32, 32]
width = 16
model = dict(
    backbone=dict(_delete_=True, type='RAVLT', drop_path_rate=0.2,
                  arch=dict(embed_dims=tiny, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], mlp_ratio=2.0)),
    neck=dict(in_channels=tiny, out_channels=width),
    rpn_head=dict(in_channels=width, feat_channels=width),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=width),
        bbox_head=dict(in_channels=width, conv_out_channels=width, fc_out_channels=width),
        mask_roi_extractor=dict(out_channels=width),
        mask_head=dict(in_channels=width, conv_out_channels=width)))
train_dataloader = dict(batch_size=2, num_workers=2, persistent_workers=True)
val_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=4, val_interval=2)
param_scheduler = [dict(type='CosineAnnealingLR', by_epoch=True, begin=0, T_max=100, convert_to_iter_based=True)]
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=1))
custom_hooks = [dict(type='EMAHook', momentum=0.01)]
randomness = dict(seed=7)
