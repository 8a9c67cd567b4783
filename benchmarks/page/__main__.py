"""What the page costs its reader, measured in Chromium on a service with 10,000 jobs.

    python -m benchmarks.page [--peers] [--repeats 5] [--out FILE.json]

One job has a series of 1,000,000 values and 200 grids. With --peers TensorBoard and MLflow get the same values, are
installed into temporary environments, and do the same in turn. Browser and servers share the machine, so the figures
are upper bounds; `load` says what else it did.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser

from benchmarks.page import data, hour, ours, peers
from benchmarks.page.beside import Subject, compare
from benchmarks.page.browser import chromium
from benchmarks.service import percentile, say, server

GOALS = {
    "list_first_paint_ms": 1000,
    "list_rows": 300,
    "list_nodes": 3000,
    "page_bytes": 150_000,
    "series_asked_to_painted_ms": 250,
    "pan_p95_ms": 60,
    "heap_growth": 0.2,
}


def measure(browser: Browser, url: str, root: Path, ids: tuple[str, str], repeats: int) -> dict[str, Any]:
    """Run all measurements of our own page."""
    long, live = ids
    lists = [ours.runs(browser, url) for _ in range(repeats)]
    opened = [ours.opened(browser, url, long) for _ in range(repeats)]
    say(f"list {_medians(lists)}, run {_medians(opened)}")
    zooms, frames, rests = zip(*(ours.moved(browser, url, long) for _ in range(repeats)), strict=True)
    moved = {
        "zoom_to_painted": ours.summary(list(zooms)),
        "frames_while_dragged": ours.summary([each for found in frames for each in found]),
        "dragged_to_painted": ours.summary([each for found in rests for each in found]),
    }
    say(f"moved {moved}")
    film = ours.film(browser, url, long)
    film["to_another_grid"], film["to_the_next_grid"] = (ours.summary(film.pop(name)) for name in ("jumps", "nexts"))
    heap = hour.heap(browser, url, root, live)
    say(f"film {film}, hour {heap}")
    return {"list": _medians(lists), "run": _medians(opened), "zoom": moved, "film": film, "hour": heap}


def _medians(found: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(percentile([each[name] for each in found], 50), 1) for name in found[0]}


def goals_missed(found: dict[str, Any]) -> list[str]:
    """The goals that the figures do not reach."""
    reached = {
        "list_first_paint_ms": found["list"]["first_paint_ms"],
        "list_rows": found["list"]["rows"],
        "list_nodes": found["list"]["nodes"],
        "page_bytes": found["list"]["page_bytes"],
        "series_asked_to_painted_ms": found["run"]["series_asked_to_painted_ms"],
        "pan_p95_ms": found["zoom"]["frames_while_dragged"]["p95_ms"],
        "heap_growth": found["hour"]["growth"],
    }
    return [f"{name}: {value}, goal below {GOALS[name]}" for name, value in reached.items() if value >= GOALS[name]]


def beside(browser: Browser, url: str, long: str, root: Path, repeats: int) -> dict[str, Any]:
    """Compare our page with the peers."""
    own = Subject(
        name="gan-mhe",
        runs=url,
        rows="document.querySelectorAll('tbody tr').length >= 50",
        run=f"{url}/#/jobs/{long}",
        curve=ours.CURVE,
        slider=".film input[type=range]",
        image=".film-picture img",
        back="ArrowLeft",  # it begins with the newest grid
    )
    source = root / "source"
    peers.write_source(source)
    with ExitStack() as stack:
        subjects = [own, *(stack.enter_context(start(root, source)) for start in (peers.tensorboard, peers.mlflow))]
        return compare(browser, subjects, repeats)


def main() -> None:
    """Measure, print, and write to `--out` if given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", action="store_true", help="compare with TensorBoard and MLflow; needs a network")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        root = Path(folder)
        ids = data.fill(root / "data")
        with server(root / "data") as url:
            found = measure(browser, url, root / "data", ids, options.repeats)
            if options.peers:
                found["beside"] = beside(browser, url, ids[0], root, options.repeats)
        version = browser.version
    found = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python -m benchmarks.page", *sys.argv[1:]]),
        "device": f"{platform.machine()} CPU, {os.cpu_count()} cores",
        "load": {"before": load, "after": os.getloadavg()},
        "python": platform.python_version(),
        "chromium": version,
        "jobs": data.JOBS,
        "points": data.POINTS,
        "goals": GOALS,
        "missed": goals_missed(found),
        **found,
    }
    text = json.dumps(found, indent=2)
    sys.stdout.write(text + "\n")
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
