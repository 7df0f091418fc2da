"""A browser for the pages that tests make."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope='module')
def browser() -> Iterator['playwright.Browser']:  # noqa: F821
    from in_browser import CHROMIUM, FLAGS, playwright

    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()
