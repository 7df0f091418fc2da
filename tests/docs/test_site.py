"""The pages build into a site without a warning: every link leads somewhere, every documented name is there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT


@pytest.mark.slow
def test_it_builds(tmp_path: Path):
    command = [sys.executable, '-W', 'ignore', '-m', 'mkdocs', 'build', '--strict', '--site-dir', str(tmp_path / 'site')]
    result = subprocess.run(command, cwd=ROOT, env=dict(os.environ, NO_MKDOCS_2_WARNING='1'), capture_output=True, text=True,
                            check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    pages = {str(path.relative_to(tmp_path / 'site').parent) for path in (tmp_path / 'site').rglob('index.html')}
    assert {'.', 'own_config', 'backbones', 'api/backbones'} <= pages
    formulas = (tmp_path / 'site' / 'backbones' / 'index.html').read_text()
    assert formulas.count('<math') >= 5
    text = (tmp_path / 'site' / 'index.html').read_text()
    elsewhere = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(?:https?:)?//([^"/]+)', text)
    assert elsewhere == [], 'the pages load nothing from elsewhere'
