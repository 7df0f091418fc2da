"""Semantic FPN with RAVLT-B on ADE20K, 80,000 iterations."""
_base_ = ['./_base_/semanticfpn_80k.py', './_base_/backbones/ravlt_b.py']

model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.embed_dims))
