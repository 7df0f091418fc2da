_base_ = ['./t.py', './released.py']

backbone = dict(type='MALA', arch='t', pretrained=_base_.released_mala)
