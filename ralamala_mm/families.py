"""The families of backbones: the sizes that they come in, and what the rest of the package knows of each."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields

from ralamala_mm.errors import OptionError

NUM_STAGES = 4
LINEAR_STAGES = (0, 1)  # of the released models


@dataclass(frozen=True)
class Variant:
    """One size of a backbone; lists hold one value per stage."""

    embed_dims: tuple[int, ...]
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    drop_path_rate: float = 0.0
    layer_scale_init: tuple[float, ...] = (1.0,) * NUM_STAGES
    mlp_ratio: float = 3.5

    def __post_init__(self):
        for name in ('embed_dims', 'depths', 'num_heads', 'layer_scale_init'):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            if len(getattr(self, name)) != NUM_STAGES:
                raise OptionError(f'{name} must hold {NUM_STAGES} values, one per stage, not {getattr(self, name)}')
        for channels, heads in zip(self.embed_dims, self.num_heads, strict=True):
            if channels % (4 * heads):
                raise OptionError(f'{channels} channels in {heads} heads: the rotary position needs channels per head '
                                 'to be a multiple of 4')


VARIANTS = {
    't': Variant((64, 128, 256, 512), (2, 2, 6, 2), (1, 2, 4, 8), 0.10),
    's': Variant((64, 128, 320, 512), (3, 5, 9, 3), (1, 2, 5, 8), 0.15),
    'b': Variant((96, 192, 384, 512), (4, 6, 12, 6), (1, 2, 6, 8), 0.40, (1.0, 1.0, 1e-6, 1e-6)),
    'l': Variant((96, 192, 448, 640), (4, 7, 19, 8), (1, 2, 7, 10), 0.55, (1e-6,) * NUM_STAGES),
}


def resolve_variant(arch: str | dict, variants: Mapping[str, Variant] = VARIANTS) -> Variant:
    """The variant named `arch`, or one made from a dict with the fields of `Variant`.

    Args:
        arch: a name in any case, or a dict.
        variants: of the family.

    Raises:
        OptionError: unknown name, unknown or missing fields, or numbers that do not fit together.
    """
    if isinstance(arch, str):
        if arch.lower() not in variants:
            raise OptionError(f"arch='{arch}' is not known; choose one of {', '.join(variants)}, or give a dict")
        return variants[arch.lower()]
    names = {field.name for field in fields(Variant)}
    if unknown := sorted(set(arch) - names):
        raise OptionError(f'arch does not take {", ".join(unknown)}; its keys are {", ".join(sorted(names))}')
    if missing := sorted({'embed_dims', 'depths', 'num_heads'} - set(arch)):
        raise OptionError(f'arch lacks {", ".join(missing)}')
    return Variant(**arch)


@dataclass(frozen=True)
class AttentionCost:
    """Lower bound of a linear attention, see `analysis.roofline`: tensors `[B, N, L, D]` read or written, products per token.

    Beside the products of each token with the k·v buffer, which all have, there are those of each token with a vector.
    """

    forward_maps: int
    backward_maps: int
    vector_products: int


@dataclass(frozen=True)
class Family:
    """Backbones that share a linear attention; an entry of `FAMILIES`.

    Args:
        name: of the class, as in configs' `type`.
        linear_attention: a name in `ops.ATTENTIONS`.
        cost: of the linear attention.
        classifier_widths: of the 1×1 convolution before the classifier in files of ImageNet weights, which tells the family.
        released: where weights to start from can be had, for a sentence to the user.
        variants: sizes by name.
        linear_stages: stages, from 0, with linear attention, where a backbone's argument does not say otherwise.
    """

    name: str
    linear_attention: str
    cost: AttentionCost
    classifier_widths: tuple[int, ...] = ()
    released: str | None = None
    variants: Mapping[str, Variant] = field(default_factory=lambda: VARIANTS)
    linear_stages: tuple[int, ...] = LINEAR_STAGES


# Filled by `backbones.hybrid.register_family`; RAVLT and MALA are added when `ralamala_mm` is imported.
FAMILIES: dict[str, Family] = {}


def family_of(backbone_type: 'str | type') -> Family | None:
    """The family of a config's `backbone.type`, with or without a package before the name; None if it is another's."""
    name = backbone_type if isinstance(backbone_type, str) else getattr(backbone_type, '__name__', '')
    return FAMILIES.get(name.rpartition('.')[2])


def resolve_linear_stages(stages: Iterable[int] | None, family: Family | None) -> tuple[int, ...]:
    """The stages with linear attention in order, each once.

    Args:
        stages: a backbone's argument; None takes the family's.
        family: None for a backbone of none, which has the stages of the released models.

    Raises:
        OptionError: they are not stages.
    """
    if stages is None:
        return family.linear_stages if family else LINEAR_STAGES
    given = tuple(stages) if isinstance(stages, Iterable) and not isinstance(stages, str) else None
    if given is None or not all(stage in range(NUM_STAGES) for stage in given):
        raise OptionError(f'linear_stages must name stages from 0 to {NUM_STAGES - 1}, such as {LINEAR_STAGES}, not '
                          f'{stages if given is None else given}')
    return tuple(sorted(set(given)))


def any_family() -> str:
    """'RAVLT or MALA', for a sentence."""
    return ' or '.join(FAMILIES)
