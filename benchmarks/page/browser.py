"""Chromium as the measurements drive it: new tabs without a cache, and what the browser itself reports."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, CDPSession, Page, sync_playwright

TIMEOUT_MS = 120_000
SIZE = {"width": 1440, "height": 900}
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
# Milliseconds since the navigation, once the browser has painted something of the page.
_FIRST_PAINT = """() => new Promise((resolve) => new PerformanceObserver((list) => {
  const found = list.getEntriesByName("first-contentful-paint");
  if (found.length) resolve(found[0].startTime);
}).observe({ type: "paint", buffered: true }))"""
# The distances of the frames that the browser draws from now on, in milliseconds, until `frames()` is called.
_COUNT_FRAMES = """() => {
  const times = [];
  let going = true;
  const note = (time) => { times.push(time); if (going) requestAnimationFrame(note); };
  requestAnimationFrame(note);
  window.frames_ = () => { going = false; return times.slice(1).map((time, index) => time - times[index]); };
}"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run Debian's Chromium without a window for the duration of the `with` block."""
    path = shutil.which("chromium")
    if path is None:
        raise SystemExit("expected the program chromium, which the measurements drive; install Debian's chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def tab(browser: Browser) -> Iterator[Page]:
    """Open a tab of a new context: it has no cache and no cookies."""
    context = browser.new_context(viewport=SIZE)  # type: ignore[arg-type]
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    try:
        yield page
    finally:
        context.close()


def first_paint_ms(page: Page) -> float:
    """Milliseconds from the navigation to the first contentful paint."""
    return float(page.evaluate(_FIRST_PAINT))


def now_ms(page: Page) -> float:
    """Milliseconds since the navigation, by the page's own clock."""
    return float(page.evaluate("performance.now()"))


def ms_until(page: Page, condition: str) -> float:
    """Milliseconds from the navigation to the first frame in which a JavaScript expression is true."""
    script = f"() => ({condition}) && performance.now()"
    return float(page.wait_for_function(script).json_value())


@contextmanager
def frames(page: Page) -> Iterator[list[float]]:
    """The distances of the frames drawn during the `with` block, in milliseconds; filled when it ends."""
    found: list[float] = []
    page.evaluate(_COUNT_FRAMES)
    yield found
    found += page.evaluate("window.frames_()")


def metrics(session: CDPSession) -> dict[str, float]:
    """The browser's own counters of a page, such as Nodes and JSHeapUsedSize."""
    answer: Any = session.send("Performance.getMetrics")
    return {each["name"]: each["value"] for each in answer["metrics"]}
