"""Parameters and multiply-adds of a model as test-time inference runs it, and the model zoo that is made of them.

Counted from the operators that really run, on tensors that have shapes but no memory: convolutions, matrix products and
PyTorch's fused attention kernels. Published tables count convolutions and linear layers only, because the counters of
mmcv 1.x do not see products of activations; here the products inside the attentions are counted too, and kept apart.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from mmengine.config import Config
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from ralamala_mm.datasets.config import is_segmentation
from ralamala_mm.errors import UserError
from ralamala_mm.families import family_of

DETECTION_SHAPE, SEGMENTATION_SHAPE = (800, 1280), (512, 2048)  # height, width; the papers' tables
BOX_REGIONS, MASK_REGIONS = 1000, 100  # per image, as in MMDetection's counting and in its tests' settings
TOLERANCE = 0.02  # of a published number, beyond its own rounding to a whole million or thousand million


@dataclass(frozen=True)
class Cost:
    """Parameters, and multiply-adds for one image.

    `published_kind` is what the papers' tables show: everything but the products inside the attentions.
    """

    parameters: int
    backbone: int  # convolutions
    heads: int  # neck and heads
    linear_attention: int  # products of activations, in its `linear_stages`
    softmax_attention: int  # in the others

    @property
    def published_kind(self) -> int:
        return self.backbone + self.heads

    @property
    def total(self) -> int:
        return self.published_kind + self.linear_attention + self.softmax_attention


def _fused_attention_on_cpu(query: torch.Size, key: torch.Size, value: torch.Size, *args, **options) -> int:
    """PyTorch counts its fused kernels for GPUs, but not the one for CPUs."""
    return sdpa_flop_count(query, key, value)


_KNOWN_BESIDE_PYTORCH_S = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _fused_attention_on_cpu}


def count(function: Callable, *args) -> tuple[object, dict[str, dict[str, int]]]:
    """Runs `function` without computing; returns what it returns and multiply-adds by module and operator.

    The module '' stands for the whole.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_KNOWN_BESIDE_PYTORCH_S)
    with counter, torch.no_grad():
        result = function(*args)
    counts = {'' if module == 'Global' else module: {str(operator): flops // 2 for operator, flops in by_operator.items()}
              for module, by_operator in counter.get_flop_counts().items()}  # PyTorch counts a multiply-add as two
    return result, counts


def default_shape(config: Config) -> tuple[int, int]:
    """Height and width at which the papers count this task."""
    return SEGMENTATION_SHAPE if is_segmentation(config) else DETECTION_SHAPE


def count_model(model: nn.Module, shape: tuple[int, int]) -> Cost:
    """Counts a detector or a segmentor for one image.

    Args:
        model: with `backbone` and, if it has them, `neck`, `rpn_head`, `bbox_head`, `roi_head`, `decode_head`. An auxiliary
            head only trains; it counts as parameters, not as multiply-adds.
        shape: height and width in pixels.

    Raises:
        UserError: it has none of these heads.
    """
    named = [getattr(model, name, None) for name in ('rpn_head', 'bbox_head', 'decode_head')]
    heads = [head for head in named if isinstance(head, nn.Module)]
    if not heads:
        raise UserError(f'{type(model).__name__} has no head that get_flops knows (rpn_head, bbox_head, roi_head, decode_head)')
    with FakeTensorMode(allow_non_fake_inputs=True):
        maps, in_backbone = count(model.backbone, torch.empty(1, 3, *shape))

        def neck_and_heads() -> None:
            features = model.neck(maps) if getattr(model, 'neck', None) is not None else maps
            for head in heads:
                head(features)
            if getattr(model, 'roi_head', None) is not None:
                _run_on_regions(model.roi_head)

        _, in_heads = count(neck_and_heads)
    products = {stage: sum(flops for operator, flops in operators.items() if 'convolution' not in operator)
                for stage in range(4) if (operators := in_backbone.get(f'{type(model.backbone).__name__}.layers.{stage}'))}
    linear = sum(flops for stage, flops in products.items() if stage in getattr(model.backbone, 'linear_stages', ()))
    softmax = sum(products.values()) - linear
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        backbone=sum(in_backbone[''].values()) - linear - softmax,
        heads=sum(in_heads[''].values()),
        linear_attention=linear,
        softmax_attention=softmax)


