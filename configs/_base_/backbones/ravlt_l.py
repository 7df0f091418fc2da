_base_ = ['./l.py', './released.py']

backbone = dict(type='RAVLT', arch='l', pretrained=_base_.released_ravlt + 'RAVLT_L.pth')
