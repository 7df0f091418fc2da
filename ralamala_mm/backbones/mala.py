"""MALA, called MAViT in its paper: the Magnitude-Aware Vision Transformer.

"Rectifying Magnitude Neglect in Linear Attention", Qihang Fan, Huaibo Huang, Yuang Ai, Ran He, ICCV 2025,
https://arxiv.org/abs/2507.00698. Written from the paper; state dicts of https://github.com/qhfan/MALA
fit as they are.
"""

from mmengine.registry import MODELS

from .hybrid import HybridVisionTransformer


@MODELS.register_module()
class MALA(HybridVisionTransformer):
    """Backbone with magnitude-aware linear attention (`ops.naive.mala`) in stages 1–2.

    The arguments are those of `HybridVisionTransformer`.
    """

    linear_attention = 'mala'
