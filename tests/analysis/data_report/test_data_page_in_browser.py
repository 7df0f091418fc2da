"""The data report in a real browser: drawn whole, without errors, at the width of a desktop and of a phone."""

from pathlib import Path

import pytest
from in_browser import brightness, needs_chromium, open_page, playwright

PAGES = ('detector', 'defects', 'segmentor', 'damaged')

pytestmark = needs_chromium


@pytest.mark.parametrize('name', PAGES)
@pytest.mark.parametrize('width', [1280, 390])
def test_it_is_drawn_whole_without_errors(browser: 'playwright.Browser', data_pages: dict[str, Path], name: str, width: int):
    page, said = open_page(browser, data_pages[name], width)
    page.eval_on_selector_all('details', 'all => all.forEach(one => one.open = true)')
    charts = page.eval_on_selector_all('.chart svg', 'all => all.map(one => [one.getBoundingClientRect().width, '
                                       'one.querySelectorAll("text").length])')
    assert len(charts) >= 4
    for shown, texts in charts:
        assert 200 < shown <= width
        assert texts > 5
    images = page.eval_on_selector_all('img', 'all => all.map(one => [one.naturalWidth, one.alt.length])')
    assert len(images) >= 2
    assert min(size for size, _ in images) > 0
    assert min(text for _, text in images) > 10
    assert page.evaluate('document.documentElement.scrollWidth') <= width
    beyond = page.evaluate('[...document.querySelectorAll("main *")].filter(one => !one.closest(".wide, svg") && '
                           'one.getBoundingClientRect().right > innerWidth).map(one => one.outerHTML.slice(0, 80))')
    assert beyond == []
    assert said == []


def test_it_needs_no_script(browser: 'playwright.Browser', data_pages: dict[str, Path]):
    page = browser.new_context(java_script_enabled=False, viewport=dict(width=1280, height=900)).new_page()
    page.goto(data_pages['defects'].as_uri())
    assert page.locator('.card').count() >= 8
    page.locator('.verdict a').first.click()
    assert page.url.endswith('#case-1')
    page.locator('.chart summary').first.click()
    assert page.locator('.chart details table').first.is_visible()


@pytest.mark.parametrize(('scheme', 'dark'), [('light', False), ('dark', True)])
def test_text_can_be_read(browser: 'playwright.Browser', data_pages: dict[str, Path], scheme: str, dark: bool):
    page, _ = open_page(browser, data_pages['defects'], 390, scheme)
    for ground, ink, style in (('section', '.chart text', 'fill'), ('.card', '.card p', 'color'), ('section', 'td', 'color')):
        below, above = brightness(page, ground, 'backgroundColor'), brightness(page, ink, style)
        assert (below < above) is dark
        assert abs(below - above) > 250  # of 765
