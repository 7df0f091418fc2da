"""Semantic FPN with a MALA of some 0.1 M parameters, trained by iterations; gradients of two iterations are added up."""
_base_ = '../../../configs/demo/semanticfpn_ravlt_t_shapes.py'

tiny = [16, 16, 32, 32]
width = 16
model = dict(
    backbone=dict(_delete_=True, type='MALA', drop_path_rate=0.2,
                  arch=dict(embed_dims=tiny, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], mlp_ratio=2.0)),
    neck=dict(in_channels=tiny, out_channels=width),
    decode_head=dict(in_channels=[width] * 4, channels=width))
optim_wrapper = dict(accumulative_counts=2)
train_dataloader = dict(batch_size=2, num_workers=2)
val_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
train_cfg = dict(max_iters=20, val_interval=10)
param_scheduler = [dict(type='PolyLR', power=0.9, by_epoch=False, begin=0, end=200, eta_min=1e-6)]
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=5))
randomness = dict(seed=7)
