"""Imported by the config of two_nodes.py: convolutions without oneDNN.

Its single-precision weight gradients are off by 3e-4 in some shapes, in one process as in four; that would hide what
processes that work together do.
"""

import torch

torch.backends.mkldnn.enabled = False
