"""MMSegmentation's UPerNet; the top-level config names the backbone and the heads' channels."""
_base_ = 'mmseg::_base_/models/upernet_r50.py'

model = dict(
    pretrained=None,  # the ResNet's; ours is the backbone's own argument
    backbone=dict(_delete_=True, type='RAVLT', arch='t'),
    decode_head=dict(num_classes=150),
    auxiliary_head=dict(num_classes=150))