def _run_on_regions(roi_head: nn.Module) -> None:
    """Box and mask heads, one or one per stage of a cascade, on regions of the size that their extractors cut out."""
    for kind, regions in (('bbox', BOX_REGIONS), ('mask', MASK_REGIONS)):
        heads, extractors = getattr(roi_head, f'{kind}_head', None), getattr(roi_head, f'{kind}_roi_extractor', None)
        if heads is None:
            continue
        staged = isinstance(heads, nn.ModuleList)
        for head, extractor in zip(heads, extractors, strict=True) if staged else [(heads, extractors)]:
            head(_regions(extractor, regions))


def _regions(extractor: nn.Module, regions: int) -> Tensor:
    return torch.empty(regions, extractor.out_channels, *extractor.roi_layers[0].output_size)


def as_text(cost: Cost, shape: tuple[int, int]) -> str:
    """Both ways of counting, for a terminal."""
    def giga(number: int) -> str:
        return f'{number / 1e9:8.1f} G'

    return '\n'.join([
        f'parameters                               {cost.parameters / 1e6:8.1f} M',
        f'multiply-adds at {shape[0]}×{shape[1]} (height × width), one image',
        f'  backbone without attention products    {giga(cost.backbone)}',
        f'  neck and heads                         {giga(cost.heads)}',
        f'  sum, what published tables show        {giga(cost.published_kind)}',
        f'  products in the linear attentions      {giga(cost.linear_attention)}',
        f'  products in the softmax attentions     {giga(cost.softmax_attention)}',
        f'  all                                    {giga(cost.total)}'])


@dataclass(frozen=True)
class Row:
    """One model of the tables; `published` is empty where nothing was published."""

    family: dict
    recipe: dict
    size: str
    config: str
    published: dict
    weights: str | None  # URL of the authors' file

    @property
    def title(self) -> str:
        return f'{self.family["title"]}-{self.size.upper()}'


def read_rows(published: Path) -> list[Row]:
    """Every recipe with every backbone and size, in the order of the tables."""
    content = yaml.safe_load(published.read_text())
    rows = []
    for recipe_name, recipe in content['recipes'].items():
        for family_name, family in content['families'].items():
            for size in family_of(family['title']).variants:
                results = family['results'][recipe_name].get(size, {})
                released = family['weights'] if results else None
                rows.append(Row(
                    family, recipe, size, config='configs/' + recipe['config'].format(family=family_name, size=size),
                    published=results, weights=released and released + recipe['released'].format(size=size)))
    return rows


def deviation(measured: float, published: float) -> float:
    """By which share a measurement lies outside what a published whole number can stand for."""
    return max(0.0, abs(measured - published) - 0.5) / published


def as_page(rows: list[Row], costs: dict[str, Cost]) -> str:
    """`docs/model_zoo.md`.

    Args:
        rows: the models.
        costs: what each config measures, by its path.
    """
    lines = [_HEADER]
    for title in dict.fromkeys(row.recipe['title'] for row in rows):
        group = [row for row in rows if row.recipe['title'] == title]
        metrics = group[0].recipe['metrics']
        starred = ' | '.join(f'{name} *' for name in metrics)
        lines += [f'## {title}', '', f'| model | config | {starred} | params M here (published) '
                  '| multiply-adds G here (published) | with attention products | weights |', '|-' * (len(metrics) + 6) + '|']
        for row in group:
            cost = costs[row.config]
            values = row.published.get('metrics') or ['–'] * len(metrics)
            name = Path(row.config).name
            lines.append(
                f'| {row.title} | [{Path(name).stem}](../{row.config}) | {" | ".join(map(str, values))} '
                f'| {cost.parameters / 1e6:.1f} ({row.published.get("parameters", "–")}) '
                f'| {cost.published_kind / 1e9:.1f} ({row.published.get("flops", "–")}) '
                f'| {cost.total / 1e9:.1f} | {f"[file]({row.weights})" if row.weights else "–"} |')
        lines.append('')
    lines += ['## Where a measurement differs from the published number by more than 2 %', '',
              'Published numbers are whole millions and thousand millions; half a unit of rounding is not counted.', '',
              *_differences(rows, costs), '']
    return '\n'.join(lines)


