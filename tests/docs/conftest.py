"""The folder in which commands and snippets of the pages are run: small things under the names that the pages use."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pages import ROOT, commands

from ralamala_mm import RAVLT

SEGMENTORS = ('semanticfpn', 'upernet')
BACKBONE_ALONE = 'backbone.pth'  # of the small configs


def named(pattern: str) -> set[str]:
    return {word for command in commands() for word in command.words if re.fullmatch(pattern, word)}


def base_of(name: str) -> Path:
    """The small config that stands for one of this name."""
    return ROOT / 'tests/faults/configs' / ('tiny_segmentor.py' if name.startswith(SEGMENTORS) else 'tiny_detector.py')


def make_configs(folder: Path) -> None:
    """A small stand-in for each config that is named."""
    for name in named(r'(configs|work_dirs)/.*\.py'):
        assert name.startswith('work_dirs') or (ROOT / name).is_file(), f'{name} does not exist'
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'''_base_ = {str(base_of(path.stem))!r}
data_root = 'data/shapes'
train_cfg = dict({'max_iters=6' if path.stem.startswith(SEGMENTORS) else 'max_epochs=1'}, val_interval=1)
''')


def make_weights(folder: Path) -> None:
    """Fresh weights under each name."""
    from ralamala_mm.engine import build_model, load_config

    for name in named(r'.*\.pth') | {BACKBONE_ALONE}:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.startswith('RAVLT'):  # a released file
            torch.save(RAVLT(arch=name[6].lower()).state_dict(), path)
            continue
        model = build_model(load_config(str(base_of(path.parent.name))))
        whole = dict(state_dict=model.state_dict(), meta=dict())
        torch.save(model.backbone.state_dict() if name == BACKBONE_ALONE else whole, path)


def make_images(folder: Path) -> None:
    """What inference is shown on."""
    image = np.random.default_rng(0).integers(0, 256, (192, 256, 3), np.uint8)
    (folder / 'photos').mkdir()
    for name in ('a.jpg', 'b.jpg', 'photo.jpg', 'photos/one.jpg', 'huge.png', 'aerial.tif'):
        cv2.imwrite(str(folder / name), image)
    film = cv2.VideoWriter(str(folder / 'film.mp4'), cv2.VideoWriter_fourcc(*'mp4v'), 10, (64, 48))
    for _ in range(3):
        film.write(image[:48, :64])
    film.release()


@pytest.fixture(scope='session')
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the commands are run."""
    from ralamala_mm.datasets.shapes import make_shapes

    folder = tmp_path_factory.mktemp('workplace')
    for name in ('tools', 'ralamala_mm', 'requirements', 'pyproject.toml'):
        (folder / name).symlink_to(ROOT / name)
    make_shapes(folder / 'data' / 'shapes', train=12, val=3, size=64)
    (folder / 'data' / 'ade').mkdir()
    for name in ('my_images', 'data/coco', 'data/ade/ADEChallengeData2016'):
        (folder / name).symlink_to(folder / 'data' / 'shapes')
    make_configs(folder)
    make_weights(folder)
    make_images(folder)
    return folder
