"""Data sets made of the built-in shapes, checked as check_data.py does it, and what their pages say."""

import html
import json
import re
from collections.abc import Callable
from pathlib import Path

from ralamala_mm.analysis.data_report import data_page
from ralamala_mm.datasets import use_checked_loading
from ralamala_mm.datasets.user_data import inspect_data
from ralamala_mm.datasets.validation import DataReport, check_config_data
from ralamala_mm.engine import load_config

ROOT = Path(__file__).resolve().parents[3]
DETECTOR = 'configs/demo/maskrcnn_ravlt_t_shapes.py'
SEGMENTOR = 'configs/demo/semanticfpn_ravlt_t_shapes.py'
SPLITS = ('train', 'val', 'test')


def check(name: str, root: Path, folder: Path, by_data: bool = True) -> tuple[Path, DataReport]:
    """The page of a data set, read by `--data` or by the config's own paths, and the report that it shows."""
    config = load_config(str(ROOT / name))
    config.work_dir = str(folder / 'work')
    own = None
    if by_data:
        own = inspect_data(config, str(root), SPLITS, show=False)
    else:
        for split in SPLITS:
            config[f'{split}_dataloader'].dataset.data_root = str(root)
    use_checked_loading(config)
    report = check_config_data(config, SPLITS, 1, own)
    page = folder / 'data_report.html'
    page.write_text(data_page(report, str(root)), encoding='utf-8')
    return page, report


def change(root: Path, split: str, edit: Callable[[dict], object]) -> None:
    """Edits an annotation file."""
    path = root / f'annotations/instances_{split}.json'
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def spoil(root: Path) -> None:
    """A defect of each kind that can be drawn, a hostile class name, an image of 124 objects."""

    def train(content: dict) -> None:
        of_image: dict[int, list[dict]] = {}
        for annotation in content['annotations']:
            of_image.setdefault(annotation['image_id'], []).append(annotation)
        first, second, third, fourth = (of_image[image['id']] for image in content['images'][:4])
        first[0]['bbox'] = [-60.0, 20.0, 50.0, 40.0]
        second[0]['bbox'] = [60.0, 60.0, 0.5, 0.5]
        content['annotations'].append(dict(third[0], id=1000))
        fourth[0]['segmentation'] = 'nonsense'
        content['images'][4].update(width=100, height=90)
        content['categories'][0]['name'] = HOSTILE

    def val(content: dict) -> None:
        one = content['annotations'][0]
        content['annotations'] += [
            dict(one, id=2000 + i, bbox=[i % 12 * 10.0, i // 12 * 10.0, 8.0, 8.0], area=64.0,
                 segmentation=[[i % 12 * 10, i // 12 * 10, i % 12 * 10 + 8, i // 12 * 10, i % 12 * 10 + 8, i // 12 * 10 + 8]])
            for i in range(120)]
        content['categories'][0]['name'] = HOSTILE

    change(root, 'train', train)
    change(root, 'val', val)


HOSTILE = '<b>x</b><img src=x onerror=alert(1)>'


def section(text: str, name: str) -> str:
    """The HTML of one section."""
    return re.search(rf'<section id="{name}">(.*?)</section>', text, re.DOTALL)[1]


def tables(text: str) -> list[list[list[str]]]:
    """The rows of each table, headings first, as texts of their cells."""
    found = []
    for table in re.findall(r'<table.*?</table>', text, re.DOTALL):
        rows = [re.findall(r'<t[hd][^>]*>(.*?)</t[hd]>', row, re.DOTALL)
                for row in re.findall(r'<tr>(.*?)</tr>', table, re.DOTALL)]
        found.append([[html.unescape(re.sub(r'<[^>]+>', '', cell)) for cell in row] for row in rows])
    return found


def dictionaries(table: list[list[str]]) -> dict[str, dict[str, str]]:
    """By the first cell of a row, its others by their headings; repeated headings take that of the split before."""
    headings, split = [], ''
    for heading in table[0]:
        split = heading.partition(': ')[0] if ': ' in heading else split
        headings.append(f'{split}: {heading}' if split and ': ' not in heading else heading)
    return {row[0]: dict(zip(headings[1:], row[1:], strict=True)) for row in table[1:]}
