"""The views of the page in a real browser: runs, one run, a comparison, and signing in."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from gan_mhe.config.run_config import RunConfig
from server.queue import queue
from server.queue.admission import new_job
from server.store import keys, tables
from tests.page.conftest import Site
from tests.server.http.test_compare import train

SCRIPT = "<script>document.title = 'broken'</script>"


def test_a_job_named_like_a_script_is_text(page: Page, site: Site) -> None:
    name = f"{SCRIPT} in the list"
    site.add_job(name)
    page.goto(site.url)
    page.get_by_role("link", name=name).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(name)
    assert page.title().startswith(f"{name}, ")


def test_filters_are_in_the_address_and_narrow_the_list(page: Page, site: Site) -> None:
    site.add_job("alpha one")
    site.add_job("beta two")
    page.goto(site.url)
    page.get_by_label("Name contains").fill("alpha")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("link", name="alpha one")).to_be_visible()
    expect(page.get_by_role("link", name="beta two")).to_have_count(0)
    assert page.url.endswith("#/?name=alpha")
    page.reload()
    expect(page.get_by_role("link", name="beta two")).to_have_count(0)


def test_a_list_without_a_match_says_so_and_leads_back(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/#/?name=nobody-has-this-name")
    page.get_by_role("link", name="Show all").click()
    expect(page.get_by_text("No run matches.")).to_have_count(0)


def test_a_selected_run_is_cancelled_and_the_row_says_it(page: Page, site: Site) -> None:
    new = new_job(RunConfig(), "default", name="to be cancelled")
    site.service.store.write(lambda connection: queue.create(connection, new))
    page.goto(f"{site.url}/#/?name=to%20be%20cancelled")
    page.get_by_label("Select to be cancelled").check()
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="cancel", exact=True).click()
    expect(page.get_by_role("row").filter(has_text="to be cancelled")).to_contain_text("cancelled")
    expect(page.get_by_role("status").filter(has_text="done")).to_have_text("cancel: 1 done")


def test_a_run_shows_its_samples_curves_configuration_checkpoints_and_keeps_the_step(page: Page, site: Site) -> None:
    job_id = site.add_job("shown")
    page.goto(f"{site.url}/#/jobs/{job_id}?step=0")
    expect(page.get_by_role("img", name="step 0")).to_be_visible()
    expect(page.get_by_role("slider").first).to_have_attribute("aria-valuetext", "step 0 of 4")
    for title in ("Samples", "Health", "Curves", "Configuration", "Checkpoints", "Log"):
        expect(page.get_by_role("heading", name=title, exact=True)).to_be_visible()
    expect(page.get_by_role("button", name="Draw samples")).to_be_visible()
    page.get_by_role("slider").first.press("End")
    page.wait_for_url("**/*step=4")


def test_a_run_that_does_not_exist_is_not_found(page: Page, site: Site, problems: list[str]) -> None:
    page.goto(f"{site.url}/#/jobs/job_none")
    expect(page.get_by_role("heading", level=1)).to_have_text("Not found")
    problems[:] = [each for each in problems if "404" not in each]


def test_runs_are_compared_with_the_tables_numbers_and_films(page: Page, site: Site) -> None:
    scores = (("none", 0, 5.0), ("none", 1, 6.0), ("mhe_sn", 0, 7.0), ("mhe_sn", 1, 8.5))
    jobs = [train(site.service, variant, seed, score) for variant, seed, score in scores]
    page.goto(f"{site.url}/#/compare?" + "&".join(f"job={job_id}" for job_id in jobs))
    row = page.get_by_role("row").filter(has_text="mhe_sn")
    expect(row).to_contain_text("7.75")
    page.get_by_label("Differences from").select_option("none")
    expect(row).to_contain_text("2.25")
    expect(page.get_by_role("img", name="Scores by variant")).to_be_visible()
    assert "reference=none" in page.url


def test_one_slider_moves_the_grids_of_all_runs_and_the_address_keeps_the_step(
    page: Page, site: Site, problems: list[str]
) -> None:
    first, second = site.add_job("left"), site.add_job("right")
    page.goto(f"{site.url}/#/compare?job={first}&job={second}")
    slider = page.get_by_role("slider", name="Training step")
    expect(slider).to_have_attribute("aria-valuetext", "step 4")
    slider.press("Home")
    for name in ("left", "right"):
        expect(page.get_by_role("img", name=f"run {name}, step 0")).to_be_visible()
    page.wait_for_url("**step=0*")
    problems[:] = [each for each in problems if "422" not in each]  # they are copies, whose scores are not compared


def test_runs_that_cannot_be_compared_say_why(page: Page, site: Site, problems: list[str]) -> None:
    first, second = (train(site.service, "none", 0, score) for score in (5.0, 5.5))
    page.goto(f"{site.url}/#/compare?job={first}&job={second}")
    expect(page.get_by_role("alert")).to_contain_text("seed")
    problems[:] = [each for each in problems if "422" not in each]


@pytest.fixture
def token(site: Site) -> Iterator[str]:
    """The key of a service that requires one meanwhile."""
    made = keys.create(site.service.store, "ann", "default", ["admin"])
    yield made
    site.service.store.write(lambda connection: connection.execute(tables.api_keys.delete()))


def test_a_service_with_keys_asks_for_one_once(page: Page, site: Site, token: str, problems: list[str]) -> None:
    page.goto(site.url)
    page.get_by_label("API key").fill("gk_wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("unknown or revoked")
    page.get_by_label("API key").fill(token)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Runs")
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("Runs")
    [cookie] = page.context.cookies()
    assert cookie["httpOnly"] and cookie["secure"] and token not in page.url
    assert page.evaluate("document.cookie") == ""
    problems[:] = [each for each in problems if "401" not in each]


def test_who_signs_out_is_asked_for_a_key_again(page: Page, site: Site, token: str, problems: list[str]) -> None:
    page.goto(site.url)
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    expect(page.get_by_role("button", name="Sign out")).to_be_hidden()
    expect(page.get_by_text("Authorization")).to_have_count(0)  # a header is nothing that a visitor could send
    page.get_by_label("API key").fill(token)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    expect(page.get_by_role("button", name="Sign out")).to_be_hidden()
    assert page.context.cookies() == []
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    problems[:] = [each for each in problems if "401" not in each]


def test_a_browser_that_keeps_nothing_shows_a_service_without_keys(page: Page, site: Site) -> None:
    page.add_init_script(
        """Object.defineProperty(window, "localStorage", {
            get() { throw new DOMException("denied", "SecurityError"); },
        })"""
    )
    page.goto(site.url)
    expect(page.get_by_role("heading", level=1)).to_have_text("Runs")
    expect(page.get_by_role("button", name="Sign out")).to_be_hidden()


def test_a_running_job_follows_its_events(page: Page, site: Site) -> None:
    new = new_job(RunConfig(), "default", name="live")
    store = site.service.store
    made = store.write(lambda connection: queue.create(connection, new))
    page.goto(f"{site.url}/#/jobs/{made['id']}")
    expect(page.get_by_text("queued")).to_be_visible()
    expect(page.locator("#connection")).to_have_text("live")
    store.write(lambda connection: queue.cancel(connection, queue.get(connection, made["id"])))
    expect(page.locator("article")).to_contain_text("cancelled")


def test_a_stream_that_is_refused_for_a_while_is_said_and_healed(page: Page, site: Site, problems: list[str]) -> None:
    new = new_job(RunConfig(), "default", name="cut off")
    made = site.service.store.write(lambda connection: queue.create(connection, new))
    page.route("**/stream?*", lambda route: route.fulfill(status=503))
    page.goto(f"{site.url}/#/jobs/{made['id']}")
    expect(page.get_by_role("heading", level=1)).to_have_text("cut off")
    page.route(f"**/v1/jobs/{made['id']}", lambda route: route.fulfill(status=503, body="{}"))
    expect(page.locator("#connection")).to_have_text("reconnecting …")
    page.unroute_all()
    expect(page.locator("#connection")).to_have_text("live")
    problems[:] = [each for each in problems if "503" not in each]


def test_a_revoked_key_leads_from_a_followed_run_to_the_form(
    page: Page, site: Site, token: str, problems: list[str]
) -> None:
    new = new_job(RunConfig(), "default", name="followed")
    made = site.service.store.write(lambda connection: queue.create(connection, new))
    page.goto(site.url)
    page.get_by_label("API key").fill(token)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Runs")
    closing = "event: stream.closed\ndata: {}\n\n"  # what the service sends within 15 s
    page.route("**/stream?*", lambda route: route.fulfill(content_type="text/event-stream", body=closing))
    page.goto(f"{site.url}/#/jobs/{made['id']}")
    expect(page.locator("#connection")).to_have_text("reconnecting …")
    keys.revoke(site.service.store, token.split("_")[1])
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    problems[:] = [each for each in problems if "401" not in each]


def test_a_key_revoked_beside_a_comparison_leads_to_the_form_and_nothing_asks_on(
    page: Page, site: Site, token: str, problems: list[str]
) -> None:
    page.clock.install()
    jobs = [train(site.service, variant, seed, 5.0 + seed) for variant in ("none", "mhe_sn") for seed in (0, 1)]
    page.goto(site.url)
    page.get_by_label("API key").fill(token)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Runs")
    page.goto(f"{site.url}/#/compare?" + "&".join(f"job={job_id}" for job_id in jobs))
    expect(page.get_by_label("Differences from")).to_be_visible()
    keys.revoke(site.service.store, token.split("_")[1])
    page.get_by_label("Differences from").select_option("none")
    page.get_by_label("API key").fill("being typed")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.clock.run_for(10_000)
    page.evaluate("fetch('healthz')")
    assert [url for url in asked if "/v1/" in url] == []
    expect(page.get_by_label("API key")).to_have_value("being typed")
    problems[:] = [each for each in problems if "401" not in each]


@pytest.mark.parametrize("width", [320, 1440])
def test_nothing_but_tables_is_wider_than_the_window(page: Page, site: Site, width: int) -> None:
    job_id = site.add_job("narrow")
    page.set_viewport_size({"width": width, "height": 800})
    for view in ("#/", f"#/jobs/{job_id}", f"#/compare?job={job_id}"):
        page.goto(f"{site.url}/{view}")
        page.reload()
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_page_is_used_by_keyboard_alone(page: Page, site: Site) -> None:
    site.add_job("by keyboard")
    page.goto(f"{site.url}/#/?name=by%20keyboard")
    expect(page.get_by_role("link", name="by keyboard")).to_be_visible()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "by keyboard":
            break
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("by keyboard")
    assert page.evaluate("document.activeElement.id") == "main"
