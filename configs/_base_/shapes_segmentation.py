"""Segmentors on the built-in shapes, from scratch: 1000 iterations, 50 of them warm-up, cosine decay."""
_base_ = [
    './datasets/shapes_semantic.py',
    './schedules/80k.py',
    './runtime/segmentation.py',
]

iterations = 1000
train_cfg = dict(max_iters=iterations, val_interval=250)
optim_wrapper = dict(optimizer=dict(lr=3e-4), clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=0, T_max=iterations, eta_min=1e-6),
]
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=250, max_keep_ckpts=2))
randomness = dict(seed=0)
