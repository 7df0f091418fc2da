"""Weights into a model, with a report of what matched and an error where going on would train or test nonsense."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import nn

from ralamala_mm.errors import UserError

from .identify import RecordedBackbone, describe, identify_backbone, recorded_backbone
from .reading import StateDict, find_weights, read_checkpoint

# An ImageNet file has a classifier that the backbones lack, and lacks the norms of the maps given out.
_CLASSIFIER = re.compile(r'(proj|norm|head)\.')
_STARTS_FRESH = re.compile(r'extra_norms\.')
_NO_WEIGHTS = ('num_batches_tracked', 'RoPE.angle')  # counters, and angles that follow from a formula: files may lack them


@dataclass
class LoadReport:
    """What became of a file's entries; `str()` is made for reading."""

    location: str
    description: str
    matched: int
    total: int
    fresh: list[str] = field(default_factory=list)  # expected to be missing
    unused: list[str] = field(default_factory=list)  # expected to be left over
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)  # of another shape in the file, and starting fresh
    not_finite: list[str] = field(default_factory=list)  # loaded, and holding infinities or NaN

    @property
    def is_clean(self) -> bool:
        """Whether all that is missing or left over was to be expected."""
        return not (self.missing or self.unexpected or self.resized or self.not_finite)

    def __str__(self) -> str:
        lines = [f'Loaded {self.location} ({self.description}): {self.matched} of {self.total} entries matched.']
        for text, keys in [('  starting fresh, as expected: ', self.fresh), ('  not used, as expected: ', self.unused),
                           ('  WARNING: missing in the file: ', self.missing),
                           ('  WARNING: not known to the model: ', self.unexpected),
                           ('  WARNING: of another shape, starting fresh: ', self.resized),
                           ('  WARNING: holding NaN or infinities: ', self.not_finite)]:
            if keys:
                lines.append(text + summarise(keys))
        return '\n'.join(lines)


def summarise(keys: Iterable[str]) -> str:
    """'extra_norms.* (8), head.* (2)': keys counted by their first part."""
    counts = Counter(f'{key.split(".")[0]}.*' if '.' in key else key for key in keys)
    return ', '.join(f'{name} ({count})' for name, count in counts.items())


def backbone_weights(weights: StateDict, prefix: str | None) -> StateDict:
    """The backbone's part of a whole detector's weights, or all of them when there is no such part."""
    prefix = (prefix.rstrip('.') if prefix else 'backbone') + '.'
    part = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    return part or weights


def load_backbone_checkpoint(backbone: nn.Module, location: str, prefix: str | None = None) -> LoadReport:
    """Loads a file in any of the forms seen in the wild into a `RAVLT` or `MALA`.

    Args:
        backbone: the model to fill.
        location: path or URL of a bare state dict, an ImageNet training file, or a whole detector's or segmentor's
            checkpoint of OpenMMLab, old or new.
        prefix: where the backbone's entries lie in a whole model's; 'backbone' by default.

    Raises:
        UserError: the file cannot be read, nothing in it fits, or it belongs to another variant.
    """
    content = read_checkpoint(location)
    weights = backbone_weights(find_weights(content, location), prefix)
    return load_weights(backbone, weights, location, recorded=recorded_backbone(content))


