_base_ = ['./s.py', './released.py']

backbone = dict(type='MALA', arch='s', pretrained=_base_.released_mala)
