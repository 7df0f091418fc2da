"""UPerNet with RAVLT-B on ADE20K, 160,000 iterations."""
_base_ = ['./_base_/upernet_160k.py', './_base_/backbones/ravlt_b.py']

model = dict(
    backbone=_base_.backbone,
    decode_head=dict(in_channels=_base_.embed_dims),
    auxiliary_head=dict(in_channels=_base_.embed_dims[2]))
