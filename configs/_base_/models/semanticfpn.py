"""MMSegmentation's Semantic FPN; the top-level config names the backbone and the neck's channels."""
_base_ = 'mmseg::_base_/models/fpn_r50.py'

model = dict(
    pretrained=None,  # the ResNet's; ours is the backbone's own argument
    backbone=dict(_delete_=True, type='RAVLT', arch='t'),
    decode_head=dict(num_classes=150))
