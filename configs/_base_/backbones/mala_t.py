_base_ = ['./t.py', './released.py']

# The authors' file for size T lies on https://huggingface.co/aldjalkdf/MAViT, under a name that we do not know: set
# model.backbone.pretrained to where you have it.
backbone = dict(type='MALA', arch='t', pretrained=_base_.released_mala)
