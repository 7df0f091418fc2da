_base_ = ['./b.py', './released.py']

backbone = dict(type='MALA', arch='b', pretrained=_base_.released_mala)
