"""MALA, called MAViT in its paper: the Magnitude-Aware Vision Transformer.

"Rectifying Magnitude Neglect in Linear Attention", Qihang Fan, Huaibo Huang, Yuang Ai, Ran He, ICCV 2025,
https://arxiv.org/abs/2507.00698. Written from the paper; state dicts of https://github.com/qhfan/MALA
fit as they are.
"""

from ralamala_mm.families import AttentionCost

from .hybrid import HybridVisionTransformer, register_family


@register_family('mala', AttentionCost(forward_maps=4, backward_maps=7, vector_products=1),
                 classifier_widths=(2048, 2560), released='https://huggingface.co/aldjalkdf/MAViT')
class MALA(HybridVisionTransformer):
    """Backbone with magnitude-aware linear attention (`ops.naive.mala`) in stages 1–2 by default.

    The arguments are those of `HybridVisionTransformer`.
    """
