"""Debian's Chromium for tests, driven by playwright; both are optional."""

import contextlib
import os
import shutil

import pytest

WIDTHS = {"desktop": 1280, "phone": 390}


@contextlib.contextmanager
def browser(*options):
    """Yield a browser started with more options, or skip the test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra dev)")
    program = os.environ.get("EFFDET_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs Chromium: apt-get install chromium, or EFFDET_CHROMIUM")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu", *options])
        try:
            yield chromium
        finally:
            chromium.close()


@contextlib.contextmanager
def opened(chromium, address, width=WIDTHS["desktop"], dark=False):
    """Yield a page, and check at the end that its console is empty and that it asked for nothing but itself."""
    context = chromium.new_context(viewport={"width": width, "height": 850}, color_scheme="dark" if dark else "light")
    page, messages, asked = context.new_page(), [], []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    yield page
    context.close()
    assert messages == []
    assert [url for url in asked if not url.startswith(("data:", address))] == []
