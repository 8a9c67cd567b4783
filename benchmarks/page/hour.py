"""What an hour of a running job leaves in the page's memory: its 36,000 events, sent faster than they would come."""

import json
import math
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, CDPSession, Page, Route

from benchmarks.page import browser as chrome
from benchmarks.page.data import add_points
from server.clock import now_ms, rfc3339
from server.settings import Settings
from server.store.store import Store

EVENTS = 36_000  # of an hour with ten a second
_BATCHES = 36
_EACH = EVENTS // _BATCHES
_SAMPLES = 6  # heap sizes taken during the hour
_NAMES = ("d_loss", "g_loss", "d_real", "d_fake", "penalty/mhe", "strength/mhe", "gradient_ratio/mhe")
_NEWEST = """(step) => [...document.querySelectorAll(".curve-step")]
  .some(({ textContent }) => textContent === `newest: step ${step.toLocaleString("en")}`)"""


class _Stream:
    """Answers the page's requests for the events of a job: each with what is due, after which the page asks again."""

    def __init__(self) -> None:
        self.due = ""

    def answer(self, route: Route) -> None:
        body, self.due = f"retry: 20\n\n{self.due}", ""
        route.fulfill(content_type="text/event-stream", body=body)


def heap(browser: Browser, url: str, data_dir: Path, job_id: str) -> dict[str, Any]:
    """Bytes of the page's heap after garbage collections: just opened, at the begin of the hour, and during it.

    The job has values of an hour before, so that the charts are full from the start. The hour begins after a thousand
    events, when the browser has compiled what they need. Every event's values are in the database too: a chart that
    asks again gets them. growth: of the largest size during the hour over that at its begin.
    """
    store = Store(Settings(data_dir=data_dir, port=0).database)
    stream = _Stream()
    try:
        add_points(store, job_id, [(step, _values(step)) for step in range(1, EVENTS + 1)])
        with chrome.tab(browser) as page:
            page.route("**/stream?*", stream.answer)
            page.goto(f"{url}/#/jobs/{job_id}")
            session = page.context.new_cdp_session(page)
            session.send("Performance.enable")
            page.wait_for_function(_NEWEST, arg=EVENTS)
            opened = _size(page, session)
            sizes = []
            for batch in range(_BATCHES + 1):
                _send(page, store, stream, job_id, EVENTS + batch * _EACH + 1)
                if batch % (_BATCHES // _SAMPLES) == 0:
                    sizes.append(_size(page, session))
    finally:
        store.close()
    growth = max(sizes[1:]) / sizes[0] - 1
    return {"events": EVENTS, "opened_bytes": opened, "heap_bytes": sizes, "growth": round(growth, 3)}


def _send(page: Page, store: Store, stream: _Stream, job_id: str, first: int) -> None:
    steps = range(first, first + _EACH)
    add_points(store, job_id, [(step, _values(step)) for step in steps])
    stream.due = "".join(_event(job_id, step) for step in steps)
    page.wait_for_function(_NEWEST, arg=steps[-1])


def _event(job_id: str, step: int) -> str:
    """Of ten events eight are values, one is progress and one a line of the log; the last one is values."""
    kinds: dict[int, tuple[str, dict[str, Any]]] = {
        1: ("job.progress", {"step": step, "total_steps": 10 * EVENTS}),
        2: ("log.lines", {"lines": [f"step {step}"]}),
    }
    values = {"points": [{"step": step, "values": _values(step)}]}
    type_, content = kinds.get(step % 10, ("metric.batch", values))
    document = {"job_id": job_id, "seq": step, "time": rfc3339(now_ms()), "type": type_, "data": content}
    return f"id: {step}\nevent: {type_}\ndata: {json.dumps(document)}\n\n"


def _values(step: int) -> dict[str, float]:
    return {name: 1.5 + math.sin(step / (100 + index)) for index, name in enumerate(_NAMES)}


def _size(page: Page, session: CDPSession) -> int:
    page.wait_for_timeout(3000)  # the longest wait of a part of the page that reads the service again
    session.send("HeapProfiler.collectGarbage")
    return int(chrome.metrics(session)["JSHeapUsedSize"])
