"""80,000 iterations, polynomial decay to 1e-6; AdamW as in the papers."""
_base_ = 'mmseg::_base_/schedules/schedule_80k.py'

# 16 images a step = 8 GPUs × 2 images; --auto-scale-lr keeps lr / batch with another batch.
auto_scale_lr = dict(enable=False, base_batch_size=16)
optimizer = None  # the SGD of the base, which optim_wrapper replaces
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-4))
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=1e-6, begin=0, end=_base_.train_cfg.max_iters, by_epoch=False),
]
