"""Chromium without a window, and what it complains of: for tests that open pages as people do."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
# A desktop by day, a phone by night.
SCREENS = [(1280, 900, "light"), (390, 844, "dark")]
WAIT = 60_000


@contextmanager
def browsing() -> Iterator[Any]:
    """A browser; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


def watched(page: Any, own: tuple[str, ...], complaints: list[str]) -> Any:
    """The page; what its console says, errors of scripts, and addresses not below `own` are complaints."""
    page.set_default_timeout(WAIT)
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    allowed = (*own, "blob:", "data:")
    page.on(
        "request", lambda asked: asked.url.startswith(allowed) or complaints.append(f"request to {asked.url}")
    )
    return page


def overflow(page: Any) -> int:
    """Pixels by which the page is wider than its screen."""
    found: int = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    return max(0, found)
