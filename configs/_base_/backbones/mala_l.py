_base_ = ['./l.py', './released.py']

# The authors' file for size L lies on https://huggingface.co/aldjalkdf/MAViT, under a name that we do not know: set
# model.backbone.pretrained to where you have it.
backbone = dict(type='MALA', arch='l', pretrained=_base_.released_mala)
