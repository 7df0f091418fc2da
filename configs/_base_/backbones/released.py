"""The authors' ImageNet weights, from which the published results start.

Another file, path or URL: --cfg-options model.backbone.pretrained=FILE; from scratch: model.backbone.pretrained=None.
"""
released_ravlt = 'https://huggingface.co/aldjalkdf/RAVLT/resolve/main/'
# The authors' MALA files lie on https://huggingface.co/aldjalkdf/MAViT, under names that we do not know: download the one
# of your size and set model.backbone.pretrained to it. Until then MALA starts from scratch, and train.py says so.
released_mala = None
