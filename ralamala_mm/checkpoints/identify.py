"""Which backbone, size and head a state dict belongs to, by its names and shapes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ralamala_mm.families import FAMILIES, NUM_STAGES, any_family

META_KEY = 'ralamala_mm'  # under `meta` in what convert_checkpoint.py writes; trainings record their config instead
_LAYER_SCALE = re.compile(r'layers\.([0-9]{1,3})\.blocks\.([0-9]{1,3})\.gamma_1$')  # one entry per block


def identify_family(weights: Mapping[str, Tensor]) -> str | None:
    """The family of a file with the ImageNet classifier, by the width of the 1×1 convolution before it.

    No other shape differs between RAVLT and MALA; None without it, or where several families have the width.
    """
    projection = weights.get('proj.weight')
    width = projection.shape[0] if projection is not None and projection.dim() else None
    names = [name for name, family in FAMILIES.items() if width in family.classifier_widths]
    return names[0] if len(names) == 1 else None


@dataclass(frozen=True)
class RecordedBackbone:
    """What a checkpoint says of its backbone beside the weights, which look alike; None where it says nothing."""

    family: str | None = None
    linear_stages: tuple[int, ...] | None = None


def recorded_backbone(content: Mapping) -> RecordedBackbone:
    """The backbone that a checkpoint names in our own words or in the copy of its config (MMEngine: `cfg`, mmcv 1.x:
    `config`)."""
    meta = content.get('meta')
    if not isinstance(meta, Mapping):
        return RecordedBackbone()
    if isinstance(ours := meta.get(META_KEY), Mapping):
        name, stages = ours.get('backbone'), ours.get('linear_stages')
        family = FAMILIES.get(name) if isinstance(name, str) else None
        are_stages = isinstance(stages, list | tuple) and all(stage in range(NUM_STAGES) for stage in stages)
        stages = tuple(map(int, stages)) if are_stages else family and family.linear_stages
        return RecordedBackbone(family and family.name, stages)
    text = meta.get('cfg') or meta.get('config')
    settings = _settings_of_backbone(text) if isinstance(text, str) else ''
    names = set(re.findall(rf"type='(?:[\w.]+\.)?({'|'.join(FAMILIES)})'", settings))
    if len(names) != 1:
        return RecordedBackbone()
    family = FAMILIES[names.pop()]
    stages = re.search(r'\blinear_stages=[(\[]([\d,\s]*)[)\]]', settings)
    return RecordedBackbone(family.name, tuple(map(int, re.findall(r'[0-3]', stages[1]))) if stages else family.linear_stages)


def _settings_of_backbone(text: str) -> str:
    """What stands in `backbone=dict(…)` of a config's text, '' without it; not parsed, as it may be anybody's."""
    start = text.find('backbone=dict(')
    depth = 0
    for end in range(start + len('backbone=dict'), len(text)) if start >= 0 else ():
        depth += (text[end] == '(') - (text[end] == ')')
        if depth == 0:
            return text[start:end]
    return ''


def identify_backbone(weights: Mapping[str, Tensor], recorded: RecordedBackbone | None) -> RecordedBackbone:
    """What a checkpoint records of its backbone, or else what its ImageNet classifier says."""
    if recorded and recorded.family:
        return recorded
    name = identify_family(weights)
    return RecordedBackbone(name, FAMILIES[name].linear_stages) if name else recorded or RecordedBackbone()


def identify_size(weights: Mapping[str, Tensor], family: str | None = None) -> str | None:
    """'t', 's', 'b' or 'l' when channels and depths of the stages are those of a published size, else None.

    Args:
        weights: a backbone's.
        family: a name in `FAMILIES`; None tries the sizes of all.
    """
    dims, depths = {}, {}
    for key, value in weights.items():
        if match := _LAYER_SCALE.match(key):
            stage, block = map(int, match.groups())
            dims[stage] = value.shape[1] if value.dim() == 4 else value.numel()
            depths[stage] = max(depths.get(stage, 0), block + 1)
    if not dims:
        return None
    stages = [stage for stage in range(NUM_STAGES) if stage in dims]
    families = FAMILIES.values() if family is None else [FAMILIES[family]]
    for name, variant in (entry for family in families for entry in family.variants.items()):
        if all((dims[i], depths[i]) == (variant.embed_dims[i], variant.depths[i]) for i in stages):
            return name
    return None


def recorded_classes(content: Mapping) -> tuple[str, ...] | None:
    """The classes that a checkpoint was trained on, in the order of its labels, as MMEngine and mmcv 1.x record them."""
    meta = content.get('meta')
    if not isinstance(meta, Mapping):
        return None
    recorded = meta.get('dataset_meta')
    classes = (recorded.get('classes') if isinstance(recorded, Mapping) else None) or meta.get('CLASSES')
    are_names = isinstance(classes, (list, tuple)) and all(isinstance(name, str) for name in classes)
    return tuple(classes) if are_names and classes else None


@dataclass(frozen=True)
class Head:
    """What a detector or segmentor has beside its backbone and neck."""

    name: str  # as our configs begin
    title: str
    num_classes: int


# An entry that only this head has, config's beginning, name, classifier, number of classes from the classifier's channels.
_HEADS = (
    ('roi_head.mask_head.0.conv_logits.bias', 'cascade_maskrcnn', 'Cascade Mask R-CNN', 'roi_head.bbox_head.0.fc_cls.bias',
     lambda n: n - 1),
    ('roi_head.mask_head.conv_logits.bias', 'maskrcnn', 'Mask R-CNN', 'roi_head.bbox_head.fc_cls.bias', lambda n: n - 1),
    ('bbox_head.retina_reg.bias', 'retinanet', 'RetinaNet', 'bbox_head.retina_cls.bias', lambda n: n // 9),  # 9 anchors
    ('decode_head.psp_modules.0.1.conv.weight', 'upernet', 'UPerNet', 'decode_head.conv_seg.bias', lambda n: n),
    ('decode_head.scale_heads.0.0.conv.weight', 'semanticfpn', 'Semantic FPN', 'decode_head.conv_seg.bias', lambda n: n),
)


def identify_head(weights: Mapping[str, Tensor]) -> Head | None:
    """The head of a whole model's weights, if it is one of the papers'."""
    for marker, name, title, classifier, outputs in _HEADS:
        if marker in weights and classifier in weights and weights[classifier].dim():
            channels = weights[classifier].shape[0]
            return Head(name, title, outputs(channels))
    return None


def describe(weights: Mapping[str, Tensor]) -> str:
    """'RAVLT-S', 'RAVLT or MALA of size s', or what else it may be, for a sentence to a user."""
    family = identify_family(weights)
    size = identify_size(weights, family)
    if size:
        return f'{family}-{size.upper()}' if family else f'{any_family()} of size {size}'
    if any(_LAYER_SCALE.match(key) for key in weights):
        return f'a {family or any_family()} of no published size'
    return f'another model (its keys begin with {", ".join(list(weights)[:3])})'
