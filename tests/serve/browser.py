"""A headless Chromium, where there is one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

#: Names under which systems have Chromium.
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def executable() -> str | None:
    """Where Chromium lies; None if it is not installed."""
    own = os.environ.get("OBJEMB_CHROMIUM")
    if own:
        return own
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    if found is not None:
        return found
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        path = running.chromium.executable_path
    return path if os.path.exists(path) else None


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; the test is skipped if there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = executable()
    if path is None:
        pytest.skip("Chromium is not installed: apt-get install chromium, or playwright install chromium")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()