_HEADER = '''# Model zoo

Made by `python tools/analysis_tools/make_model_zoo.py` from [published.yml](published.yml) and the configs; do not edit by hand.

- Columns with * are **published by the authors**, not measured here: RAVLT from the authors' README, MALA (MAViT in
  its paper) from a third party's transcription of the paper's tables (heedless-backbones), cross-checked in part.
  "–": not published, or not found.
- Parameters and multiply-adds are **measured here** with `tools/analysis_tools/get_flops.py`, published ones beside them.
  Detection at 800×1280, segmentation at 512×2048 (height × width), one image, 1000 box and 100 mask regions.
- Published multiply-adds leave out the products inside the attentions, as mmcv's old counter does; "multiply-adds here"
  counts the same, "with attention products" counts everything. The MALA paper prints RAVLT's numbers; ours are of each model.
- The weights are the authors' (mmdet 2.x and mmseg 0.x files) and load as they are: `python tools/test.py CONFIG FILE`.
  The MALA files lie on https://huggingface.co/aldjalkdf/MAViT under names that we do not know.
- No result on COCO or ADE20K has been reproduced here yet.
'''


def _differences(rows: list[Row], costs: dict[str, Cost]) -> Iterator[str]:
    found, largest = False, 0.0
    for row in rows:
        cost = costs[row.config]
        for name, measured in (('parameters', cost.parameters / 1e6), ('flops', cost.published_kind / 1e9)):
            published = row.published.get(name)
            if published:
                largest = max(largest, deviation(measured, published))
            if published and deviation(measured, published) > TOLERANCE:
                found = True
                yield f'- `{row.config}`: {name} {measured:.1f} here, {published} published.'
    if not found:
        yield f'None; the largest is {largest:.1%} (mmcv\'s old counter adds norms and activations).'


def as_metafile(rows: list[Row], costs: dict[str, Cost]) -> str:
    """`configs/metafile.yml` in OpenMMLab's format; its results are the authors', as `Converted From` says."""
    collections = {}
    models = []
    for row in rows:
        family = row.family
        collections.setdefault(family['title'], dict(
            Name=family['title'],
            Metadata=dict(Architecture=[family['title']]),
            Paper=dict(Title=family['paper'], URL=family['paper_url']),
            README='docs/model_zoo.md',
            Code=dict(URL=family['code'])))
        model = dict(Name=Path(row.config).stem, **{'In Collection': family['title']}, Config=row.config,
                     Metadata={'Parameters': costs[row.config].parameters, 'FLOPs': costs[row.config].published_kind,
                               'Training Data': row.recipe['dataset']})
        if row.published:
            model['Results'] = [dict(Task=task, Dataset=row.recipe['dataset'], Metrics=metrics)
                                for task, metrics in _results(row)]
            model['Converted From'] = dict(Weights=row.weights or family_of(family['title']).released, Code=family['code'])
        if row.weights:
            model['Weights'] = row.weights
        models.append(model)
    note = ('# Made by tools/analysis_tools/make_model_zoo.py. Results are those that the authors published; FLOPs and\n'
            '# parameters are measured here, without the products inside the attentions, as published tables count.\n')
    return note + yaml.safe_dump(dict(Collections=list(collections.values()), Models=models), sort_keys=False, width=120)


def _results(row: Row) -> Iterator[tuple[str, dict[str, float]]]:
    values = dict(zip(row.recipe['metrics'], row.published['metrics'], strict=True))
    if row.recipe['task'] == 'Semantic Segmentation':
        yield row.recipe['task'], dict(mIoU=values['mIoU'])
        return
    yield 'Object Detection', {'box AP': values['box AP']}
    if 'mask AP' in values:
        yield 'Instance Segmentation', {'mask AP': values['mask AP']}
