"""The sizes t, s, b, l of both backbones, and the checks on a size of one's own."""

from dataclasses import dataclass, fields

from ralamala_mm.errors import OptionError

NUM_STAGES = 4


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
                                 'to be a whole multiple of 4')


VARIANTS = {
    't': Variant((64, 128, 256, 512), (2, 2, 6, 2), (1, 2, 4, 8), 0.10),
    's': Variant((64, 128, 320, 512), (3, 5, 9, 3), (1, 2, 5, 8), 0.15),
    'b': Variant((96, 192, 384, 512), (4, 6, 12, 6), (1, 2, 6, 8), 0.40, (1.0, 1.0, 1e-6, 1e-6)),
    'l': Variant((96, 192, 448, 640), (4, 7, 19, 8), (1, 2, 7, 10), 0.55, (1e-6,) * NUM_STAGES),
}


def resolve_variant(arch: 'str | dict') -> Variant:
    """The variant named `arch`, or one made from a dict with the fields of `Variant`.

    Raises:
        OptionError: unknown name, unknown or missing fields, or numbers that do not fit together.
    """
    if isinstance(arch, str):
        if arch.lower() not in VARIANTS:
            raise OptionError(f"arch='{arch}' is not known; choose one of {', '.join(VARIANTS)}, or give a dict")
        return VARIANTS[arch.lower()]
    names = {field.name for field in fields(Variant)}
    if unknown := sorted(set(arch) - names):
        raise OptionError(f'arch does not take {", ".join(unknown)}; its keys are {", ".join(sorted(names))}')
    if missing := sorted({'embed_dims', 'depths', 'num_heads'} - set(arch)):
        raise OptionError(f'arch lacks {", ".join(missing)}')
    return Variant(**arch)
