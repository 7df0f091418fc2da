"""Pages in a real browser, where there is one."""

import shutil
from pathlib import Path

import pytest

playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed (pip install playwright)')
CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
         '--disable-component-update', '--disable-sync']
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason='there is no Chromium (apt-get install chromium)')


def open_page(browser: 'playwright.Browser', path: Path, width: int,
              scheme: str = 'light') -> tuple['playwright.Page', list[str]]:
    """The page, and a list that takes what its console and its network say."""
    page = browser.new_context(viewport=dict(width=width, height=900), color_scheme=scheme).new_page()
    said: list[str] = []
    page.on('console', lambda message: said.append(message.text))
    page.on('pageerror', lambda error: said.append(str(error)))
    page.on('dialog', lambda dialog: said.append(dialog.message))
    page.on('request', lambda request: said.append(request.url) if not request.url.startswith(('data:', path.as_uri())) else None)
    page.goto(path.as_uri())
    return page, said


def brightness(page: 'playwright.Page', element: str, style: str) -> int:
    """The sum of red, green and blue of what a style computes to, from 0 to 765."""
    color = page.evaluate(f'getComputedStyle(document.querySelector("{element}")).{style}')
    return sum(int(part) for part in color[4:-1].split(','))
