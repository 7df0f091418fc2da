"""Detectors on the built-in shapes, from scratch: 4 epochs, 50 iterations of warm-up, cosine decay."""
_base_ = [
    './datasets/shapes_instance.py',
    './schedules/1x.py',
    './runtime/detection.py',
]

epochs = 4
train_cfg = dict(max_epochs=epochs)
optim_wrapper = dict(optimizer=dict(lr=8e-4), clip_grad=dict(max_norm=10.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=0, T_max=epochs, eta_min=1e-6, convert_to_iter_based=True),
]
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(max_keep_ckpts=2))
randomness = dict(seed=0)
