_base_ = ['./t.py', './released.py']

backbone = dict(type='RAVLT', arch='t', pretrained=_base_.released_ravlt + 'RAVLT_T.pth')
