"""The README's commands and code do what it says."""

import re
import subprocess
import sys
from pathlib import Path

from pages import ROOT, blocks

README = (ROOT / 'README.md').read_text()


def code(language: str) -> list[str]:
    return blocks(ROOT / 'README.md', language)


def test_there_are_blocks_to_check():
    assert len(code('sh')) >= 3
    assert len(code('python')) == 2


def test_named_files_exist():
    names = set(re.findall(r'(?<!\w)(tools/\S+\.(?:py|sh)|configs/\w+\.py|docs/\w+\.md)', README))
    names |= {f'docs/{name}' for name in re.findall(r'\b\w+\.md', README)}
    assert len(names) >= 7
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_options_exist():
    """Every option of a shown train or test command is known to the tool."""
    lines = [line.split('#')[0] for block in code('sh') for line in block.splitlines()]
    scripts = ('train.py', 'test.py', 'dist_train.sh', 'slurm_train.sh', 'check_data.py')
    shown = [(script, line) for line in lines for script in scripts if f'tools/{script}' in line]
    assert len(shown) >= 7
    help_texts = {}
    for script, line in shown:
        tool = script if script.endswith('.py') else 'train.py'
        if script == 'dist_train.sh':
            line = re.sub(r' --max-restarts \d+', '', line)  # launch.py's own; tests/tools/test_launchers.py
        if tool not in help_texts:
            command = [sys.executable, f'tools/{tool}', '--help']
            help_texts[tool] = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for option in re.findall(r'--[\w-]+', line):
            assert option in help_texts[tool], line


def test_make_targets_exist():
    makefile = (ROOT / 'Makefile').read_text()
    targets = set(re.findall(r'make (\w+)', '\n'.join(code('sh'))))
    assert {'demo', 'test', 'install'} <= targets
    for target in targets:
        assert re.search(rf'^{target}:', makefile, re.MULTILINE)


def test_the_config_of_your_own(tmp_path: Path):
    from mmdet.registry import MODELS
    from mmengine.registry import DefaultScope

    from ralamala_mm.engine import load_config

    (config_text,) = [text for text in code('python') if '_base_' in text]
    path = tmp_path / 'config.py'
    path.write_text(config_text)
    config = load_config(str(path))
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(config.model)
    assert type(model.backbone).__name__ == 'RAVLT'
    assert 'depth' not in config.model.backbone


def test_the_plain_example():
    (example,) = [text for text in code('python') if '_base_' not in text]
    result = subprocess.run([sys.executable, '-W', 'ignore', '-c', example], cwd=ROOT, capture_output=True, text=True, check=True)
    assert '(128, 256, 512) (8, 16, 32)' in result.stdout
    assert '(1, 512, 15, 20)' in result.stdout


def test_channels_are_those_of_the_sizes():
    from ralamala_mm.families import VARIANTS

    for arch, variant in VARIANTS.items():
        assert f'{arch} {" ".join(map(str, variant.embed_dims))}' in README
