"""The page of a real service that trains real runs: what a visitor sees live, after a crash, and at the end."""

import re
from collections.abc import Iterator
from urllib.parse import urlencode, urlsplit

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.page.conftest import WAIT_MS, watched_tab
from tests.support.server_process import Server

TRAINING_MS = 90_000  # two busy cores import torch, train and score what the page waits for
TINY = {
    "generator.width": 0.03125,
    "discriminator.width": 0.03125,
    "training.batch_size": 8,
    "training.report_every_steps": 2,
    "sampling.every_steps": 5,
    "sampling.num_images": 16,
    "checkpoint.every_steps": 10,
    "evaluation.every_steps": 10,
    "evaluation.num_samples": 200,
}
ENDLESS = {**TINY, "training.steps": 100_000}
SHORT = {**TINY, "training.steps": 20}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service that trains one job at a time."""
    environment = {
        "GAN_MHE_CPU_SLOTS": "1",
        "GAN_MHE_DISK_RESERVE_BYTES": "0",
        "GAN_MHE_LEASE_TTL_SECONDS": "3",
        "GAN_MHE_WARM_START": "true",
    }
    server = Server(tmp_path_factory.mktemp("whole") / "data", environment).start()
    server.port = urlsplit(server.address).port or 0
    yield server
    server.destroy()


@pytest.fixture
def page(browser: Browser, server: Server, problems: list[str]) -> Iterator[Page]:
    """A tab with the patience that training needs."""
    expect.set_options(timeout=TRAINING_MS)
    with watched_tab(browser, server.address, problems) as page:
        page.set_default_timeout(TRAINING_MS)
        page.set_viewport_size({"width": 1280, "height": 4000})  # curves out of sight are not drawn
        yield page
    expect.set_options(timeout=WAIT_MS)


def moves_on(what: Locator) -> None:
    """The number that a part of the page shows grows, without a reload."""
    expect(what).to_contain_text(re.compile(r"\d"))
    before = what.inner_text()
    expect(what).not_to_have_text(before)
    assert number(what.inner_text()) > number(before)


def number(text: str) -> int:
    [found] = re.findall(r"[\d,]+", text)[:1]
    return int(found.replace(",", ""))


def test_a_run_moves_on_by_itself_comes_back_after_a_crash_and_is_cancelled(
    page: Page, server: Server, problems: list[str]
) -> None:
    job_id = server.submit(overrides=ENDLESS)
    page.goto(f"{server.address}/#/jobs/{job_id}")
    curve, film = page.get_by_text("newest: step").first, page.locator(".film-step").first
    moves_on(curve)
    moves_on(film)

    server.kill()
    expect(page.locator("#connection")).to_have_text("reconnecting …")
    server.start()
    expect(page.locator("#connection")).to_have_text("live")
    moves_on(curve)
    moves_on(film)

    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="cancel", exact=True).click()
    expect(page.locator("article")).to_contain_text("cancelled")
    problems[:] = [each for each in problems if "ERR_CONNECTION" not in each and "ERR_INCOMPLETE" not in each]


def test_an_experiment_is_submitted_compared_and_sampled(page: Page, server: Server) -> None:
    chosen = [("preset", "digits_cnn"), ("name", "two variants"), ("variant", "none"), ("variant", "mhe_sn")]
    settings = [("set", f"{key}={value}") for key, value in SHORT.items()]
    page.goto(f"{server.address}/#/new?{urlencode([*chosen, ('seed', '0'), *settings])}")
    page.get_by_role("button", name="Submit 2 runs").click()

    expect(page.get_by_role("heading", level=1)).to_have_text("two variants")
    expect(page.get_by_role("group", name="Runs").get_by_text("succeeded")).to_have_count(2)
    row = page.get_by_role("group", name="Scores by variant").get_by_role("row").filter(has_text="mhe_sn")
    [experiment] = server.request("GET", "/v1/experiments").json()["data"]
    table = server.request("GET", f"/v1/compare?experiment={experiment['id']}").json()
    [mean] = [each["mean"] for each in table["rows"] if each["variant"] == "mhe_sn"]
    expect(row).to_contain_text(f"{mean:.4g}")

    page.get_by_role("group", name="Runs").get_by_role("link").first.click()
    page.get_by_role("button", name="Draw samples").first.click()
    page.get_by_label("Images", exact=True).fill("9")
    page.get_by_role("button", name="Draw", exact=True).click()
    picture = page.get_by_role("img", name="generated samples, task")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
