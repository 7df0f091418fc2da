"""Data mutated at random: looking at it ends in a report or in a sentence, and what passes can be read and evaluated.

RALAMALA_FUZZ_EXAMPLES=5000 pytest tests/datasets/user_data/test_fuzz_inspection.py tries many more, and others each time.
"""

import copy
import functools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DATASETS
from PIL import Image
from pycocotools.coco import COCO

from ralamala_mm.datasets import use_checked_loading, use_data
from ralamala_mm.datasets.config import CHECKED
from ralamala_mm.datasets.diagnosis import check_dataset, explain_dataset_error
from ralamala_mm.engine import load_config
from ralamala_mm.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = os.environ.get('RALAMALA_FUZZ_EXAMPLES')
settings.register_profile('data', max_examples=int(EXAMPLES or 40), deadline=None, derandomize=not EXAMPLES, database=None,
                          suppress_health_check=list(HealthCheck))
PROFILE = settings.get_profile('data')
PARTS = ('images', 'annotations', 'categories')
KEYS = ('id', 'file_name', 'height', 'width', 'image_id', 'category_id', 'bbox', 'area', 'iscrowd', 'segmentation', 'name',
        'supercategory', 'ignore')

NUMBERS = st.one_of(st.integers(-3, 300), st.integers(), st.floats(), st.sampled_from([1e308, 2 ** 63, 10 ** 400, -0.0]))
NAMES = st.one_of(st.text(max_size=8),
                  st.sampled_from(['train\\00000.png', 'C:\\x\\00001.png', 'é.png', '../train/00002.png', '.', '/',
                                   '\0', '\ud800', 'a' * 300]))
RUN_LENGTHS = st.fixed_dictionaries({}, optional=dict(
    size=st.one_of(st.just([128, 128]), st.lists(NUMBERS, max_size=3)),
    counts=st.one_of(st.lists(NUMBERS, max_size=4), st.just([128 * 128]), st.text(max_size=12),
                     st.text('0123456789PQRSTo', max_size=40))))
POLYGONS = st.one_of(st.lists(st.one_of(st.lists(NUMBERS, max_size=9), NUMBERS), max_size=3),
                     st.lists(st.lists(st.integers(0, 128), max_size=7), min_size=1, max_size=3))
VALUES = st.one_of(st.none(), st.booleans(), NUMBERS, NAMES, RUN_LENGTHS, POLYGONS, st.lists(NUMBERS, min_size=4, max_size=4),
                   st.dictionaries(NAMES, NUMBERS, max_size=2),
                   st.recursive(st.none(), lambda inner: st.lists(inner, max_size=2)))
EDITS = st.lists(st.tuples(st.sampled_from(['set', 'set', 'set', 'drop', 'repeat', 'replace', 'part', 'empty']),
                           st.sampled_from(PARTS), st.integers(0, 200), st.sampled_from(KEYS), VALUES), max_size=4)
CUTS = st.one_of(st.none(), st.none(), st.none(), st.tuples(st.floats(0, 1), st.binary(max_size=6), st.booleans()))


def edited(content: dict, edits: list[tuple]) -> dict:
    content = copy.deepcopy(content)
    for action, part, position, key, value in edits:
        entries = content.get(part)
        if action == 'part':
            content[part] = value
        elif not isinstance(entries, list) or not entries:
            continue
        elif action == 'empty':
            content[part] = []
        elif action == 'repeat':
            entries.append(copy.deepcopy(entries[position % len(entries)]))
        elif action == 'replace':
            entries[position % len(entries)] = value
        elif isinstance(entry := entries[position % len(entries)], dict):
            if action == 'drop':
                entry.pop(key, None)
            else:
                entry[key] = value
    return content


def as_bytes(content: object, cut: tuple | None) -> bytes:
    text = json.dumps(content).encode()
    if cut is None:
        return text
    place, junk, ends = cut
    position = int(place * len(text))
    return text[:position] + junk + (b'' if ends else text[position + len(junk):])


@pytest.fixture(scope='module')
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp())
    yield path
    shutil.rmtree(path)


@functools.cache
def loaded(name: str) -> Config:
    """Not a fixture, which hypothesis would print whole."""
    return load_config(str(ROOT / f'configs/demo/{name}.py'))


def read_all(config: Config, mode: str) -> int:
    """Reads every sample of a data set as training and evaluation do, up to the first transform that is not ours."""
    use_checked_loading(config)
    dataset = config[f'{mode}_dataloader'].dataset
    readers = Compose([dict(t) for t in dataset.pipeline if t['type'] in CHECKED])
    assert len(readers.transforms) == 2
    with DATASETS.switch_scope_and_registry(config.default_scope) as registry:
        try:
            built = registry.build(dict(dataset, pipeline=[], serialize_data=False))  # which takes most of the time
        except Exception as error:
            explain_dataset_error(dataset, error)
            raise
    check_dataset(built)
    for i in range(len(built)):
        readers(built.get_data_info(i))
    return len(built)