def load_weights(model: nn.Module, weights: StateDict, location: str, allow_other_heads: bool = False,
                 recorded: RecordedBackbone | None = None, complete: bool = False) -> LoadReport:
    """Copies the weights that fit into `model`, in place; all or nothing.

    Args:
        model: a backbone, or a whole detector or segmentor with one.
        weights: a state dict.
        location: where they come from, for the report and for errors.
        allow_other_heads: leave out entries outside the backbone whose shapes differ, as when weights for other
            classes are fine-tuned.
        recorded: what the file says of its backbone, see `recorded_backbone`.
        complete: refuse weights that leave layers of the model as they are, as when it is evaluated.

    Raises:
        UserError: nothing fits, a shape differs, the file is of another family or of other linear stages, or it is not
            complete.
    """
    own = model.state_dict()
    wanted = f'{type(model).__name__}' + (f"(arch='{model.arch}')" if isinstance(getattr(model, 'arch', None), str) else '')
    matching = {key: value for key, value in weights.items() if key in own}
    inner = backbone_weights(weights, None)  # a detector's file is described by its backbone
    if not matching:
        hint = '; --cfg-options model.backbone.pretrained=PATH loads a backbone\'s weights' if hasattr(model, 'backbone') else ''
        raise UserError(f'nothing in {location} fits {wanted}: it looks like {describe(inner)}{hint}')
    wrong = [key for key, value in matching.items() if value.shape != own[key].shape]
    other_heads = [key for key in wrong if allow_other_heads and not key.startswith('backbone.')]
    for key in other_heads:
        wrong.remove(key)
        del matching[key]
    if wrong:
        key = wrong[0]
        raise UserError(f'{location} does not fit {wanted}: it looks like {describe(inner)} ({len(wrong)} shapes differ, '
                        f'{key} is {tuple(matching[key].shape)} instead of {tuple(own[key].shape)})')
    if other := [key for key, value in matching.items() if value.is_floating_point() != own[key].is_floating_point()]:
        raise UserError(f'{location} does not fit {wanted}: {other[0]} is of {matching[other[0]].dtype} instead of '
                        f'{own[other[0]].dtype}')
    if problem := _why_of_another_backbone(identify_backbone(inner, recorded), getattr(model, 'backbone', model)):
        raise UserError(f'{location} does not fit {wanted}: {problem}')

    lacking = [key for key in own.keys() - matching.keys() - set(other_heads) if not key.endswith(_NO_WEIGHTS)]
    report = LoadReport(location, describe(inner), len(matching), total=len(matching) + len(other_heads) + len(lacking))
    for key in lacking:
        (report.fresh if _STARTS_FRESH.match(key.removeprefix('backbone.')) else report.missing).append(key)
    if complete and lacking:
        raise UserError(f'{location} lacks {len(lacking)} of the {len(own)} entries of {wanted} ({summarise(lacking)}): '
                        'with those left at random, results would mean nothing')
    built_stages = len(getattr(getattr(model, 'backbone', model), 'layers', ()))
    report.resized = sorted(other_heads)
    for key in weights.keys() - own.keys():
        (report.unused if _is_expected_leftover(key, built_stages) else report.unexpected).append(key)
    for keys in (report.fresh, report.unused, report.missing, report.unexpected):
        keys.sort()
    # The angles follow from the head dimension; a file with others is of a changed model.
    for key in [key for key in matching if key.endswith('RoPE.angle')]:
        if not torch.allclose(matching.pop(key).float(), own[key].float(), rtol=1e-2):
            report.unexpected.append(f'{key} (other values)')
    report.not_finite = sorted(key for key, value in matching.items()
                               if value.is_floating_point() and not value.float().isfinite().all())
    model.load_state_dict(matching, strict=False)
    return report


def _why_of_another_backbone(recorded: RecordedBackbone, backbone: nn.Module) -> str | None:
    """Why weights whose shapes fit are another backbone's, None if they are not."""
    own_family = getattr(backbone, 'family', None)
    if recorded.family and own_family and recorded.family != own_family.name:
        return f'its backbone is a {recorded.family}, not a {own_family.name}'
    own_stages = getattr(backbone, 'linear_stages', None)
    if recorded.linear_stages is None or own_stages is None:
        return None
    built = range(len(backbone.layers))
    theirs, ours = ([stage for stage in stages if stage in built] for stages in (recorded.linear_stages, own_stages))
    return None if theirs == ours else (f'it has linear_stages={recorded.linear_stages}, this backbone {own_stages}: set '
                                        'model.backbone.linear_stages as it was, or train from scratch '
                                        '(model.backbone.pretrained=None)')


def _is_expected_leftover(key: str, built_stages: int) -> bool:
    """The classifier's entries, and what belongs to stages that `out_indices` leaves out."""
    key = key.removeprefix('backbone.')
    if _CLASSIFIER.match(key):
        return True
    if not built_stages:
        return False
    stage = re.match(r'(?:layers|extra_norms)\.(\d+)\.(downsample)?', key)
    if stage is None:
        return False
    return key.startswith('extra_norms.') or int(stage.group(1)) >= built_stages - (stage.group(2) is not None)
