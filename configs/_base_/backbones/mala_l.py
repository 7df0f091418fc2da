_base_ = ['./l.py', './released.py']

backbone = dict(type='MALA', arch='l', pretrained=_base_.released_mala)
