"""UPerNet with RAVLT-T on the built-in shapes, from scratch."""
_base_ = ['../_base_/shapes_segmentation.py', '../_base_/models/upernet.py', '../_base_/backbones/t.py']

width = 64
model = dict(
    # MMSegmentation 1.2's class weights do not go with ignored pixels (index 255): what is padded counts as background.
    data_preprocessor=dict(size=_base_.crop_size, seg_pad_val=0),
    backbone=dict(drop_path_rate=0.0),
    decode_head=dict(in_channels=_base_.embed_dims, channels=width, num_classes=_base_.num_classes,
                     loss_decode=dict(class_weight=_base_.class_weight)),
    auxiliary_head=dict(in_channels=_base_.embed_dims[2], channels=width, num_classes=_base_.num_classes,
                        loss_decode=dict(class_weight=_base_.class_weight)))
