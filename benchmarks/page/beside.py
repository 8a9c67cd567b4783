"""The same acts of a reader in our page and in the peers, in turn, each in a browser without a cache."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from playwright.sync_api import Browser, Page

from benchmarks.page import browser as chrome
from benchmarks.service import percentile

_MOST_STEPS = 300
_REST_MS = 200  # a reader looks at a grid before going on
# Note when the image has changed after the next key, and has been loaded.
_WATCH = """(selector) => {
  const before = document.querySelector(selector).src;
  window.changed_ = new Promise((resolve) => addEventListener("keydown", () => {
    const begin = performance.now();
    const look = () => {
      const image = document.querySelector(selector);
      const shown = image && image.src !== before && image.complete && image.naturalWidth > 0;
      if (shown) resolve(performance.now() - begin);
      else if (performance.now() - begin > 3000) resolve(null);
      else requestAnimationFrame(look);
    };
    look();
  }, { once: true, capture: true }));
}"""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A page and where its parts are.

    runs: the address of its list of runs, None if it has none; run: of one run. rows, curve: JavaScript that is true
    once they are visible. slider, image: selectors of the slider over the steps and of the grid. back: the key that
    leads from the grid that is shown first to the others.
    """

    name: str
    runs: str | None
    run: str
    curve: str
    slider: str
    image: str
    back: str
    rows: str = "true"


def compare(browser: Browser, subjects: Sequence[Subject], repeats: int) -> dict[str, Any]:
    """Medians and all values in milliseconds, by subject; how many grids can be reached from the first one shown."""
    found: dict[str, dict[str, list[float]]] = {subject.name: {} for subject in subjects}
    reached: dict[str, int] = {}
    for turn in range(repeats):
        for subject in subjects:
            times = _list(browser, subject) | _run(browser, subject)
            for name, value in times.items():
                found[subject.name].setdefault(name, []).append(round(value, 1))
            if turn == 0:
                grids = _grids(browser, subject)
                reached[subject.name] = len(grids) + 1
                found[subject.name]["next_grid_ms"] = [round(each, 1) for each in grids]
    return {
        name: {
            **{key: {"median": percentile(values, 50), "values": values} for key, values in times.items()},
            "grids_reached": reached[name],
        }
        for name, times in found.items()
    }


def _list(browser: Browser, subject: Subject) -> dict[str, float]:
    if subject.runs is None:
        return {}
    with chrome.tab(browser) as page:
        page.goto(subject.runs)
        return {"list_first_paint_ms": chrome.first_paint_ms(page), "list_rows_ms": chrome.ms_until(page, subject.rows)}


def _run(browser: Browser, subject: Subject) -> dict[str, float]:
    with chrome.tab(browser) as page:
        page.goto(subject.run)
        return {"run_first_paint_ms": chrome.first_paint_ms(page), "curve_ms": chrome.ms_until(page, subject.curve)}


def _grids(browser: Browser, subject: Subject) -> list[float]:
    """Milliseconds from the key to the next grid, for all grids that a key leads to."""
    with chrome.tab(browser) as page:
        page.goto(subject.run)
        slider = page.locator(subject.slider).first
        slider.scroll_into_view_if_needed()
        chrome.ms_until(page, f'document.querySelector("{subject.image}")?.naturalWidth > 0')
        found: list[float] = []
        while len(found) < _MOST_STEPS:
            taken = _press(page, subject)
            if taken is None:
                break
            found.append(taken)
        return found


def _press(page: Page, subject: Subject) -> float | None:
    page.wait_for_timeout(_REST_MS)
    page.evaluate(_WATCH, subject.image)
    page.locator(subject.slider).first.press(subject.back)
    taken: float | None = page.evaluate("window.changed_")
    return taken
