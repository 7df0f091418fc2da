_base_ = [
    './models/maskrcnn.py',
    './datasets/coco_instance.py',
    './schedules/1x.py',
    './runtime/detection.py',
]
