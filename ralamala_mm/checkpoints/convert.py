"""Any checkpoint of a RAVLT or MALA into a clean one of ours: weights alone, with what is known of them."""

from dataclasses import dataclass
from pathlib import Path

import torch

from ralamala_mm.errors import UserError
from ralamala_mm.families import FAMILIES, any_family, resolve_linear_stages
from ralamala_mm.files import atomic_write

from .identify import (
    META_KEY,
    Head,
    identify_backbone,
    identify_head,
    identify_size,
    recorded_backbone,
    recorded_classes,
)
from .loading import backbone_weights
from .reading import StateDict, find_weights, read_checkpoint


@dataclass(frozen=True)
class Findings:
    """What a file holds."""

    weights: StateDict
    size: str
    family: str | None  # a name in `FAMILIES`, or unknown: the weights alone look alike
    linear_stages: tuple[int, ...]
    head: Head | None
    is_whole: bool  # a detector or segmentor, not a backbone
    classes: tuple[str, ...] | None

    def __str__(self) -> str:
        either = f'{any_family()} of size {self.size}, whose files look alike'
        backbone = f'{self.family}-{self.size.upper()}' if self.family else either
        if self.head:
            return f'{self.head.title} with {backbone}, {self.head.num_classes} classes'
        return f'{backbone}, with another head than the papers have' if self.is_whole else f'backbone {backbone}'


def inspect_checkpoint(location: str, trusted: bool | None = None, family: str | None = None) -> Findings:
    """Reads a checkpoint and finds out what it is.

    Args:
        location: path or URL, in any form that `read_checkpoint` knows.
        trusted: as in `read_checkpoint`.
        family: a name in `FAMILIES`, for files that do not say it.

    Raises:
        UserError: it cannot be read, is no RAVLT or MALA of a published size, or says that it is of another family.
    """
    content = read_checkpoint(location, trusted)
    weights = find_weights(content, location)
    inner = backbone_weights(weights, None)
    known = identify_backbone(inner, recorded_backbone(content))
    if family and known.family and family != known.family:
        raise UserError(f'{location} is of a {known.family}, not of a {family}')
    family = known.family or family
    size = identify_size(inner, family)
    if size is None:
        raise UserError(f'{location} holds no {any_family()} of a published size; '
                        f'its entries begin with {", ".join(list(weights)[:3])}')
    stages = resolve_linear_stages(known.linear_stages, FAMILIES.get(family))
    return Findings(weights, size, family, stages, identify_head(weights), is_whole=inner is not weights,
                    classes=recorded_classes(content))


def write_clean(findings: Findings, weights: StateDict, source: str, path: Path) -> None:
    """Writes `weights` and what is known of them, atomically.

    Args:
        findings: of the file that they come from.
        weights: the entries to keep.
        source: where they come from, for the record.
        path: the file to write.

    Raises:
        UserError: it cannot be written.
    """
    meta = {META_KEY: dict(backbone=findings.family, size=findings.size, linear_stages=findings.linear_stages,
                           head=findings.head and findings.head.name,
                           source=Path(source).name)}
    if findings.classes:
        meta['dataset_meta'] = dict(classes=findings.classes)
    content = dict(state_dict={key: value.clone() for key, value in weights.items()}, meta=meta)
    try:
        atomic_write(path, lambda unfinished: torch.save(content, unfinished))
    except (OSError, RuntimeError) as error:  # the latter from PyTorch, of a full disk
        raise UserError(f'{path} cannot be written ({error})') from error
