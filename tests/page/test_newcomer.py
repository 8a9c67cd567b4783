"""What a person meets who uses the page for the first time: an interrupted service, a keyboard, mistakes, odd sizes."""

import re
from io import BytesIO

import httpx2
import pytest
from PIL import Image
from playwright.sync_api import Dialog, Page, expect
from sqlalchemy import Connection

from gan_mhe.config.run_config import RunConfig
from server.queue import queue
from server.queue.admission import new_job
from server.queue.states import State
from server.store import journal
from tests.page.compared import finish
from tests.page.conftest import Site

PERIOD_MS = 6_000  # beyond the period of a view that asks again


def add_queued(site: Site, name: str) -> str:
    """A job that waits."""
    made = site.service.store.write(
        lambda connection: queue.create(connection, new_job(RunConfig(), "default", name=name))
    )
    return str(made["id"])


def rename(site: Site, job_id: str, name: str) -> None:
    """Give a job another name, and tell those who follow it that it moved on."""

    def write(connection: Connection) -> None:
        queue.change(connection, queue.get(connection, job_id), {"name": name})
        journal.append(connection, job_id, "job.progress", {"step": 1})

    site.service.store.write(write)


def forget(problems: list[str], *parts: str) -> None:
    """Take out the errors that a test causes."""
    problems[:] = [each for each in problems if not any(part in each for part in parts)]


def answer(page: Page, *, accept: bool) -> list[str]:
    """Answer all questions of the page in the same way; returns what is asked."""
    asked: list[str] = []

    def decide(dialog: Dialog) -> None:
        asked.append(dialog.message)
        if accept:
            dialog.accept()
        else:
            dialog.dismiss()

    page.on("dialog", decide)
    return asked


# --- a service that goes away


@pytest.mark.parametrize("view", ["#/", "#/experiments"], ids=["runs", "experiments"])
def test_a_list_says_that_it_is_old_while_the_service_does_not_answer(
    page: Page, site: Site, problems: list[str], view: str
) -> None:
    site.add_job("old")
    page.clock.install()
    page.goto(f"{site.url}/{view}")
    expect(page.get_by_role("table")).to_be_visible()
    page.route("**/v1/**", lambda route: route.abort())
    page.clock.run_for(PERIOD_MS)
    expect(page.locator("#connection")).to_have_text("reconnecting …")
    page.unroute_all()
    page.clock.run_for(PERIOD_MS)
    expect(page.locator("#connection")).to_have_text("")
    forget(problems, "ERR_FAILED")


# --- a run that goes on


def test_a_run_that_is_retried_is_followed_again(page: Page, site: Site) -> None:
    job_id = add_queued(site, "tried twice")
    finish(site.service, job_id, None, State.FAILED)
    page.goto(f"{site.url}/#/jobs/{job_id}")
    page.get_by_role("button", name="retry").click()
    expect(page.locator("#connection")).to_have_text("live")
    site.service.store.write(lambda connection: queue.cancel(connection, queue.get(connection, job_id)))
    expect(page.locator("article header")).to_contain_text("cancelled")


def test_a_button_of_a_run_stays_the_same_while_its_state_does(page: Page, site: Site) -> None:
    job_id = add_queued(site, "pressed")
    page.goto(f"{site.url}/#/jobs/{job_id}")
    expect(page.locator("#connection")).to_have_text("live")
    button = page.get_by_role("button", name="pause").element_handle()
    rename(site, job_id, "pressed for long")
    expect(page.get_by_role("heading", level=1)).to_have_text("pressed for long")
    assert button.evaluate("each => each.isConnected")  # else the press would be no click


