"""RAVLT, the Rank-Augmented Vision Linear Transformer.

"Breaking the Low-Rank Dilemma of Linear Attention", Qihang Fan, Huaibo Huang, Ran He, CVPR 2025,
https://arxiv.org/abs/2411.07635. Written from the paper; state dicts of https://github.com/qhfan/RALA
(Apache-2.0) fit as they are.
"""

from mmengine.registry import MODELS

from .hybrid import HybridVisionTransformer


@MODELS.register_module()
class RAVLT(HybridVisionTransformer):
    """Backbone with rank-augmented linear attention (`ops.naive.rala`) in stages 1–2.

    The arguments are those of `HybridVisionTransformer`.
    """

    linear_attention = 'rala'
