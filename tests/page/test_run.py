"""One run in a real browser: its actions, its stream, and what happens while it is looked at."""

import json
import math
from typing import Any

import httpx2
from playwright.sync_api import Page, Route, expect

from gan_mhe.config.run_config import RunConfig
from server.queue import queue
from server.queue.admission import new_job
from server.queue.states import State
from server.store import journal
from tests.page.compared import measure
from tests.page.conftest import Site
from tests.server.http.test_compare import train


def make_run(site: Site, name: str, state: State = State.QUEUED) -> str:
    new = new_job(RunConfig(), "default", name=name)
    return str(site.service.store.write(lambda connection: queue.create(connection, new, state))["id"])


def announce(site: Site, job_id: str, type_: str, data: dict[str, Any]) -> None:
    site.service.store.write(lambda connection: journal.append(connection, job_id, type_, data))


def refuse(route: Route, status: int) -> None:
    route.fulfill(status=status, body=json.dumps({"status": status, "code": "refused", "detail": "not now"}))


def forget(problems: list[str], *parts: str) -> None:
    """Take out the errors that the browser logs for requests that fail."""
    problems[:] = [each for each in problems if not any(part in each for part in parts)]


def live(page: Page) -> None:
    expect(page.locator("#connection")).to_have_text("live")


def test_a_run_that_is_retried_is_followed_again(page: Page, site: Site) -> None:
    job_id = make_run(site, "failed once", State.FAILED)
    page.goto(f"{site.url}/#/jobs/{job_id}")
    page.get_by_role("button", name="retry").click()
    live(page)
    site.service.store.write(lambda connection: queue.cancel(connection, queue.get(connection, job_id)))
    expect(page.locator("article header")).to_contain_text("cancelled")


def test_the_focus_stays_at_a_button_while_the_run_goes_on(page: Page, site: Site) -> None:
    job_id = make_run(site, "goes on")
    page.goto(f"{site.url}/#/jobs/{job_id}")
    live(page)
    button = page.get_by_role("button", name="pause")
    button.focus()
    with page.expect_response(f"**/v1/jobs/{job_id}"):
        announce(site, job_id, "job.progress", {"step": 1})
    page.evaluate("new Promise((done) => setTimeout(done))")  # after the answer was drawn
    expect(button).to_be_focused()


def test_the_focus_stays_among_the_actions_when_an_action_is_gone(page: Page, site: Site) -> None:
    job_id = make_run(site, "stopped by keyboard")
    page.on("dialog", lambda dialog: dialog.accept())
    page.goto(f"{site.url}/#/jobs/{job_id}")
    page.get_by_role("button", name="cancel").press("Enter")
    expect(page.get_by_role("button", name="delete")).to_be_visible()
    expect(page.get_by_role("group", name="Actions")).to_be_focused()


def test_an_action_that_is_pressed_twice_is_sent_once(page: Page, site: Site) -> None:
    job_id = make_run(site, "pressed twice")
    sent: list[Route] = []
    page.route("**/cancel", lambda route: sent.append(route))
    page.on("dialog", lambda dialog: dialog.accept())
    page.goto(f"{site.url}/#/jobs/{job_id}")
    page.get_by_role("button", name="cancel").dblclick()
    expect(page.get_by_role("group", name="Actions")).to_have_attribute("aria-busy", "true")
    assert len(sent) == 1
    sent[0].continue_()
    expect(page.locator("article header")).to_contain_text("cancelled")


def test_an_answer_from_before_an_action_does_not_undo_it(page: Page, site: Site) -> None:
    job_id = make_run(site, "overtaken")
    path = f"**/v1/jobs/{job_id}"
    page.goto(f"{site.url}/#/jobs/{job_id}")
    live(page)
    before = httpx2.get(f"{site.url}/v1/jobs/{job_id}").json()
    held: list[Route] = []
    page.route(path, lambda route: held.append(route))
    with page.expect_request(path):
        announce(site, job_id, "job.progress", {"step": 1})
    page.get_by_role("button", name="pause").click()
    expect(page.get_by_role("button", name="resume")).to_be_visible()
    with page.expect_response(path):
        held[0].fulfill(json=before)
    page.evaluate("new Promise((done) => setTimeout(done))")  # after the answer was taken in
    expect(page.get_by_role("button", name="resume")).to_be_visible()
    page.unroute(path)


def test_a_stream_that_alone_is_refused_leaves_the_view_as_it_is(page: Page, site: Site, problems: list[str]) -> None:
    job_id = make_run(site, "one stream too many")
    page.route("**/stream?*", lambda route: refuse(route, 429))
    page.clock.install()
    page.goto(f"{site.url}/#/jobs/{job_id}")
    expect(page.locator("#connection")).to_have_text("reconnecting …")
    drawn = page.locator("article").element_handle()
    for _ in range(2):
        with page.expect_response("**/stream?*"):
            page.clock.run_for(4000)
    assert drawn is not None and drawn.evaluate("article => article.isConnected")
    page.unroute("**/stream?*")
    page.clock.run_for(16_000)
    live(page)
    forget(problems, "429")


