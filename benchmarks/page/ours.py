"""What our page does for its reader: the list, the curves of a long run, the film of its grids."""

import random
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Browser, Locator, Page

from benchmarks.page import browser as chrome
from benchmarks.page import data
from benchmarks.service import percentile

CURVE = "document.querySelector('.curve canvas') && document.querySelector('.curve-legend li')"
GRID = "document.querySelector('.film-picture img')?.naturalWidth > 0"
_ROWS = "document.querySelectorAll('tbody tr').length >= 50"
_SENT = """() => performance.getEntriesByType("resource").concat(performance.getEntriesByType("navigation"))
  .filter(({ name }) => !name.includes("/v1/")).reduce((sum, { encodedBodySize }) => sum + encodedBodySize, 0)"""
_ASKED = """() => performance.getEntriesByType("resource")
  .filter(({ name }) => name.includes("/history?")).at(-1).startTime"""
# From now to the first frame in which the chart's table, drawn with its canvas, is another one.
_UNTIL_DRAWN = """(caption) => new Promise((resolve) => {
  const begin = performance.now();
  const look = () => {
    const text = document.querySelector(".curve-table caption").textContent;
    if (text !== caption) resolve(performance.now() - begin);
    else requestAnimationFrame(look);
  };
  look();
})"""
# From now to the last frame that changed the table, once it has the values of the window that the address says.
_UNTIL_SETTLED = """() => new Promise((resolve) => {
  const begin = performance.now();
  let [shown, changed] = ["", begin];
  const look = () => {
    const first = document.querySelector(".curve-table th[scope=row]")?.textContent;
    if (first !== shown) [shown, changed] = [first, performance.now()];
    const from = Number(new URLSearchParams(location.hash.split("?")[1]).get("from"));
    if (performance.now() - begin > 400 && Number(first) >= from) resolve(changed - begin);
    else requestAnimationFrame(look);
  };
  look();
})"""
_SHOW_GRID = """(index) => new Promise((resolve) => {
  const slider = document.querySelector(".film input[type=range]");
  const image = document.querySelector(".film-picture img");
  const before = image.alt;
  const begin = performance.now();
  const look = () => {
    if (image.alt !== before) resolve(performance.now() - begin);
    else requestAnimationFrame(look);
  };
  slider.value = String(index);
  slider.dispatchEvent(new Event("input", { bubbles: true }));
  look();
})"""
_JUMPS = 20
_DRAGS = 8
_MOVES = 45  # of the mouse in each drag, one in every frame
_FRAME_MS = 16


def summary(found: list[float]) -> dict[str, float]:
    """Median and tail of times in milliseconds."""
    return {
        "median_ms": round(percentile(found, 50), 1),
        "p95_ms": round(percentile(found, 95), 1),
        "max_ms": round(max(found), 1),
        "count": len(found),
    }


def runs(browser: Browser, url: str) -> dict[str, float]:
    """The list of runs in a browser without a cache."""
    with chrome.tab(browser) as page:
        page.goto(url)
        found = {"first_paint_ms": chrome.first_paint_ms(page), "rows_ms": chrome.ms_until(page, _ROWS)}
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable")
        session.send("HeapProfiler.collectGarbage")
        return found | {
            "rows": page.locator("tr").count(),
            "nodes": chrome.metrics(session)["Nodes"],
            "page_bytes": page.evaluate(_SENT),
        }


def opened(browser: Browser, url: str, job_id: str) -> dict[str, float]:
    """A run with a million values, opened in a browser without a cache."""
    with chrome.tab(browser) as page:
        page.goto(f"{url}/#/jobs/{job_id}")
        painted = chrome.first_paint_ms(page)
        grid = chrome.ms_until(page, GRID)
        page.locator(".curve").first.scroll_into_view_if_needed()
        curve = chrome.ms_until(page, CURVE)
        return {
            "first_paint_ms": painted,
            "grid_ms": grid,
            "curve_ms": curve,
            "series_asked_to_painted_ms": curve - page.evaluate(_ASKED),
        }


def moved(browser: Browser, url: str, job_id: str) -> tuple[float, list[float], list[float]]:
    """Zoom to a tenth of the steps, and drag it over the rest.

    Returns milliseconds from the zoom to its values, the frames of the drags, and milliseconds from the end of each
    drag to the values of its window.
    """
    with chrome.tab(browser) as page:
        page.goto(f"{url}/#/jobs/{job_id}")
        chrome.ms_until(page, GRID)  # it moves the curves, which are drawn once they are in sight
        page.locator(".curve").first.scroll_into_view_if_needed()
        chrome.ms_until(page, CURVE)
        plot = page.locator(".curve .u-over").first
        zoomed = _until_drawn(page, lambda: _drag(page, plot, 0.0, 0.1, moves=5))
        rests: list[float] = []
        page.keyboard.down("Shift")
        frames: list[float] = []
        for _ in range(_DRAGS):
            with chrome.frames(page) as drawn:
                _drag(page, plot, 0.95, 0.0, moves=_MOVES)
            rests.append(float(page.evaluate(_UNTIL_SETTLED)))
            frames += drawn
        page.keyboard.up("Shift")
        return zoomed, frames, rests


def _drag(page: Page, plot: Locator, start: float, end: float, *, moves: int) -> None:
    box = plot.bounding_box()
    assert box is not None
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + start * box["width"], y)
    page.mouse.down()
    for move in range(1, moves + 1):
        page.mouse.move(box["x"] + (start + (end - start) * move / moves) * box["width"], y)
        page.wait_for_timeout(_FRAME_MS)
    page.mouse.up()


def _until_drawn(page: Page, act: Callable[[], None]) -> float:
    caption = page.locator(".curve-table caption").first.text_content()
    act()
    return float(page.evaluate(_UNTIL_DRAWN, caption))


def film(browser: Browser, url: str, job_id: str) -> dict[str, Any]:
    """Steps that can be chosen, and milliseconds to the grid of the next step and of any other."""
    with chrome.tab(browser) as page:
        page.goto(f"{url}/#/jobs/{job_id}")
        chrome.ms_until(page, GRID)
        reached = int(page.locator(".film input[type=range]").first.get_attribute("max") or 0) + 1
        order = random.Random(0).sample(range(0, reached, 2), _JUMPS)
        jumps, nexts = [], []
        for index in order:
            jumps.append(float(page.evaluate(_SHOW_GRID, index)))
            page.wait_for_timeout(200)  # a reader looks at it; the neighbors are loaded meanwhile
            nexts.append(float(page.evaluate(_SHOW_GRID, index + 1 if index + 1 < reached else index - 1)))
        return {"steps_reached": reached, "steps_kept": data.GRIDS, "jumps": jumps, "nexts": nexts}
