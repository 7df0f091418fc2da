"""The report in a real browser: nothing goes wrong in it, charts are drawn, tables sort, and a phone can show it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed (pip install playwright)')
CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
         '--disable-component-update', '--disable-sync']
PAGES = ('detector', 'segmentor', 'comparison')

pytestmark = pytest.mark.skipif(not CHROMIUM, reason='there is no Chromium (apt-get install chromium)')


@pytest.fixture(scope='module')
def browser() -> Iterator['playwright.Browser']:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


def open_page(browser: 'playwright.Browser', path: Path, width: int,
              scheme: str = 'light') -> tuple['playwright.Page', list[str]]:
    """The page, and a list that takes what its console and its network say."""
    page = browser.new_context(viewport=dict(width=width, height=900), color_scheme=scheme).new_page()
    said: list[str] = []
    page.on('console', lambda message: said.append(message.text))
    page.on('pageerror', lambda error: said.append(str(error)))
    page.on('request', lambda request: said.append(request.url) if not request.url.startswith(('data:', path.as_uri())) else None)
    page.goto(path.as_uri())
    return page, said


@pytest.mark.parametrize('name', PAGES)
@pytest.mark.parametrize('width', [1280, 390])
def test_it_is_drawn_whole_without_errors(browser: 'playwright.Browser', pages: dict[str, Path], name: str, width: int):
    page, said = open_page(browser, pages[name], width)
    page.eval_on_selector_all('details', 'all => all.forEach(one => one.open = true)')
    boxes = page.eval_on_selector_all('.chart svg', 'all => all.map(one => [one.getBBox().width, one.getBBox().height, '
                                      'one.getBoundingClientRect().width, one.querySelectorAll("text").length])')
    assert len(boxes) >= 4
    for inner_width, inner_height, shown, texts in boxes:
        assert min(inner_width, inner_height) > 50
        assert 200 < shown <= width
        assert texts > 5
    images = page.eval_on_selector_all('img', 'all => all.map(one => one.naturalWidth)')
    assert len(images) >= 4
    assert min(images) > 0
    assert page.evaluate('document.documentElement.scrollWidth') <= width
    assert said == []


@pytest.mark.parametrize('name', PAGES)
def test_tables_sort_on_click(browser: 'playwright.Browser', pages: dict[str, Path], name: str):
    page, said = open_page(browser, pages[name], 1280)
    table = page.locator('#classes table').last

    def column(place: int) -> list[str]:
        return table.locator(f'tbody tr > :nth-child({place})').all_inner_texts()

    names, amounts = column(1), [int(value.replace(',', '')) for value in column(2)]
    assert len(set(amounts)) > 1
    table.locator('thead button').nth(1).click()
    assert [int(value.replace(',', '')) for value in column(2)] == sorted(amounts, reverse=True)
    table.locator('thead button').nth(1).click()
    assert [int(value.replace(',', '')) for value in column(2)] == sorted(amounts)
    assert table.locator('thead th').nth(1).get_attribute('aria-sort') == 'ascending'
    table.locator('thead button').first.click()
    assert column(1) == sorted(names)
    assert said == []


def test_text_can_be_read_in_light_and_dark(browser: 'playwright.Browser', pages: dict[str, Path]):
    for scheme, dark in (('light', False), ('dark', True)):
        page, _ = open_page(browser, pages['detector'], 390, scheme)
        ground, ink = (page.evaluate(f'getComputedStyle(document.querySelector("{element}")).{style}')
                       for element, style in (('section', 'backgroundColor'), ('.chart text', 'fill')))
        darker = [sum(int(part) for part in color[4:-1].split(',')) for color in (ground, ink)]
        assert (darker[0] < darker[1]) is dark
        assert abs(darker[0] - darker[1]) > 400  # of 765
