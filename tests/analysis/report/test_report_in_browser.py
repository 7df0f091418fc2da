"""The report in a real browser: nothing goes wrong in it, charts are drawn, tables sort, and a phone can show it."""

from pathlib import Path

import pytest
from in_browser import brightness, needs_chromium, open_page, playwright

PAGES = ('detector', 'segmentor', 'comparison')

pytestmark = needs_chromium


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
        ground, ink = brightness(page, 'section', 'backgroundColor'), brightness(page, '.chart text', 'fill')
        assert (ground < ink) is dark
        assert abs(ground - ink) > 400  # of 765
