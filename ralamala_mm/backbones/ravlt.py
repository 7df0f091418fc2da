"""RAVLT, the Rank-Augmented Vision Linear Transformer.

"Breaking the Low-Rank Dilemma of Linear Attention", Qihang Fan, Huaibo Huang, Ran He, CVPR 2025,
https://arxiv.org/abs/2411.07635. Written from the paper; state dicts of https://github.com/qhfan/RALA
(Apache-2.0) fit as they are.
"""

from ralamala_mm.families import AttentionCost

from .hybrid import HybridVisionTransformer, register_family


@register_family('rala', AttentionCost(forward_maps=5, backward_maps=9, vector_products=3),
                 classifier_widths=(1024,), released='https://huggingface.co/aldjalkdf/RAVLT')
class RAVLT(HybridVisionTransformer):
    """Backbone with rank-augmented linear attention (`ops.naive.rala`) in stages 1–2 by default.

    The arguments are those of `HybridVisionTransformer`.
    """
