_base_ = [
    './models/cascade_maskrcnn.py',
    './datasets/coco_instance_multiscale.py',
    './schedules/3x.py',
    './runtime/detection.py',
]

# All norm layers are free of decay here, the stem's batch norms too, as in the released runs.
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.0))
