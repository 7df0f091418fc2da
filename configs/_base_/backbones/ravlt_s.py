_base_ = ['./s.py', './released.py']

backbone = dict(type='RAVLT', arch='s', pretrained=_base_.released_ravlt + 'RAVLT_S.pth')