def test_the_tab_of_a_run_names_its_variant_and_seed(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/#/jobs/{add_queued(site, 'one of many')}")
    expect(page).to_have_title("one of many, none, seed 0 · gan-mhe")


# --- a keyboard


def test_the_focus_stays_at_a_row_when_the_list_refreshes_itself(page: Page, site: Site) -> None:
    job_id = add_queued(site, "focused")
    page.clock.install()
    page.goto(f"{site.url}/#/?name=focused")
    page.get_by_role("checkbox").focus()
    rename(site, job_id, "focused and renamed")
    page.clock.run_for(PERIOD_MS)
    expect(page.get_by_role("link", name="focused and renamed")).to_be_visible()
    expect(page.get_by_role("checkbox")).to_be_focused()


# --- several runs at a time


def test_the_list_goes_on_while_runs_are_selected(page: Page, site: Site) -> None:
    job_id = add_queued(site, "selected")
    page.clock.install()
    page.goto(f"{site.url}/#/?name=selected")
    page.get_by_role("checkbox").check()
    rename(site, job_id, "selected and renamed")
    page.clock.run_for(PERIOD_MS)
    expect(page.get_by_role("link", name="selected and renamed")).to_be_visible()
    expect(page.get_by_role("checkbox")).to_be_checked()


def test_runs_of_one_name_are_told_apart_by_their_boxes(page: Page, site: Site) -> None:
    add_queued(site, "twin")
    page.goto(f"{site.url}/#/?name=twin")
    expect(page.get_by_role("checkbox", name="Select twin, none, seed 0")).to_be_visible()


def test_refusals_for_one_reason_are_counted(page: Page, site: Site) -> None:
    for _ in range(3):
        add_queued(site, "refused")
    page.goto(f"{site.url}/#/?name=refused")
    expect(page.get_by_role("checkbox")).to_have_count(3)
    for box in page.get_by_role("checkbox").all():
        box.check()
    page.get_by_role("button", name="retry").click()
    expect(page.get_by_role("status").filter(has_text="done")).to_have_text(
        "retry: 0 done; 3 refused: it is queued; only a failed job can be retried"
    )


@pytest.mark.parametrize("view", ["list", "run"])
def test_a_run_is_not_cancelled_without_a_yes(page: Page, site: Site, view: str) -> None:
    job_id = add_queued(site, "kept going")
    asked = answer(page, accept=False)
    if view == "list":
        page.goto(f"{site.url}/#/?name=kept%20going")
        page.get_by_role("checkbox").first.check()
    else:
        page.goto(f"{site.url}/#/jobs/{job_id}")
    page.get_by_role("button", name="cancel", exact=True).click()
    assert asked == ["Cancel this run? What was trained is kept, but it cannot go on. Pause it to go on later."]
    assert site.service.store.read(lambda connection: queue.get(connection, job_id))["state"] == State.QUEUED


# --- addresses and sizes


def test_an_address_that_was_cut_off_within_a_character_is_not_found(
    page: Page, site: Site, problems: list[str]
) -> None:
    page.goto(f"{site.url}/#/jobs/job_%E0%A4%A")
    expect(page.get_by_role("heading", level=1)).to_have_text("Not found")
    forget(problems, "404")


@pytest.mark.parametrize(("size", "drawn"), [(600, "auto"), (32, "pixelated")], ids=["larger", "smaller"])
def test_a_grid_larger_than_its_place_is_smoothed_and_a_smaller_one_is_not(
    page: Page, site: Site, size: int, drawn: str
) -> None:
    job_id = site.add_job("grids")
    content = BytesIO()
    Image.new("RGB", (size, size)).save(content, "PNG")
    page.route("**/v1/blobs/*", lambda route: route.fulfill(body=content.getvalue(), content_type="image/png"))
    page.goto(f"{site.url}/#/compare?job={job_id}")
    image = page.locator(".sides-image")
    expect(image).to_have_js_property("naturalWidth", size)
    expect(image).to_have_css("image-rendering", drawn)


def test_one_drawing_is_made_at_a_time(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/#/jobs/{site.add_job('drawn')}")
    page.get_by_role("button", name="Draw samples of step 4").click()
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(page.get_by_text("Drawing …")).to_be_visible()
    expect(page.get_by_role("button", name="Draw", exact=True)).to_be_disabled()


# --- behind a path prefix


def test_the_documentation_of_the_api_loads_only_what_lies_beside_it(page: Page, site: Site) -> None:
    with httpx2.Client() as client:
        text = client.get(f"{site.url}/docs").text
    addresses = re.findall(r"""(?:src|href)="([^"]+)"|url: '([^']+)'""", text)
    assert len(addresses) == 4 and not [each for pair in addresses for each in pair if each.startswith("/")]
    page.goto(f"{site.url}/docs")
    expect(page.get_by_role("heading", name="gan-mhe")).to_be_visible()
