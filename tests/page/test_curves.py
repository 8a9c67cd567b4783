"""The curves of a job, in a real browser. The pages and values come from the service's application, without a port."""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from fastapi import FastAPI
from fastapi.testclient import TestClient
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright
from sqlalchemy import Connection, update

from server import startup
from server.executors.base import Slot
from server.http.page import install
from server.queue import queue
from server.service import Service
from server.settings import Settings
from server.store import metric_points, tables
from tests.support.app import make_client
from tests.support.fake_executor import FakeExecutor

CHROMIUM = "/usr/bin/chromium"
SITE = "http://localhost"
ARGUMENTS = ("--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking", "--no-first-run")
MOUNT = """async ([assets, job]) => {
  const { curves } = await import(`${assets}/parts/curves.js`);
  const sheet = document.createElement("link");
  Object.assign(sheet, { rel: "stylesheet", href: `${assets}/parts/curves.css` });
  await new Promise((resolve) => { sheet.onload = resolve; document.head.append(sheet); });
  window.cursors = [];
  window.view = curves(job, { onCursor: (step) => window.cursors.push(step) });
  document.querySelector("main").replaceChildren(window.view.element);
}"""
PIXELS = """(canvas) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const found = { strong: 0, faint: 0, bottom: 0 };
  for (let i = 0; i < data.length; i += 4) {
    const [red, green, blue, alpha] = data.slice(i, i + 4);
    if (!(blue > red + 60 && alpha > 20)) continue;
    found[alpha > 200 ? "strong" : "faint"] += 1;
    const row = Math.floor(i / 4 / canvas.width);
    if (alpha > 200 && row > canvas.height * 0.7) found.bottom += 1;
  }
  return found;
}"""
Points = Mapping[int, Mapping[str, float]]


@pytest.fixture(scope="module")
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal("asyncio") as portal:
        yield portal


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    settings = Settings(data_dir=tmp_path_factory.mktemp("curves"), port=0, disk_reserve_bytes=0)
    opened = startup.open_service(settings, executor=FakeExecutor(Slot("cpu0", "cpu", "train")))
    yield opened
    opened.stop()


@pytest.fixture(scope="module")
def client(service: Service, portal: BlockingPortal) -> TestClient:
    return make_client(service, portal)


@pytest.fixture(scope="module")
def assets(portal: BlockingPortal) -> TestClient:
    """The page's files alone."""
    app = FastAPI()
    install(app)
    client = TestClient(app)
    client.portal = portal
    return client


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        assert "GAN_MHE_NEED_BROWSER" not in os.environ, f"{CHROMIUM} is missing"
        pytest.skip(f"{CHROMIUM} is missing")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, client: TestClient, assets: TestClient) -> Iterator[Page]:
    """A page of the site. The test fails if the browser reports an error or a violation of the policy."""
    page = browser.new_page(viewport={"width": 900, "height": 1400})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)

    def answer(route: Route) -> None:
        parts = urlsplit(route.request.url)
        assert f"{parts.scheme}://{parts.netloc}" == SITE, route.request.url
        if parts.path.endswith("/main.js"):  # another subject
            route.fulfill(content_type="text/javascript", body="")
            return
        source = client if parts.path.startswith("/v1/") else assets
        response = source.get(f"{parts.path}?{parts.query}")
        headers = {name: value for name, value in response.headers.items() if name != "content-encoding"}
        route.fulfill(status=response.status_code, headers=headers, body=response.content)

    page.route("**/*", answer)
    page.goto(SITE)
    yield page
    page.close()
    assert problems == []


@pytest.fixture
def show(page: Page, service: Service) -> Callable[[Points], str]:
    """Make a job with these values, show its curves and wait for the first chart; returns the job's id."""

    def make(points: Points) -> str:
        job = measured(service, points)
        assets = page.evaluate("document.querySelector('link[rel=icon]').href.replace('/icon.svg', '')")
        page.evaluate(MOUNT, [assets, job])
        expect(page.locator(".curve canvas").first).to_be_visible()
        expect(page.locator(".curve-legend li").first).to_be_visible()
        return job

    return make


def measured(service: Service, points: Points) -> str:
    """A job with these values."""

    def work(connection: Connection) -> str:
        job = queue.create(connection, queue.NewJob(project="default", request={}, request_sha256="0"))
        metric_points.add(connection, job, 1, list(points.items()))
        same = tables.jobs.c.id == job["id"]
        connection.execute(update(tables.jobs).where(same).values(events_seq=len(points)))
        return str(job["id"])

    return service.store.write(work)


def push(page: Page, type_: str, data: dict[str, Any]) -> None:
    page.evaluate("(event) => window.view.push(event)", {"type": type_, "data": data})


def batch(points: Points) -> dict[str, Any]:
    return {"points": [{"step": step, "values": dict(values)} for step, values in points.items()]}


def wave(steps: int) -> dict[int, dict[str, float]]:
    return {
        step: {"d_loss": 1.5 + math.sin(step), "g_loss": 5 + step / steps} for step in range(10, 10 * steps + 1, 10)
    }


def last_row(page: Page) -> Any:
    return page.locator(".curve-table").first.locator("tbody tr").last


Show = Callable[[Points], str]


def test_values_that_are_not_finite_are_marked_on_the_axis_and_named_in_the_legend(page: Page, show: Show) -> None:
    show({10: {"d_loss": 5.0}, 20: {"d_loss": 4.0}, 30: {"d_loss": math.nan}, 40: {"d_loss": math.inf}})
    legend = page.locator(".curve-legend").first
    expect(legend).to_contain_text("× NaN: 1, first at step 30")
    expect(legend).to_contain_text("▲ Infinity: 1, first at step 40")
    with_marks = page.locator(".curve canvas").first.evaluate(PIXELS)["bottom"]
    push(page, "job.started", {"step": 20, "total_steps": 40, "resumed": True})
    push(page, "metric.batch", batch({30: {"d_loss": 4.5}, 40: {"d_loss": 5.0}}))
    expect(legend).not_to_contain_text("NaN")
    assert with_marks > page.locator(".curve canvas").first.evaluate(PIXELS)["bottom"]
