"""MMDetection's Cascade Mask R-CNN with the box heads of four convolutions and GIoU loss that came with Swin."""
_base_ = 'mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py'

model = dict(
    backbone=dict(_delete_=True, type='RAVLT', arch='t'),
    roi_head=dict(bbox_head=[
        dict(
            type='Shared4Conv1FCBBoxHead',
            in_channels=256,
            num_classes=80,
            bbox_coder=bbox_head.bbox_coder,  # the stages differ in its target_stds alone
            norm_cfg=dict(type='SyncBN'),
            reg_decoded_bbox=True,
            loss_cls=bbox_head.loss_cls,
            loss_bbox=dict(type='GIoULoss', loss_weight=10.0))
        for bbox_head in _base_.model.roi_head.bbox_head]))