def test_what_is_written_while_the_log_is_read_is_read_too(page: Page, site: Site) -> None:
    job_id = make_run(site, "talkative")
    page.goto(f"{site.url}/#/jobs/{job_id}")
    live(page)
    log = page.get_by_role("group", name="End of the log")
    expect(log).to_have_text("Nothing was written yet.")
    held: list[Route] = []
    page.route("**/logs?*", lambda route: held.append(route), times=1)
    with page.expect_request("**/logs?*"):
        announce(site, job_id, "log.lines", {})
    directory = site.service.settings.job_dir(job_id)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "console.log").write_text("the last line\n")
    with page.expect_response(f"**/v1/jobs/{job_id}"):  # events are heard in their order
        announce(site, job_id, "log.lines", {})
        announce(site, job_id, "job.progress", {"step": 1})
    held[0].fulfill(json={"offset": 0, "next_offset": 0, "text": "", "complete": False})
    expect(log).to_contain_text("the last line")


def test_the_gradient_of_each_penalty_is_shown_with_its_name(page: Page, site: Site) -> None:
    job_id = make_run(site, "two penalties")
    for name, ratio in (("mhe", 1.5), ("orthogonal", 0.25)):
        measure(site.service, job_id, {20: ratio}, f"gradient_ratio/{name}")
    page.goto(f"{site.url}/#/jobs/{job_id}")
    facts = page.get_by_role("region", name="Health").locator("dl div")
    title = "Gradient of the penalty / of the loss"
    expect(facts).to_contain_text([f"{title}: mhe1.5", f"{title}: orthogonal0.25"])


def test_a_number_that_is_not_finite_is_said_once(page: Page, site: Site) -> None:
    job_id = make_run(site, "not finite")
    for name, value in (("d_loss", math.nan), ("d_real", 2.5), ("d_fake", math.nan)):
        measure(site.service, job_id, {20: value}, name)
    page.goto(f"{site.url}/#/jobs/{job_id}")
    facts = page.get_by_role("region", name="Health").locator("dl div")
    for title in ("Discriminator loss", "Logits of real"):
        expect(facts.filter(has_text=title).get_by_role("definition")).to_have_text("✗ NaN")


def test_the_best_generator_is_shown_with_the_score_of_fresh_latents(page: Page, site: Site) -> None:
    best = {"step": 1500, "scores": {"inception_score": 6.75}}
    job_id = train(site.service, "none", 0, 6.0, more={"best": best}, name="rescored")
    page.goto(f"{site.url}/#/jobs/{job_id}")
    fact = page.locator("dl.facts div").filter(has_text="inception score, best scored again")
    expect(fact.get_by_role("definition")).to_have_text("6.75 at step 1,500")


def test_the_form_for_samples_gets_the_focus_and_is_sent_once(page: Page, site: Site) -> None:
    job_id = site.add_job("drawn from")
    sent: list[Route] = []
    page.route("**/samples", lambda route: sent.append(route))
    page.goto(f"{site.url}/#/jobs/{job_id}")
    page.get_by_role("button", name="Draw samples").press("Enter")
    expect(page.get_by_label("Images", exact=True)).to_be_focused()
    page.get_by_role("button", name="Draw", exact=True).dblclick()
    expect(page.get_by_role("button", name="Draw", exact=True)).to_be_disabled()
    assert len(sent) == 1


def test_a_task_is_not_asked_for_once_its_run_is_left(page: Page, site: Site) -> None:
    job_id = site.add_job("left alone")
    page.clock.install()
    task = {"id": "task_1", "state": "running", "terminal": False, "message": None}
    asked: list[str] = []
    page.route("**/samples", lambda route: route.fulfill(json=task))
    page.route("**/v1/tasks/*", lambda route: (asked.append(route.request.url), route.fulfill(json=task)))
    page.goto(f"{site.url}/#/jobs/{job_id}")
    page.get_by_role("button", name="Draw samples").click()
    with page.expect_response("**/samples"):
        page.get_by_role("button", name="Draw", exact=True).click()
    with page.expect_response("**/v1/tasks/*"):
        page.clock.run_for(700)
    page.evaluate("location.hash = '#/experiments'")
    expect(page.get_by_role("heading", level=1)).to_have_text("Experiments")
    page.clock.run_for(5000)
    page.evaluate("fetch('healthz')")  # a request after any that the timers made
    assert len(asked) == 1
