"""Detections of overlapping tiles become those of the picture: each object once, whole rather than cut."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .masks import RunLengths, union

CONTAINED = 0.8  # share of a cut box that has to lie within another for it to be a piece of that one
SAME = 0.5  # intersection over union from which on two boxes are one object


@dataclass
class Pieces:
    """What the tiles found, in coordinates of the picture."""

    boxes: Tensor  # [N, 4] x1, y1, x2, y2
    scores: Tensor  # [N]
    labels: Tensor  # [N]
    is_cut: Tensor  # [N] bool: ends where its tile ends, and the picture does not
    windows: Tensor  # [N, 4] of the tile, as boxes
    masks: list[RunLengths] | None = None  # N; None for a detector without them

    def __getitem__(self, indices: Tensor) -> 'Pieces':
        return Pieces(self.boxes[indices], self.scores[indices], self.labels[indices], self.is_cut[indices],
                      self.windows[indices], None if self.masks is None else [self.masks[i] for i in indices.tolist()])


def concatenate(parts: list[Pieces]) -> Pieces:
    """The pieces of all tiles."""
    tensors = [torch.cat([getattr(part, name) for part in parts]) for name in ('boxes', 'scores', 'labels', 'is_cut', 'windows')]
    masks = None if parts[0].masks is None else [mask for part in parts for mask in part.masks]
    return Pieces(*tensors, masks)


def merge(pieces: Pieces) -> Pieces:
    """Each object once, the highest score first.

    1. A cut box that lies within one of another tile is dropped.
    2. Of boxes of different tiles that are the same, whole ones win over cut ones, then the higher score.
    3. Cut boxes that go on in one another, of an object that is whole in no tile, are joined.

    Only boxes of one class are compared, and of different tiles: within a tile the model has decided.
    """
    merged = []
    for label in pieces.labels.unique():
        ours = pieces[torch.nonzero(pieces.labels == label).flatten()]
        ours = ours[torch.nonzero(~_is_within_another(ours)).flatten()]
        merged.append(_joined(ours[_suppressed(ours)]))
    if not merged:
        return pieces
    whole = concatenate(merged)
    return whole[whole.scores.argsort(descending=True, stable=True)]


def overlaps(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union, and over the area of the first, of every two boxes `[N, 4]`, `[M, 4]`: `[N, M]` each."""
    low = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    area, other_area = _areas(boxes)[:, None], _areas(others)[None]
    return shared / (area + other_area - shared).clamp(min=1e-6), shared / area.clamp(min=1e-6)


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1)


def _of_other_windows(pieces: Pieces) -> Tensor:
    return (pieces.windows[:, None] != pieces.windows[None]).any(-1)  # [N, N]


def _is_within_another(pieces: Pieces) -> Tensor:
    contained = overlaps(pieces.boxes, pieces.boxes)[1] >= CONTAINED
    areas = _areas(pieces.boxes)
    other_is_better = ~pieces.is_cut[None] | (areas[None] > areas[:, None])
    return (contained & _of_other_windows(pieces) & other_is_better).any(1) & pieces.is_cut


def _suppressed(pieces: Pieces) -> Tensor:
    """The indices that are left when of the same boxes only the best stays, best first."""
    order = sorted(range(len(pieces.scores)), key=lambda i: (bool(pieces.is_cut[i]), -float(pieces.scores[i])))
    rivals = (overlaps(pieces.boxes, pieces.boxes)[0] > SAME) & _of_other_windows(pieces)
    is_kept = torch.zeros(len(order), dtype=torch.bool)
    for i in order:
        is_kept[i] = not (rivals[i] & is_kept).any()
    return torch.tensor([i for i in order if is_kept[i]], dtype=torch.long)


def _joined(pieces: Pieces) -> Pieces:
    """Cut boxes that are one object's: what both show of the area that their tiles share is the same."""
    group_of = {i: [i] for i in range(len(pieces.scores))}
    cut = torch.nonzero(pieces.is_cut).flatten()
    for position, a in enumerate(cut.tolist()):
        later = cut[position + 1:]
        for b in later[_go_on(pieces, a, later)].tolist():
            if group_of[a] is not group_of[b]:
                group_of[a] += group_of[b]
                group_of.update(dict.fromkeys(group_of[b], group_of[a]))
    groups = list({id(group): group for group in group_of.values()}.values())
    first = pieces[torch.tensor([max(group, key=lambda i: float(pieces.scores[i])) for group in groups], dtype=torch.long)]
    for i, group in enumerate(groups):
        if len(group) > 1:
            first.boxes[i] = torch.cat([pieces.boxes[group, :2].amin(0), pieces.boxes[group, 2:].amax(0)])
            if first.masks is not None:
                first.masks[i] = union([pieces.masks[j] for j in group])
    return first


def _go_on(pieces: Pieces, a: int, others: Tensor) -> Tensor:
    """Which of the others, `[K]` bool, show the same as piece `a` of what their tiles share."""
    zones = _shared(pieces.windows[a], pieces.windows[others])
    ours, theirs = (_shared(boxes, zones) for boxes in (pieces.boxes[a], pieces.boxes[others]))
    areas, shared = _areas(ours) + _areas(theirs), _areas(_shared(ours, theirs))
    is_other = (pieces.windows[others] != pieces.windows[a]).any(-1)
    return is_other & (shared > 0) & (shared >= SAME * (areas - shared))


def _shared(boxes: Tensor, others: Tensor) -> Tensor:
    """Where boxes overlap, `[K, 4]`; of no area where they do not."""
    return torch.cat([torch.maximum(boxes[..., :2], others[:, :2]), torch.minimum(boxes[..., 2:], others[:, 2:])], -1)
