"""160,000 iterations: 1,500 of linear warm-up from 1e-6 of the rate, then linear to 0; AdamW as in the papers."""
_base_ = 'mmseg::_base_/schedules/schedule_160k.py'

# 16 images a step = 8 GPUs × 2 images; --auto-scale-lr keeps lr / batch with another batch.
auto_scale_lr = dict(enable=False, base_batch_size=16)
optimizer = None  # the SGD of the base, which optim_wrapper replaces
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(custom_keys=dict(norm=dict(decay_mult=0.0))))
warm_up = 1500
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=warm_up, by_epoch=False),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=warm_up, end=_base_.train_cfg.max_iters, by_epoch=False),
]
