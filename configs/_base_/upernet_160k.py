_base_ = [
    './models/upernet.py',
    './datasets/ade20k.py',
    './schedules/160k.py',
    './runtime/segmentation.py',
]

# Crops at the image's edge are padded to full size.
model = dict(data_preprocessor=dict(size=_base_.crop_size))
