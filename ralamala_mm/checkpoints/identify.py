"""Which backbone and size a state dict belongs to, told from its shapes."""

import re
from collections.abc import Mapping

from torch import Tensor

from ralamala_mm.variants import NUM_STAGES, VARIANTS

# Width of the 1×1 convolution before the classifier, the only shape that differs between the two backbones.
_CLASSIFIER_WIDTHS = {1024: 'RAVLT', 2048: 'MALA', 2560: 'MALA'}
_LAYER_SCALE = re.compile(r'layers\.(\d+)\.blocks\.(\d+)\.gamma_1$')  # one entry per block


def identify_family(weights: Mapping[str, Tensor]) -> str | None:
    """'RAVLT' or 'MALA' for a file with the ImageNet classifier; without it the two cannot be told apart: None."""
    projection = weights.get('proj.weight')
    return _CLASSIFIER_WIDTHS.get(projection.shape[0]) if projection is not None else None


def recorded_family(content: Mapping) -> str | None:
    """The backbone that MMEngine's copy of the config in a checkpoint names; in a detector's weights both look alike."""
    meta = content.get('meta')
    text = meta.get('cfg') if isinstance(meta, Mapping) else None
    names = set(re.findall(r"type='(?:ralamala_mm\.)?(RAVLT|MALA)'", text)) if isinstance(text, str) else set()
    return names.pop() if len(names) == 1 else None


def identify_size(weights: Mapping[str, Tensor]) -> str | None:
    """'t', 's', 'b' or 'l' when channels and depths of the stages are those of a published size, else None."""
    dims, depths = {}, {}
    for key, value in weights.items():
        if match := _LAYER_SCALE.match(key):
            stage, block = map(int, match.groups())
            dims[stage] = value.shape[1] if value.dim() == 4 else value.numel()
            depths[stage] = max(depths.get(stage, 0), block + 1)
    if not dims:
        return None
    stages = [stage for stage in range(NUM_STAGES) if stage in dims]
    for name, variant in VARIANTS.items():
        if all((dims[i], depths[i]) == (variant.embed_dims[i], variant.depths[i]) for i in stages):
            return name
    return None


def describe(weights: Mapping[str, Tensor]) -> str:
    """'RAVLT-S', 'RAVLT or MALA of size s', or what else it may be, for a sentence to a user."""
    family, size = identify_family(weights), identify_size(weights)
    if size:
        return f'{family}-{size.upper()}' if family else f'RAVLT or MALA of size {size}'
    if any(_LAYER_SCALE.match(key) for key in weights):
        return f'a {family or "RAVLT or MALA"} of no published size'
    return f'another model (its keys begin with {", ".join(list(weights)[:3])})'
