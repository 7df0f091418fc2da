"""The authors' ImageNet weights, from which the published results start.

Another file, path or URL: --cfg-options model.backbone.pretrained=FILE; from scratch: model.backbone.pretrained=None.
"""
released_ravlt = 'https://huggingface.co/aldjalkdf/RAVLT/resolve/main/'
released_mala = None  # until it is set, MALA starts from scratch, and train.py says so
