_base_ = ['./b.py', './released.py']

backbone = dict(type='RAVLT', arch='b', pretrained=_base_.released_ravlt + 'RAVLT_B.pth')
