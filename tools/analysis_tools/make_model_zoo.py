"""Measures every config and writes docs/model_zoo.md, configs/metafile.yml and model-index.yml."""

import argparse
import warnings
from pathlib import Path

from ralamala_mm.analysis.flops import as_metafile, as_page, count_model, default_shape, read_rows
from ralamala_mm.engine import build_model, load_config, run

ROOT = Path(__file__).resolve().parents[2]


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
