"""12 epochs, ×0.1 after 8 and 11, linear warm-up over 500 iterations; AdamW as in the papers."""
_base_ = 'mmdet::_base_/schedules/schedule_1x.py'

# 16 images a step = 8 GPUs × 2 images, MMDetection's auto_scale_lr.base_batch_size too. With another batch keep
# lr / batch: --auto-scale-lr does that, 1e-4 × (GPUs × images) / 16.
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    # By name, as in the released runs: the batch norms of the stem (patch_embed.proj.1 …) and layer scale are decayed.
    paramwise_cfg=dict(custom_keys=dict(norm=dict(decay_mult=0.0))))
