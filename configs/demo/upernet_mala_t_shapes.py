"""UPerNet with MALA-T on the built-in shapes, from scratch."""
_base_ = './upernet_ravlt_t_shapes.py'

model = dict(backbone=dict(type='MALA'))
