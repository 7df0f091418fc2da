_base_ = [
    './models/retinanet.py',
    './datasets/coco_detection.py',
    './schedules/1x.py',
    './runtime/detection.py',
]

optim_wrapper = dict(optimizer=dict(weight_decay=1e-4), paramwise_cfg=None)
