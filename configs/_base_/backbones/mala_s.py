_base_ = ['./s.py', './released.py']

# The authors' file for size S lies on https://huggingface.co/aldjalkdf/MAViT, under a name that we do not know: set
# model.backbone.pretrained to where you have it.
backbone = dict(type='MALA', arch='s', pretrained=_base_.released_mala)
