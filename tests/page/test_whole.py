"""The page of a real service that trains real runs: what a visitor sees live, after a crash, and at the end."""

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

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


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service that trains one job at a time."""
    environment = {"GAN_MHE_CPU_SLOTS": "1", "GAN_MHE_DISK_RESERVE_BYTES": "0", "GAN_MHE_LEASE_TTL_SECONDS": "3"}
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
