"""The annotations of a COCO file as columns, by which a million fit; segmentations stay text until they are needed."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from msgspec import Raw, Struct

Id = int | str | float
_CHUNK = 1000  # annotations that are Python objects at a time


class _Entry(Struct, gc=False):
    """One annotation without its segmentation; what is None was null or left out."""

    image_id: Id | None
    category_id: Id | None
    bbox: tuple[float, float, float, float]
    id: Id | None = None
    area: float | None = None
    iscrowd: float | bool | None = None
    ignore: float | bool | None = None
    score: float | None = None
    attributes: Any = None


class _Segmented(Struct, gc=False):
    segmentation: Raw = Raw()


_decode_entry = msgspec.json.Decoder(_Entry).decode
_decode_segmented = msgspec.json.Decoder(_Segmented).decode


@dataclass
class Annotations:
    """N annotations, in the file's order. Columns of ids are int64, or object if one is no such number, or None."""

    texts: list[Raw]  # JSON, of which `segmentation` is read
    ids: np.ndarray  # [N]
    image_ids: np.ndarray  # [N], those of the file until `normalize_ids` made numbers of them
    category_ids: np.ndarray  # [N], as well
    boxes: np.ndarray  # float64 [N, 4]: x, y, width, height in pixels
    areas: np.ndarray  # float64 [N], square pixels; NaN where there is none
    crowd: np.ndarray  # int8 [N]: `iscrowd`, 0 or 1; -1 where there is none
    ignore: np.ndarray  # int8 [N], as well
    scores: np.ndarray  # float64 [N]; NaN where there is none
    attributes: dict[int, Any] = field(default_factory=dict)  # by position, where there are any

    @classmethod
    def read(cls, texts: list[Raw]) -> 'Annotations':
        """The annotations of JSON texts.

        Raises:
            msgspec.DecodeError: one is not of COCO's form.
            ValueError: an `iscrowd` or `ignore` is neither 0 nor 1.
        """
        return cls._of(texts, (list(map(_decode_entry, texts[start:start + _CHUNK])) for start in range(0, len(texts), _CHUNK)))

    @classmethod
    def of_dicts(cls, annotations: Sequence[dict]) -> 'Annotations':
        """The annotations that Python's json has read, whose values are of COCO's form."""
        entries = [_Entry(**{key: value for key, value in annotation.items() if key in _Entry.__struct_fields__})
                   for annotation in annotations]
        for entry in entries:
            entry.score = entry.score if isinstance(entry.score, int | float) else None
        texts = [Raw(msgspec.json.encode(dict(segmentation=annotation['segmentation']) if annotation.get('segmentation') else {}))
                 for annotation in annotations]
        return cls._of(texts, [entries])

    @classmethod
    def _of(cls, texts: list[Raw], chunks: Iterable[list[_Entry]]) -> 'Annotations':
        columns: list[tuple[np.ndarray, ...]] = []
        attributes: dict[int, Any] = {}
        start = 0
        for chunk in chunks:
            columns.append((
                id_column([entry.id for entry in chunk]), id_column([entry.image_id for entry in chunk]),
                id_column([entry.category_id for entry in chunk]),
                np.fromiter(itertools.chain.from_iterable(entry.bbox for entry in chunk), float).reshape(-1, 4),
                np.array([entry.area for entry in chunk], dtype=float),
                _marks([entry.iscrowd for entry in chunk]), _marks([entry.ignore for entry in chunk]),
                np.array([entry.score for entry in chunk], dtype=float)))
            attributes.update((start + i, entry.attributes) for i, entry in enumerate(chunk) if entry.attributes is not None)
            start += len(chunk)
        return cls(texts, *map(np.concatenate, zip(*columns, strict=True)), attributes)

    def __len__(self) -> int:
        return len(self.texts)

    def name(self, position: int) -> str:
        """How messages call one."""
        return f'annotation {self.ids[position] if self.ids[position] is not None else f"number {position}"}'

    def segmentation_text(self, position: int) -> Raw:
        """The segmentation as JSON; empty if there is none."""
        return _decode_segmented(self.texts[position]).segmentation

    def segmentation(self, position: int) -> object:
        """The segmentation: a list of polygons, run lengths, or None; a text if it has numbers that are none."""
        text = self.segmentation_text(position)
        try:
            return msgspec.json.decode(text) if text else None
        except msgspec.DecodeError:
            return 'unreadable'


def id_column(ids: Sequence[Id | None]) -> np.ndarray:
    """Ids as a column: int64 if all are such numbers, else object."""
    fits = set(map(type, ids)) == {int} and max(map(abs, ids)) < 2 ** 63
    return np.array(ids, dtype=np.int64 if fits else object)


def _marks(values: Sequence[float | bool | None]) -> np.ndarray:
    if not set(values) <= {None, 0, 1}:
        raise ValueError('marks that are neither 0 nor 1')
    return np.array([-1 if value is None else value for value in values], dtype=np.int8)
