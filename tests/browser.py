"""Open pages in Debian's chromium, without a network.

A test of a page asks for the fixture `browser` of conftest.py.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
# The addresses that a page may read: itself, its own data, and servers of this machine.
LOCAL = ("file:", "data:", "blob:", "about:", "http://127.0.0.1", "http://localhost")
PHONE = {"width": 390, "height": 844}


@dataclass
class Watch:
    """What a page did: blocked requests, and messages of errors."""

    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def find_browser() -> str:
    """Return the path of a browser, or skip the test.

    CI sets BULA_BROWSER=required, so that a missing browser is a failure there.
    """
    for name in PROGRAMS:
        if path := shutil.which(name):
            return path
    message = "no chromium on PATH (Debian: apt install chromium)"
    if os.environ.get("BULA_BROWSER") == "required":
        pytest.fail(message)
    pytest.skip(message)


@contextmanager
def start_browser() -> Iterator[Any]:
    """Start chromium, and close it at the end."""
    from playwright.sync_api import sync_playwright

    path = find_browser()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def open_page(browser: Any, *, phone: bool = False, **options: Any) -> tuple[Any, Watch]:
    """Return a new page, and the record of its requests and errors.

    Requests to another machine are refused and recorded.
    """
    if phone:
        options = {"viewport": PHONE, "is_mobile": True, "has_touch": True, **options}
    page = browser.new_context(**options).new_page()
    watch = Watch()

    def guard(route: Any) -> None:
        url = route.request.url
        if url.startswith(LOCAL):
            route.continue_()
            return
        watch.requests.append(url)
        route.abort()

    def note_console(message: Any) -> None:
        if message.type == "error":
            watch.errors.append(message.text)

    page.route("**/*", guard)
    page.on("console", note_console)
    page.on("pageerror", lambda error: watch.errors.append(str(error)))
    return page, watch