def ends_well(function, *arguments) -> bool:
    """Whether it passes; a sentence is a good end, too, and anything else is the caller's failure."""
    sentence = None
    try:
        with redirect_stdout(StringIO()):
            function(*arguments)
    except UserError as error:
        sentence = error.sentence
    assert sentence is None or (len(sentence) > 20 and '\n' not in sentence)
    return sentence is None


def evaluate(path: str) -> None:
    """What the metric does with the ground truth."""
    truth = COCO(path)
    for annotation in truth.loadAnns(truth.getAnnIds(imgIds=truth.getImgIds())):
        truth.annToRLE(annotation)


@given(train=EDITS, val=EDITS, cut=CUTS)
@PROFILE
def test_coco_folders(train: list, val: list, cut: tuple | None, folder: Path, shapes_root: Path):
    root = Path(tempfile.mkdtemp(dir=folder))
    (root / 'annotations').mkdir()
    for split, edits in (('train', train), ('val', val)):
        (root / split).symlink_to(shapes_root / split)
        content = json.loads((shapes_root / f'annotations/instances_{split}.json').read_text())
        text = as_bytes(edited(content, edits), cut if split == 'train' else None)
        (root / f'annotations/instances_{split}.json').write_bytes(text)
    config = copy.deepcopy(loaded('maskrcnn_ravlt_t_shapes'))
    config.work_dir = str(root / 'work')
    if ends_well(use_data, config, str(root), ['train', 'val']):
        ends_well(read_all, config, 'train')
        if ends_well(read_all, config, 'val'):
            ends_well(evaluate, config.val_evaluator.ann_file)
    shutil.rmtree(root)


@given(edits=EDITS, cut=CUTS)
@PROFILE
def test_coco_files_that_a_config_names(edits: list, cut: tuple | None, folder: Path, shapes_root: Path):
    root = Path(tempfile.mkdtemp(dir=folder))
    content = json.loads((shapes_root / 'annotations/instances_train.json').read_text())
    (root / 'a.json').write_bytes(as_bytes(edited(content, edits), cut))
    config = copy.deepcopy(loaded('maskrcnn_ravlt_t_shapes'))
    config.train_dataloader.dataset.update(data_root=str(shapes_root), ann_file=str(root / 'a.json'))
    ends_well(read_all, config, 'train')
    shutil.rmtree(root)


def encoded(mode: str, size: tuple[int, int], value: int, kind: str) -> bytes:
    stream = BytesIO()
    values = np.full(size, value % 256, np.uint8)
    if mode == 'I;16':
        image = Image.fromarray(values.astype(np.uint16) * (value % 300))
    else:
        image = Image.fromarray(values).convert(mode)
    image.save(stream, kind)
    return stream.getvalue()


MASKS = st.builds(encoded, st.sampled_from(['L', '1', 'P', 'RGB', 'RGBA', 'LA', 'I;16']),
                  st.sampled_from([(128, 128), (128, 128), (64, 128), (1, 1)]), st.integers(0, 600),
                  st.sampled_from(['PNG', 'TIFF']))
FILE_NAMES = st.one_of(st.sampled_from(['00000.png', '00001.png', '00002.png', 'é.png', 'é.png', 'classes.txt', 'labelmap.txt',
                                        'class_dict.csv', 'b\udce9.png', '.png', 'a.jpg', 'x.b.png', '00000_mask.png']),
                       st.text('ab.é\n\\ ', min_size=1, max_size=5).filter(lambda name: name not in ('.', '..')))
PLACES = st.sampled_from(['images/train', 'masks/train', 'images/val', 'masks/val', 'masks/train', '.', 'images', 'masks', 'x'])
LISTS = st.one_of(st.text(max_size=30), st.just('background\ncircle\nsquare\ntriangle\nstar'), st.just('a:1,2,3::\nb:0,0,0::'),
                  st.just('name,r,g,b\na,0,0,0\nb,1,1,1'), st.just('a\na\na\na\na'),
                  ).map(lambda text: text.encode('utf-8', 'replace'))
CONTENTS = st.one_of(MASKS, MASKS, LISTS, st.binary(max_size=40), st.sampled_from([None, 'folder']))
FILES = st.lists(st.tuples(PLACES, FILE_NAMES, CONTENTS), max_size=5)


@given(files=FILES)
@PROFILE
def test_mask_folders(files: list, folder: Path, shapes_root: Path):
    root = Path(tempfile.mkdtemp(dir=folder))
    for split, count in (('train', 3), ('val', 2)):
        for kind, source in (('images', shapes_root / split), ('masks', shapes_root / 'semantic' / split)):
            (root / kind / split).mkdir(parents=True)
            for path in sorted(source.iterdir())[:count]:
                shutil.copy(path, root / kind / split)
    for place, name, content in files:
        path = root / place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            continue
        path.unlink(missing_ok=True)
        if content == 'folder':
            path.mkdir()
        elif content is not None:
            path.write_bytes(content)
    config = copy.deepcopy(loaded('semanticfpn_ravlt_t_shapes'))
    config.work_dir = str(root / 'work')
    if ends_well(use_data, config, str(root), ['train', 'val']):
        ends_well(read_all, config, 'train')
        ends_well(read_all, config, 'val')
    shutil.rmtree(root)
