_base_ = [
    './models/semanticfpn.py',
    './datasets/ade20k.py',
    './schedules/80k.py',
    './runtime/segmentation.py',
]

# Crops at the image's edge are padded to full size.
model = dict(data_preprocessor=dict(size=_base_.crop_size))
