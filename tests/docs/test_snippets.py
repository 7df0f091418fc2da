"""The Python in README and docs: configs are read and their models built, everything else is run."""

import re
from pathlib import Path

import pytest
from forked import Call, Outcome, run_all
from pages import PAGES, ROOT, blocks

SNIPPETS = [(f'{page.relative_to(ROOT)}-{i}', text) for page in PAGES for i, text in enumerate(blocks(page, 'python'))]
# What is set at the top of a module, and nothing else, is a part of a config.
CONFIGS = [(name, text) for name, text in SNIPPETS if not re.search(r'^(import|from|print|class|def|@)', text, re.MULTILINE)]
PROGRAMS = [snippet for snippet in SNIPPETS if snippet not in CONFIGS]


@pytest.fixture(scope='module')
def outcomes(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """How each program ended."""
    calls = []
    for name, text in PROGRAMS:
        path = workplace / f'{re.sub(r"[^a-z0-9]", "_", name)}.py'
        path.write_text(text)
        calls.append(Call([path.name], str(tmp_path_factory.mktemp('streams')), {}, str(workplace)))
    return {name: outcome for (name, _), outcome in zip(PROGRAMS, run_all(calls, limit=240), strict=True)}


def test_there_are_snippets():
    assert len(CONFIGS) >= 4
    assert len(PROGRAMS) >= 6


@pytest.mark.slow
@pytest.mark.parametrize('name', [name for name, _ in PROGRAMS])
def test_programs(name: str, outcomes: dict[str, Outcome]):
    assert outcomes[name].code == 0, f'{outcomes[name].stdout[-1000:]}\n{outcomes[name].stderr[-3000:]}'


@pytest.mark.parametrize(('name', 'text'), CONFIGS, ids=[name for name, _ in CONFIGS])
def test_configs(name: str, text: str, workplace: Path, monkeypatch: pytest.MonkeyPatch):
    from ralamala_mm.engine import build_model, load_config

    path = workplace / 'my_configs' / f'{re.sub(r"[^a-z0-9]", "_", name)}.py'
    path.parent.mkdir(exist_ok=True)
    # A page's parts continue from the config before them, in which they change something.
    path.write_text(text if '_base_' in text else f"_base_ = '{ROOT}/configs/maskrcnn_ravlt_t.py'\n{text}")
    config = load_config(str(path))
    if 'model' in text:
        config.model.backbone.pretrained = None
        assert type(build_model(config).backbone).__name__ in ('RAVLT', 'MALA')
