"""Measures every config and writes docs/model_zoo.md, configs/metafile.yml and model-index.yml."""

import argparse
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from ralamala_mm.analysis.flops import Cost, count_model, default_shape
from ralamala_mm.engine import build_model, load_config, run
from ralamala_mm.families import family_of

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 0.02  # of a published number, beyond its own rounding to a whole million or thousand million


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


def main(args: argparse.Namespace) -> None:
    warnings.filterwarnings('ignore', category=UserWarning, module='mmseg')
    rows = read_rows(ROOT / 'docs' / 'published.yml')
    costs = {}
    for i, row in enumerate(rows):
        config = load_config(str(ROOT / row.config))
        costs[row.config] = count_model(build_model(config), default_shape(config))
        cost = costs[row.config]
        print(f'{i + 1}/{len(rows)} {row.config}: {cost.parameters / 1e6:.1f} M, {cost.published_kind / 1e9:.1f} G, '
              f'{cost.total / 1e9:.1f} G with attention products', flush=True)
    args.out.joinpath('docs').mkdir(parents=True, exist_ok=True)
    args.out.joinpath('configs').mkdir(exist_ok=True)
    args.out.joinpath('docs', 'model_zoo.md').write_text(as_page(rows, costs))
    args.out.joinpath('configs', 'metafile.yml').write_text(as_metafile(rows, costs))
    args.out.joinpath('model-index.yml').write_text('Import:\n  - configs/metafile.yml\n')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, default=ROOT, help='folder to write to; the repository by default')
    run(parser, main)
