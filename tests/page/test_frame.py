"""The frame around the views in a real browser: addresses, focus, and a service that is away, busy or refuses."""

import json
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Route, expect

from tests.page.conftest import Site


def refuse(route: Route, status: int, detail: str) -> None:
    body = json.dumps({"status": status, "code": "refused", "detail": detail})
    route.fulfill(status=status, body=body, content_type="application/problem+json")


def forget(problems: list[str], *parts: str) -> None:
    """Take out the errors that the browser logs for requests that fail."""
    problems[:] = [each for each in problems if not any(part in each for part in parts)]


def heading(page: Page, text: str) -> None:
    expect(page.get_by_role("heading", level=1)).to_have_text(text)


def test_the_second_view_gets_the_focus_even_if_the_first_had_no_address(page: Page, site: Site) -> None:
    page.goto(site.url)
    heading(page, "Runs")
    page.get_by_role("link", name="Experiments").click()
    heading(page, "Experiments")
    expect(page.locator("main")).to_be_focused()


def test_another_view_is_shown_from_its_top(page: Page, site: Site) -> None:
    job_id = site.add_job("long")
    page.set_viewport_size({"width": 800, "height": 300})
    page.goto(f"{site.url}/#/jobs/{job_id}")
    heading(page, "long")
    page.evaluate("scrollTo(0, 250)")
    page.evaluate("location.hash = '#/new'")
    heading(page, "New run")
    assert page.evaluate("scrollY") == 0


def test_the_link_of_the_view_that_is_shown_is_marked(page: Page, site: Site) -> None:
    job_id = site.add_job("marked")
    marked = page.locator("nav a[aria-current]")
    for address, name in (("#/", "Runs"), ("#/experiments", "Experiments"), (f"#/jobs/{job_id}", "Runs")):
        page.goto(f"{site.url}/{address}")
        expect(marked).to_have_text(name)


def test_an_address_that_is_no_encoding_is_not_found(page: Page, site: Site, problems: list[str]) -> None:
    page.goto(f"{site.url}/#/jobs/%zz")
    heading(page, "Not found")
    forget(problems, "404")


def test_the_id_in_an_address_cannot_lead_to_another_part_of_the_api(
    page: Page, site: Site, problems: list[str]
) -> None:
    page.goto(f"{site.url}/#/jobs/..%2Fexperiments")
    heading(page, "Not found")
    forget(problems, "404")


def test_a_step_that_is_none_shows_the_newest_grid(page: Page, site: Site) -> None:
    job_id = site.add_job("no such step")
    page.goto(f"{site.url}/#/jobs/{job_id}?step=abc")
    expect(page.get_by_role("slider").first).to_have_attribute("aria-valuetext", "step 4 of 4")


@pytest.mark.parametrize("status", [429, 503, 507], ids=["too many", "overloaded", "no space"])
def test_a_view_that_a_busy_service_refuses_is_asked_for_again(
    page: Page, site: Site, problems: list[str], status: int
) -> None:
    page.route("**/v1/experiments?*", lambda route: refuse(route, status, "not now"), times=1)
    page.goto(f"{site.url}/#/experiments")
    expect(page.get_by_role("alert")).to_have_text("not now")
    expect(page.locator("#connection")).to_have_text("reconnecting …")
    heading(page, "Experiments")
    expect(page.locator("#connection")).to_have_text("")
    forget(problems, str(status))


def test_the_sentence_that_the_service_is_away_is_read_once(page: Page, site: Site, problems: list[str]) -> None:
    page.clock.install()
    tries: list[str] = []
    page.route("**/v1/jobs?*", lambda route: (tries.append(route.request.url), route.abort()))
    page.goto(site.url)
    alert = page.get_by_role("alert")
    expect(alert).to_have_text("the service does not answer")
    said = alert.element_handle()
    for _ in range(2):
        with page.expect_event("requestfailed"):
            page.clock.run_for(2000)
    assert len(tries) == 3 and said.evaluate("alert => alert.isConnected")
    forget(problems, "ERR_FAILED")


def test_a_view_that_is_left_is_not_tried_again(page: Page, site: Site, problems: list[str]) -> None:
    page.clock.install()
    page.route("**/v1/jobs?*", lambda route: route.abort())
    page.goto(site.url)
    expect(page.get_by_role("alert")).to_be_visible()
    page.evaluate("location.hash = '#/compare'")
    expect(page.get_by_label("Name of the study")).to_be_visible()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.clock.run_for(10_000)
    page.evaluate("fetch('healthz')")  # a request after any that the timers made
    assert [urlsplit(each).path for each in asked] == ["/healthz"]
    forget(problems, "ERR_FAILED")


def test_an_answer_that_is_cut_off_is_asked_for_again(page: Page, site: Site) -> None:
    page.route("**/v1/experiments?*", lambda route: route.fulfill(body='{"data": ['), times=1)
    page.goto(f"{site.url}/#/experiments")
    expect(page.get_by_role("alert")).to_have_text("the service's answer cannot be read")
    heading(page, "Experiments")


def test_a_list_that_cannot_be_refreshed_says_so_in_the_header(page: Page, site: Site, problems: list[str]) -> None:
    page.clock.install()
    page.goto(f"{site.url}/#/experiments")
    heading(page, "Experiments")
    page.route("**/v1/experiments?*", lambda route: route.abort(), times=1)
    page.clock.run_for(5000)
    expect(page.locator("#connection")).to_have_text("reconnecting …")
    page.clock.run_for(5000)
    expect(page.locator("#connection")).to_have_text("")
    forget(problems, "ERR_FAILED")


def test_the_focus_stays_at_a_link_of_a_list_that_is_refreshed(page: Page, site: Site) -> None:
    page.clock.install()
    site.add_job("focused")
    page.goto(f"{site.url}/#/?name=focused")
    link = page.get_by_role("link", name="focused")
    link.focus()
    before = link.element_handle()
    page.clock.run_for(5000)
    page.wait_for_function("link => !link.isConnected", arg=before)
    expect(link).to_be_focused()


def test_a_key_is_sent_once_and_an_older_refusal_is_taken_back(page: Page, site: Site, problems: list[str]) -> None:
    page.route("**/v1/jobs?*", lambda route: refuse(route, 401, "a key is needed"))
    page.goto(site.url)
    page.get_by_label("API key").fill("gk_wrong")
    button = page.get_by_role("button", name="Sign in")
    page.route("**/session", lambda route: refuse(route, 401, "unknown or revoked"), times=1)
    button.click()
    expect(page.get_by_role("alert")).to_have_text("unknown or revoked")
    sent: list[Route] = []
    page.route("**/session", lambda route: sent.append(route))
    button.dblclick()
    expect(button).to_be_disabled()
    expect(page.get_by_role("alert")).to_have_text("")
    assert len(sent) == 1
    forget(problems, "401")


def test_numbers_and_times_are_written_for_people(page: Page, site: Site) -> None:
    page.goto(site.url)
    written = page.evaluate(
        """async (assets) => {
          const { duration, number, size } = await import(`${assets}format.js`);
          const times = [59.7, 3599, 7200, 172800 * 15];
          return [times.map(duration), [2 ** 20, 5 * 2 ** 30].map(size), ["NaN", 0].map(number)];
        }""",
        site.assets,
    )
    assert written == [["1 min", "1.0 h", "2.0 h", "30 days"], ["1.0 MiB", "5.0 GiB"], ["NaN", "0"]]
