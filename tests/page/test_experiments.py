"""The experiments and one experiment in a real browser."""

from playwright.sync_api import Page, expect

from server.queue.states import State
from tests.page.compared import finish, make_experiment, measure
from tests.page.conftest import Site
from tests.support.kept import forget

SCRIPT = "<script>document.title = 'broken'</script>"
MATRIX = {"variant": ["none", "mhe_sn"], "seed": [0, 1], "training.batch_size": [16]}


def test_the_newest_experiment_is_first_with_what_it_varies_and_its_states(page: Page, site: Site) -> None:
    make_experiment(site.service, MATRIX, "earlier")
    _, jobs = make_experiment(site.service, MATRIX, SCRIPT)
    finish(site.service, jobs[0], 5.0)
    finish(site.service, jobs[1], None, State.FAILED)
    page.goto(f"{site.url}/#/experiments")
    row = page.get_by_role("row").nth(1)
    expect(row.get_by_role("link")).to_have_text(SCRIPT)
    expect(row).to_contain_text("2 variants (none, mhe_sn), 2 seeds (0, 1), 1 value of training.batch_size (16)")
    expect(row).to_contain_text("2 of 4 ended")
    for text in ("1 ✓ succeeded", "1 ✗ failed", "2 ◌ queued"):
        expect(row).to_contain_text(text)
    expect(row.get_by_role("progressbar", name="2 of 4 runs ended")).to_have_attribute("value", "2")
    expect(page.get_by_role("row").nth(2)).to_contain_text("earlier")
    row.get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(SCRIPT)
    assert page.title() == f"{SCRIPT} · gan-mhe"


def test_older_experiments_are_on_further_pages(page: Page, site: Site) -> None:
    for index in range(51):
        make_experiment(site.service, {"variant": ["none"], "seed": [0]}, f"page {index}")
    page.goto(f"{site.url}/#/experiments")
    expect(page.locator("tbody tr")).to_have_count(50)
    expect(page.get_by_role("link", name="page 50", exact=True)).to_be_visible()
    page.get_by_role("link", name="Older").click()
    expect(page.get_by_role("link", name="page 0", exact=True)).to_be_visible()
    page.get_by_role("link", name="Newest").click()
    expect(page.get_by_role("link", name="page 50", exact=True)).to_be_visible()


def test_an_experiment_shows_its_base_its_cells_and_their_comparison(page: Page, site: Site) -> None:
    experiment, jobs = make_experiment(site.service, MATRIX, "whole")
    for job_id, score in zip(jobs, (5.0, 7.0, 6.0, 8.0), strict=True):
        measure(site.service, job_id, {20: score - 1, 40: score})
        finish(site.service, job_id, score)
    page.goto(f"{site.url}/#/experiments/{experiment}")
    expect(page.get_by_role("banner").or_(page.locator("article header")).last).to_contain_text(
        "Preset debug_cpu with training.steps = 40"
    )
    row = page.get_by_role("row").filter(has_text=jobs[1])
    expect(row.get_by_role("cell")).to_contain_text(["mhe_sn", "0", "16", "succeeded", "40 / 40", "7 at 40", jobs[1]])
    expect(page.locator("table.scores tbody tr")).to_have_count(2)
    expect(page.locator("table.scores")).to_contain_text("7.5")
    expect(page.get_by_role("button", name="cancel all")).to_have_count(0)
    row.get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("whole")
    page.get_by_role("link", name=experiment).click()
    expect(page).to_have_url(f"{site.url}/#/experiments/{experiment}")


def test_all_runs_are_cancelled_after_a_question(page: Page, site: Site) -> None:
    experiment, _ = make_experiment(site.service, MATRIX, "stopped as a whole")
    questions: list[str] = []
    page.on("dialog", lambda dialog: (questions.append(dialog.message), dialog.accept()))
    page.goto(f"{site.url}/#/experiments/{experiment}")
    page.get_by_role("button", name="cancel all").click()
    expect(page.locator("article header")).to_contain_text("4 of 4 ended")
    expect(page.get_by_role("button", name="cancel all")).to_have_count(0)
    assert questions == ["Cancel the 4 runs that have not ended?"]


def test_an_experiment_follows_its_runs(page: Page, site: Site) -> None:
    experiment, jobs = make_experiment(site.service, {"variant": ["none"], "seed": [0, 1]}, "followed")
    page.clock.install()
    page.goto(f"{site.url}/#/experiments/{experiment}")
    expect(page.get_by_text("No run has a final score yet")).to_be_visible()
    for job_id, score in zip(jobs, (5.0, 6.0), strict=True):
        measure(site.service, job_id, {40: score})
        finish(site.service, job_id, score)
    page.clock.run_for(5000)
    expect(page.locator("article header")).to_contain_text("2 of 2 ended")
    expect(page.locator("table.scores")).to_contain_text("5.5")
    expect(page.locator(".curve-legend")).to_contain_text("none (2 runs)")


def test_a_hidden_page_asks_for_nothing(page: Page, site: Site) -> None:
    experiment, _ = make_experiment(site.service, {"variant": ["none"], "seed": [0]}, "hidden")
    page.clock.install()
    page.goto(f"{site.url}/#/experiments/{experiment}")
    expect(page.get_by_text("No run has a final score yet")).to_be_visible()
    page.evaluate("Object.defineProperty(document, 'hidden', { value: true })")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.clock.run_for(60_000)
    assert asked == []


def test_an_experiment_that_does_not_exist_is_not_found(page: Page, site: Site, problems: list[str]) -> None:
    page.goto(f"{site.url}/#/experiments/exp_none")
    expect(page.get_by_role("heading", level=1)).to_have_text("Not found")
    problems[:] = [each for each in problems if "404" not in each]


def test_the_views_of_experiments_fit_into_a_narrow_window(page: Page, site: Site) -> None:
    experiment, _ = make_experiment(site.service, MATRIX, "narrow")
    page.set_viewport_size({"width": 320, "height": 800})
    for view in ("#/experiments", f"#/experiments/{experiment}"):
        page.goto(f"{site.url}/{view}")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 320


def test_the_focus_stays_at_a_run_of_an_experiment_that_is_refreshed(page: Page, site: Site) -> None:
    experiment, [job_id] = make_experiment(site.service, {"variant": ["none"], "seed": [0]}, "focused")
    page.clock.install()
    page.goto(f"{site.url}/#/experiments/{experiment}")
    link = page.get_by_role("link", name=job_id)
    link.focus()
    before = link.element_handle()
    page.clock.run_for(5000)
    page.wait_for_function("link => !link.isConnected", arg=before)
    expect(link).to_be_focused()


def test_an_experiment_without_runs_says_so(page: Page, site: Site) -> None:
    experiment, [job_id] = make_experiment(site.service, {"variant": ["none"], "seed": [0]}, "emptied")
    forget(site.service.store, job_id)
    page.goto(f"{site.url}/#/experiments/{experiment}")
    expect(page.get_by_text("All its runs were deleted.")).to_be_visible()
