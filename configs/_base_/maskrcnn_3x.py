_base_ = [
    './models/maskrcnn.py',
    './datasets/coco_instance_multiscale.py',
    './schedules/3x.py',
    './runtime/detection.py',
]
