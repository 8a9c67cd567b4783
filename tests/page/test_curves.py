"""The curves of a job, in a real browser. The pages and values come from the service's application, without a port."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from fastapi.testclient import TestClient
from playwright.sync_api import Browser, Page, Route, expect
from sqlalchemy import Connection, update

from server import startup
from server.executors.base import Slot
from server.queue import queue
from server.service import Service
from server.settings import Settings
from server.store import metric_points, tables
from tests.support.app import make_client
from tests.support.fake_executor import FakeExecutor

SITE = "http://localhost"
MOUNT = """async ([assets, job]) => {
  const { curves } = await import(`${assets}/parts/curves.js`);
  const sheet = document.createElement("link");
  Object.assign(sheet, { rel: "stylesheet", href: `${assets}/parts/curves.css` });
  await new Promise((resolve) => { sheet.onload = resolve; document.head.append(sheet); });
  window.cursors = [];
  window.view = curves(job, { onCursor: (step) => window.cursors.push(step) });
  document.querySelector("main").replaceChildren(window.view.element);
}"""
# How many blue pixels, those of the first curve, lie on the axis, and right above the middle: opaque and faint.
PIXELS = """(canvas) => {
  const { width, height } = canvas;
  const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
  const found = { axis: 0, strong: 0, faint: 0 };
  for (let at = 0; at < width * height; at++) {
    const [red, green, blue, alpha] = data.slice(4 * at, 4 * at + 4);
    const [column, row] = [at % width, Math.floor(at / width)];
    if (blue < red + 60 || alpha < 60) continue;
    if (row > height * 0.75) found.axis += 1;
    if (row < height * 0.3 && column > width / 2) found[alpha > 230 ? "strong" : "faint"] += 1;
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


@pytest.fixture
def page(browser: Browser, client: TestClient) -> Iterator[Page]:
    """A page of the site. The test fails if the browser reports an error or a violation of the policy."""
    page = browser.new_page(viewport={"width": 900, "height": 1400})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)

    def answer(route: Route) -> None:
        parts = urlsplit(route.request.url)
        assert f"{parts.scheme}://{parts.netloc}" == SITE, route.request.url
        if parts.path.endswith(("/main.js", "/style.css")):  # another subject
            route.fulfill(content_type="text/javascript" if parts.path.endswith(".js") else "text/css", body="")
            return
        response = client.get(f"{parts.path}?{parts.query}")
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
    expect(legend).to_contain_text("\N{MULTIPLICATION SIGN} NaN: 1, first at step 30")
    expect(legend).to_contain_text("▲ Infinity: 1, first at step 40")
    with_marks = page.locator(".curve canvas").first.evaluate(PIXELS)["axis"]
    push(page, "job.started", {"step": 20, "total_steps": 40, "resumed": True})
    push(page, "metric.batch", batch({30: {"d_loss": 4.5}, 40: {"d_loss": 5.0}}))
    expect(legend).not_to_contain_text("NaN")
    assert with_marks > page.locator(".curve canvas").first.evaluate(PIXELS)["axis"]


def test_the_raw_line_stays_faint_under_the_smoothed_one(page: Page, show: Show) -> None:
    show({step: {"d_loss": float(step % 20)} for step in range(10, 400, 10)})  # between 0 and 10; smoothed, near 5
    canvas = page.locator(".curve canvas").first
    assert canvas.evaluate(PIXELS)["strong"] > 20
    page.get_by_label("Smoothing w").fill("0.9")
    drawn = f"() => ({PIXELS})(document.querySelector('.curve canvas')).strong === 0"
    page.wait_for_function(drawn)
    assert canvas.evaluate(PIXELS)["faint"] > 20
    assert "smooth=0.9" in page.url


def test_the_smoothing_states_its_formula_and_follows_it(page: Page, show: Show) -> None:
    show({10: {"d_loss": 1.0}})
    assert "s = w·s + (1 \N{MINUS SIGN} w)·x" in str(page.get_by_label("Smoothing w").get_attribute("title"))
    script = (
        """async (assets) => (await import(`${assets}/parts/columns.js`)).smoothed([1, null, 3, undefined, 5], 0.5)"""
    )
    assets = page.evaluate("document.querySelector('link[rel=icon]').href.replace('/icon.svg', '')")
    # By hand: 1; a gap; (1 + 3) / 2; a step of another metric; (2 + 5) / 2.
    assert page.evaluate(script, assets) == [1, None, 2, None, 3.5]


def test_a_logarithmic_scale_is_refused_with_a_reason_where_a_value_is_not_positive(page: Page, show: Show) -> None:
    show({10: {"d_loss": 1.0, "d_real": 2.0}, 20: {"d_loss": 0.5, "d_real": -2.0}})
    page.get_by_label("Logarithmic").check()
    expect(page.locator(".curve-note").nth(1)).to_have_text("not logarithmic: d_real is -2 at step 20")
    expect(page.locator(".curve-note").nth(0)).to_have_text("")
    assert "log=1" in page.url


def test_selecting_a_range_fetches_its_steps_and_a_double_click_brings_all_back(page: Page, show: Show) -> None:
    show(wave(60))
    over = page.locator(".curve .u-over").first
    box = over.bounding_box()
    assert box is not None
    y = box["y"] + 50
    page.mouse.move(box["x"] + box["width"] * 0.5, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, y, steps=3)
    with page.expect_request(lambda request: "from_step=" in request.url) as asked:
        page.mouse.up()
    query = parse_qs(urlsplit(asked.value.url).query)
    first, last = int(query["from_step"][0]), int(query["to_step"][0])
    assert 290 < first < 310 < 350 < last < 370
    count = len(range(-(-first // 10) * 10, last + 1, 10))  # a value every 10 steps
    expect(page.locator(".curve-table caption").first).to_have_text(f"Values of {count} of {count} steps")
    over.dblclick()
    expect(page.locator(".curve-table caption").first).to_have_text("Values of 50 of 60 steps")


def open_at(page: Page, show: Show, query: str) -> None:
    """Open the curves of 60 values, one every 10 steps, at an address with this query."""
    page.evaluate("(query) => history.replaceState(null, '', `#/?${query}`)", query)
    show(wave(60))


def expect_values(page: Page, shown: int, of: int) -> None:
    expect(page.locator(".curve-table caption").first).to_have_text(f"Values of {shown} of {of} steps")


def test_curves_are_opened_with_the_window_of_the_address(page: Page, show: Show) -> None:
    open_at(page, show, "from=100&to=200")
    expect_values(page, 11, 11)
    expect(page.locator(".curve-table tbody tr").first.locator("th")).to_have_text("100")


@pytest.mark.parametrize(
    "query",
    [
        pytest.param("from=200&to=100", id="reversed"),
        pytest.param("from=100", id="half"),
        pytest.param("from=a&to=b", id="words"),
        pytest.param("from=-10&to=100", id="negative"),
        pytest.param("from=1.5&to=100", id="fraction"),
        pytest.param("from=0&to=1e300", id="huge"),
    ],
)
def test_a_window_of_the_address_that_is_none_shows_all_steps(page: Page, show: Show, query: str) -> None:
    open_at(page, show, query)
    expect_values(page, 50, 60)
    expect(page.get_by_role("button", name="Show all steps")).to_be_disabled()


def test_the_address_keeps_the_window_until_all_steps_are_shown(page: Page, show: Show) -> None:
    open_at(page, show, "smooth=0.5&from=100&to=200")
    page.get_by_role("button", name="Later").click()
    page.wait_for_url("**/#/?smooth=0.5&from=150&to=250")
    page.get_by_role("button", name="Show all steps").click()
    page.wait_for_url("**/#/?smooth=0.5")


def test_curves_that_are_gone_leave_the_address_alone(page: Page, show: Show) -> None:
    page.clock.install()
    open_at(page, show, "from=100&to=200")
    page.clock.pause_at(page.evaluate("Date.now()") + 1000)
    page.get_by_role("button", name="Later").click()
    page.evaluate("window.view.destroy()")
    page.clock.run_for(10_000)
    assert page.url.endswith("from=100&to=200")


def test_buttons_move_the_window_by_half_of_it_and_stop_at_the_ends(page: Page, show: Show) -> None:
    open_at(page, show, "from=400&to=500")
    earlier, later = (page.get_by_role("button", name=name) for name in ("Earlier", "Later"))
    later.click()
    page.wait_for_url("**from=450&to=550")
    later.click()
    page.wait_for_url("**from=500&to=600")
    expect(later).to_be_disabled()
    expect(earlier).to_be_enabled()
    expect(page.locator(".curve-live")).to_have_text("steps 500 to 600")


def test_arrow_keys_with_shift_move_the_window_by_a_tenth(page: Page, show: Show) -> None:
    open_at(page, show, "from=100&to=200")
    page.get_by_role("group", name="Chart Loss").focus()
    page.keyboard.press("Shift+ArrowRight")
    page.wait_for_url("**from=110&to=210")
    page.keyboard.press("Shift+ArrowLeft")
    page.wait_for_url("**from=100&to=200")


def test_dragging_with_shift_moves_the_window_and_its_values_come(page: Page, show: Show) -> None:
    open_at(page, show, "from=200&to=300")
    box = page.locator(".curve .u-over").first.bounding_box()
    assert box is not None
    page.keyboard.down("Shift")
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 50, steps=5)
    page.mouse.up()
    page.mouse.move(box["x"], box["y"] + 50)  # no longer dragged
    page.keyboard.up("Shift")
    page.wait_for_url("**from=250&to=350")
    expect_values(page, 11, 11)
    expect(page.locator(".curve-table tbody tr").first.locator("th")).to_have_text("250")


def test_a_chart_with_more_live_values_than_pixels_lets_the_service_merge_them(page: Page, show: Show) -> None:
    show(wave(3))
    many = batch({step: {"d_loss": 1.0, "g_loss": 2.0} for step in range(40, 2040)})
    with page.expect_request(lambda request: "/history?" in request.url):
        push(page, "metric.batch", many)
    expect_values(page, 3, 3)  # the values pushed here are not in the database


def test_live_values_are_appended_and_those_that_a_resumed_run_repeats_are_dropped(page: Page, show: Show) -> None:
    show(wave(3))
    push(page, "metric.batch", batch({40: {"d_loss": 9.25, "g_loss": 4.5}}))
    expect(last_row(page)).to_have_text("409.254.5")
    push(page, "job.started", {"step": 20, "total_steps": 100, "resumed": True})
    push(page, "metric.batch", batch({25: {"d_loss": 7.75, "g_loss": 3.5}}))
    expect(last_row(page)).to_have_text("257.753.5")
    expect(page.locator(".curve-table tbody").first.locator("tr")).to_have_count(3)


def test_a_score_that_arrives_live_gets_a_chart_of_its_own(page: Page, show: Show) -> None:
    show(wave(3))
    scored = {"step": 30, "purpose": "scheduled", "scores": {"fid": 12.5}}
    push(page, "evaluation.completed", scored)
    expect(page.get_by_role("group", name="Chart fid: fid")).to_be_visible()


def test_arrow_keys_move_the_cursor_of_all_charts_and_the_live_line_says_the_values(page: Page, show: Show) -> None:
    show({10: {"d_loss": 1.5, "d_real": 3.0}, 20: {"d_loss": 1.25, "d_real": math.nan}})
    expect(page.locator(".curve-legend").nth(1)).to_contain_text("NaN")
    page.get_by_role("group", name="Chart Loss").focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".curve-live")).to_have_text("step 20: d_loss 1.25")
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".curve-live")).to_have_text("step 10: d_loss 1.5")
    expect(page.locator(".curve-step").nth(1)).to_have_text("step 10")
    assert page.evaluate("window.cursors")[-1] == 10


def test_other_metrics_are_asked_for_only_when_their_group_is_opened(page: Page, show: Show) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    show({10: {"d_loss": 1.0, "sigma/dense": 2.0}})
    assert not any("sigma" in url for url in asked)
    with page.expect_request(lambda request: "sigma%2Fdense" in request.url):
        page.get_by_text("Others").click()


def test_the_saved_file_has_the_values_that_are_shown(page: Page, show: Show) -> None:
    show({10: {"d_loss": 1.5}, 20: {"d_loss": math.inf}})
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save as CSV").click()
    text = saved.value.path().read_bytes().decode()
    assert text == "name,step,value,min,max,note\r\nd_loss,10,1.5,1.5,1.5,\r\nd_loss,20,Infinity,,,\r\n"


def test_destroyed_curves_leave_no_plot(page: Page, show: Show) -> None:
    show(wave(3))
    page.evaluate("window.view.destroy()")
    expect(page.locator(".uplot")).to_have_count(0)
