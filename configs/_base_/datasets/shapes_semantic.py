"""The built-in shapes (python tools/make_shapes.py) as semantic masks; images of 128×128 in their own size."""
_base_ = './ade20k.py'

data_root = 'data/shapes'
metainfo = dict(
    classes=('background', 'circle', 'square', 'triangle', 'star'),
    palette=[(90, 90, 90), (220, 60, 60), (60, 120, 220), (60, 190, 90), (230, 180, 40)])
num_classes = 5
# Four pixels of five are background: with less weight the shapes are learnt sooner.
class_weight = [0.3, 1.0, 1.0, 1.0, 1.0]
crop_size = (128, 128)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PackSegInputs'),
]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(
        type='BaseSegDataset',
        data_root=data_root,
        metainfo=metainfo,
        img_suffix='.png',
        data_prefix=dict(img_path='train', seg_map_path='semantic/train'),
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(
        type='BaseSegDataset',
        data_root=data_root,
        metainfo=metainfo,
        img_suffix='.png',
        data_prefix=dict(img_path='val', seg_map_path='semantic/val'),
        pipeline=test_pipeline))
test_dataloader = val_dataloader
