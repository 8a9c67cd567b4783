"""The comparison of runs in a real browser: its numbers are those of `/v1/compare`, and its files say the same."""

import io
import math
import xml.etree.ElementTree as ElementTree
from typing import Any
from urllib.parse import urlencode

import httpx2
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from server.queue.states import State
from tests.page.compared import finish, make_experiment, measure
from tests.page.conftest import Site
from tests.server.http.test_compare import train

SCRIPT = "<script>document.title = 'broken'</script>"
SVG = "{http://www.w3.org/2000/svg}"
SCORES = (
    ("none", 0, 5.0),
    ("none", 1, 6.0),
    ("none", 2, 5.4),
    ("mhe_sn", 0, 7.0),
    ("mhe_sn", 1, 8.5),
    ("mhe_sn", 2, 7.2),
)


@pytest.fixture
def jobs(site: Site) -> list[str]:
    """Two variants with three seeds each."""
    return [train(site.service, variant, seed, score) for variant, seed, score in SCORES]


def view(site: Site, jobs: list[str], more: str = "") -> str:
    return f"{site.url}/#/compare?" + "&".join(f"job={job_id}" for job_id in jobs) + more


def compared(site: Site, jobs: list[str], **params: str) -> dict[str, dict[str, Any]]:
    """The rows of the service's answer by variant."""
    answer = httpx2.get(f"{site.url}/v1/compare", params={"job": jobs, **params}).json()
    return {row["variant"]: row for row in answer["rows"]}


def cells(table: Locator) -> dict[str, dict[str, str]]:
    """The texts of a table's cells by the texts of their row's and column's headings."""
    heads = [text.strip(" ↕▲▼") for text in table.locator("thead th").all_inner_texts()]
    rows = [row.locator("th, td").all_inner_texts() for row in table.locator("tbody tr").all()]
    return {row[0]: dict(zip(heads, row, strict=True)) for row in rows}


def shown(number: float) -> str:
    """As the page writes a number of this size: four significant digits."""
    return f"{float(f'{number:.4g}'):g}"


def test_the_table_has_every_number_of_the_service(page: Page, site: Site, jobs: list[str]) -> None:
    page.goto(view(site, jobs, "&reference=none"))
    table = page.locator("table.scores")
    expect(table.get_by_role("row")).to_have_count(3)
    want = compared(site, jobs, reference="none")["mhe_sn"]
    got = cells(table)["mhe_sn"]
    for title, key in (
        ("Mean", "mean"),
        ("Std", "std"),
        ("p (Holm)", "p_holm"),
        ("Detectable", "minimum_detectable_effect"),
    ):
        assert got[title] == shown(want[key])
    assert got["n"] == "3"
    assert got["95 % interval"] == f"{shown(want['ci_low'])} to {shown(want['ci_high'])}"
    difference = f"{shown(want['difference_low'])} to {shown(want['difference_high'])}, 3 pairs"
    assert got["Difference"].split("\n") == [f"+{shown(want['difference'])}", difference]
    assert cells(table)["none"]["Difference"] == "reference"


def test_a_heading_sorts_the_rows_and_the_address_keeps_it(page: Page, site: Site, jobs: list[str]) -> None:
    page.goto(view(site, jobs))
    table = page.locator("table.scores")
    names = table.locator("tbody th")
    expect(names).to_have_text(["mhe_sn", "none"])
    mean = table.get_by_role("columnheader", name="Mean", exact=False).first
    mean.get_by_role("button").press("Enter")
    expect(names).to_have_text(["none", "mhe_sn"])
    expect(mean).to_have_attribute("aria-sort", "ascending")
    mean.get_by_role("button").press("Enter")
    expect(names).to_have_text(["mhe_sn", "none"])
    expect(mean).to_have_attribute("aria-sort", "descending")
    assert "sort=-mean" in page.url
    page.reload()
    expect(mean).to_have_attribute("aria-sort", "descending")


def test_another_metric_is_compared_when_it_is_chosen(page: Page, site: Site, jobs: list[str]) -> None:
    page.goto(view(site, jobs))
    page.get_by_label("Metric").select_option("fid")
    expect(page.locator("table.scores tbody tr", has_text="none")).to_contain_text(
        shown(compared(site, jobs, metric="fid")["none"]["mean"])
    )
    assert "metric=fid" in page.url


def test_runs_are_compared_after_equal_training_time_and_the_page_says_how(page: Page, site: Site) -> None:
    def timed(seconds: float, score: float) -> dict[str, Any]:
        curve = [{"step": 500, "scores": {"inception_score": score}}]
        return {"step": 1000, "train_seconds": seconds, "curve": curve}

    jobs = [train(site.service, "none", 0, 6.0, more=timed(100.0, 5.0))]
    jobs += [train(site.service, "mhe", 0, 8.0, more=timed(200.0, 7.0))]
    page.goto(view(site, jobs))
    page.get_by_label("Compare after").select_option("wall_time")
    expect(page.get_by_text("Equal training time: each variant")).to_contain_text("in 2 min")
    table = page.locator("table.scores")
    want = compared(site, jobs, view="wall_time")
    assert cells(table)["mhe"]["At step"] == str(want["mhe"]["step"]) == "500"
    assert cells(table)["mhe"]["Mean"] == shown(want["mhe"]["mean"]) == "7"
    assert "view=wall_time" in page.url


def test_runs_of_two_protocols_have_a_table_each(page: Page, site: Site) -> None:
    first = [train(site.service, "none", seed, 5.0 + seed) for seed in (0, 1)]
    second = [train(site.service, "none", seed, 6.0 + seed, fingerprint="a" * 64) for seed in (0, 1)]
    page.goto(view(site, first + second))
    expect(page.get_by_text("They are never put in one table")).to_be_visible()
    sections = page.get_by_role("region", name="Protocol digits-v1")
    expect(sections).to_have_count(2)
    expect(sections.get_by_role("heading", level=3)).to_contain_text(["f" * 12, "a" * 12])
    means = [cells(sections.nth(index).locator("table.scores"))["none"]["Mean"] for index in (0, 1)]
    assert means == ["5.5", "6.5"]


def test_a_failed_seed_stays_in_the_table_of_its_protocol(page: Page, site: Site) -> None:
    jobs = [train(site.service, "none", 0, 5.0), train(site.service, "none", 1, 6.0)]
    failed = train(site.service, "none", 2, None, state=State.FAILED, name="lost seed")
    page.goto(view(site, [*jobs, failed]))
    expect(page.locator("table.scores tbody")).to_contain_text("+1 without score")
    expect(page.get_by_text("in no mean")).to_be_visible()
    expect(page.get_by_role("listitem").filter(has_text="lost seed")).to_contain_text("failed")


def test_a_run_that_could_belong_to_two_protocols_is_in_no_table(page: Page, site: Site) -> None:
    jobs = [train(site.service, "none", 0, 5.0), train(site.service, "none", 0, 5.5, fingerprint="a" * 64)]
    unscored = train(site.service, "none", 1, None, state=State.FAILED, name="of neither")
    page.goto(view(site, [*jobs, unscored]))
    expect(page.get_by_role("region", name="Runs apart")).to_contain_text("of neither")


def test_a_single_seed_is_said_to_show_no_spread(page: Page, site: Site) -> None:
    page.goto(view(site, [train(site.service, "none", 0, 5.0)]))
    expect(page.get_by_text("One seed says nothing about the spread between seeds.")).to_be_visible()


@pytest.fixture
def curved(site: Site) -> list[str]:
    """A variant whose two seeds were scored twice, another whose second seed stopped being finite; named like a tag."""
    matrix = {"variant": ["none", "mhe_sn"], "seed": [0, 1]}
    _, jobs = make_experiment(site.service, matrix, SCRIPT)
    curves = [{20: 4.0, 40: 6.0}, {20: 7.0, 40: 9.0}, {20: 5.0, 40: 8.0}, {20: 7.5, 40: math.nan}]
    for job_id, curve in zip(jobs, curves, strict=True):
        measure(site.service, job_id, curve)
        finish(site.service, job_id, "NaN" if math.isnan(curve[40]) else curve[40])
    return jobs


def test_the_chart_has_the_mean_over_the_seeds_at_each_step(page: Page, site: Site, curved: list[str]) -> None:
    page.goto(view(site, curved))
    chart = page.get_by_role("group", name="Chart inception score")
    expect(chart).to_be_visible()
    found = {
        row.locator("th").inner_text(): row.locator("td").all_inner_texts()
        for row in page.locator(".curve-table tbody tr").all()
    }
    assert found == {"20": ["4.5", "7.25"], "40": ["7", "9 (1 of 2 seeds)"]}
    expect(page.locator(".curve-legend li")).to_contain_text(["none (2 runs)", "mhe_sn (2 runs)"])
    expect(page.locator(".curve-legend")).to_contain_text("some non-finite: 1, first at step 40")
    expect(page.locator(".curve-note")).to_contain_text("Band: from the lowest to the highest")
    expect(page.locator(".curve-note")).to_contain_text("real images, 9.7")


def test_the_chart_is_read_by_keyboard(page: Page, site: Site, curved: list[str]) -> None:
    page.goto(view(site, curved))
    page.get_by_role("group", name="Chart inception score").press("Home")
    expect(page.locator(".scores-chart .curve-live")).to_contain_text(
        "step 20: none (2 runs) 4.5, mhe_sn (2 runs) 7.25"
    )


def test_a_variant_that_is_not_ticked_is_not_drawn(page: Page, site: Site, curved: list[str]) -> None:
    page.goto(view(site, curved))
    page.get_by_role("group", name="Variants drawn").get_by_label("mhe_sn").uncheck()
    expect(page.locator(".curve-legend li")).to_have_count(1)
    expect(page.locator(".curve-legend")).to_contain_text("none (2 runs)")


def test_at_most_eight_variants_are_drawn_and_asked_for(page: Page, site: Site) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/metrics/history" in request.url else None)
    matrix = {"variant": ["none"], "seed": [0], "training.batch_size": [8 + each for each in range(10)]}
    _, jobs = make_experiment(site.service, matrix, "ten of them")
    for index, job_id in enumerate(jobs):
        measure(site.service, job_id, {20: float(index)})
    page.goto(view(site, jobs))
    expect(page.locator(".curve-legend li")).to_have_count(8)
    boxes = page.get_by_role("group", name="Variants drawn").get_by_role("checkbox")
    expect(boxes).to_have_count(10)
    expect(boxes.nth(9)).to_be_disabled()
    assert len(asked) == 8


def test_films_of_many_runs_are_chosen_and_nothing_else_is_fetched(page: Page, site: Site) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/samples?" in request.url else None)
    _, jobs = make_experiment(site.service, {"variant": ["none", "mhe_sn"], "seed": list(range(7))}, "many seeds")
    page.goto(view(site, jobs))
    figures = page.locator(".sides-card")
    expect(figures).to_have_count(2)
    expect(page.get_by_text("2 of 14 runs are shown, at most 12.")).to_be_visible()
    assert {url.split("/jobs/")[1].split("/")[0] for url in asked} == set(jobs[:2])
    page.get_by_role("combobox", name="Show").select_option("3")
    expect(figures).to_contain_text(["none, seed 3", "mhe_sn, seed 3"])
    page.get_by_text("Choose runs").click()
    page.get_by_label("none, seed 5").check()
    expect(figures).to_have_count(3)
    page.reload()
    expect(figures).to_have_count(3)


def saved(page: Page, name: str) -> bytes:
    with page.expect_download() as download:
        page.get_by_role("button", name=name).click()
    return download.value.path().read_bytes()


@pytest.mark.parametrize("what", ["chart", "plot"], ids=["chart", "plot"])
def test_a_picture_is_saved_as_an_svg_that_needs_nothing_else(
    page: Page, site: Site, curved: list[str], what: str
) -> None:
    page.emulate_media(color_scheme="dark")
    page.goto(view(site, curved))
    root = ElementTree.fromstring(saved(page, f"Save the {what} as SVG"))
    assert root.tag == f"{SVG}svg" and {"width", "height", "viewBox"} <= set(root.attrib)
    texts = "".join(root.itertext())
    assert root.findtext(f"{SVG}title") and root.findtext(f"{SVG}desc")
    assert all(part in texts for part in ("none", "mhe_sn", "real images 9.7", "digits-v1"))
    [background] = [each for each in root.findall(f"{SVG}rect") if each.get("width") == root.get("width")]
    assert background.get("fill") == "#ffffff"
    source = ElementTree.tostring(root, encoding="unicode")
    assert not any(each in source for each in ("var(", "class=", "href", "NaN,", ",NaN", "undefined"))


@pytest.mark.parametrize("what", ["chart", "plot"], ids=["chart", "plot"])
def test_a_picture_is_saved_as_a_png_of_twice_the_size(page: Page, site: Site, curved: list[str], what: str) -> None:
    page.goto(view(site, curved))
    root = ElementTree.fromstring(saved(page, f"Save the {what} as SVG"))
    image = Image.open(io.BytesIO(saved(page, f"Save the {what} as PNG")))
    assert image.size == tuple(2 * int(root.attrib[side]) for side in ("width", "height"))
    assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert len(set(image.convert("RGB").get_flattened_data())) > 10


@pytest.mark.parametrize(
    ("form", "piece"),
    [("CSV", "variant,n,mean"), ("Markdown", "| mhe_sn | 3 |"), ("LaTeX", r"mhe\_sn & 3 &")],
    ids=["CSV", "Markdown", "LaTeX"],
)
def test_the_table_is_saved_in_the_forms_of_the_service(
    page: Page, site: Site, jobs: list[str], form: str, piece: str
) -> None:
    page.goto(view(site, jobs))
    with page.expect_download() as download:
        page.get_by_role("link", name=form).click()
    assert piece in download.value.path().read_text()


def test_the_runs_of_a_study_are_found_by_its_name(page: Page, site: Site) -> None:
    labels = {"study": "of the page", "arm": "none"}
    experiment, [job_id] = make_experiment(site.service, {"variant": ["none"], "seed": [0]}, "arm")
    train(site.service, "none", 0, 5.0, labels=labels, experiment_id=experiment, name="of the study")
    train(site.service, "none", 0, 5.5, labels=labels, name="a fork of it")
    train(
        site.service, "none", 1, None, labels=labels, experiment_id=experiment, state=State.CANCELLED, name="replaced"
    )
    page.goto(f"{site.url}/#/compare")
    page.get_by_label("Name of the study").fill("of the page")
    page.get_by_role("button", name="Compare its runs").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Study of the page: 1 run")
    expect(page.locator(".sides-card")).to_contain_text("of the study")
    assert job_id not in page.content()


def test_a_study_without_runs_says_so(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/#/compare?study=nobody")
    expect(page.get_by_text("The service has no run of this study.")).to_be_visible()


def test_without_a_choice_the_newest_experiments_are_offered(page: Page, site: Site) -> None:
    make_experiment(site.service, {"variant": ["none"], "seed": [0]}, "offered")
    page.goto(f"{site.url}/#/compare")
    page.get_by_role("link", name="offered").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Experiment offered: 1 run")
    expect(page.get_by_text("No run has a final score yet")).to_be_visible()


def test_names_like_scripts_are_text_in_every_part(page: Page, site: Site) -> None:
    experiment, _ = make_experiment(site.service, {"variant": ["none"], "seed": [0]}, SCRIPT)
    for seed, name in enumerate((SCRIPT, f"{SCRIPT} again")):
        more = {"labels": {"study": SCRIPT}, "experiment_id": experiment, "name": name}
        train(site.service, "none", seed, None, state=State.FAILED, **more)
    page.goto(f"{site.url}/#/compare?{urlencode({'study': SCRIPT})}")
    expect(page.locator(".sides-card")).to_contain_text([SCRIPT, f"{SCRIPT} again"])
    expect(page.get_by_role("listitem")).to_contain_text([SCRIPT, f"{SCRIPT} again"])
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Study {SCRIPT}: 2 runs")
    assert page.title() == f"Study {SCRIPT} · gan-mhe"


def test_a_narrow_window_scrolls_nothing_but_tables(page: Page, site: Site, curved: list[str]) -> None:
    page.set_viewport_size({"width": 320, "height": 800})
    page.goto(view(site, curved, "&reference=none"))
    expect(page.locator("table.scores")).to_be_visible()
    expect(page.locator(".curve-legend li")).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


def test_a_box_that_is_ticked_keeps_the_focus(page: Page, site: Site, jobs: list[str]) -> None:
    page.goto(view(site, jobs))
    page.get_by_text("Choose runs").click()
    box = page.get_by_label("none, seed 1")
    box.press("Space")
    expect(box).not_to_be_checked()
    expect(box).to_be_focused()
    expect(page.locator(".sides-card")).to_have_count(5)


def test_a_picture_that_cannot_be_saved_says_why(page: Page, site: Site, jobs: list[str]) -> None:
    page.goto(view(site, jobs))
    page.evaluate("HTMLCanvasElement.prototype.toBlob = (done) => done(null); 0")
    page.get_by_role("button", name="Save the plot as PNG").click()
    expect(page.get_by_role("alert")).to_have_text("Not saved: the picture is too large.")


# --- what is missing, and a service that is busy


def test_a_run_that_was_deleted_is_left_out_and_named(
    page: Page, site: Site, jobs: list[str], problems: list[str]
) -> None:
    page.goto(view(site, [*jobs, "job_deleted"]))
    expect(page.get_by_role("heading", level=1)).to_have_text("Compare 6 runs")
    expect(page.get_by_text("this leaves out: job_deleted.")).to_be_visible()
    expect(page.locator("table.scores tbody tr")).to_have_count(2)
    problems[:] = [each for each in problems if "404" not in each]


@pytest.mark.parametrize("path", ["compare", "jobs/*/metrics/history"], ids=["table", "curves"])
def test_ended_runs_are_asked_for_again_if_the_service_was_busy(
    page: Page, site: Site, curved: list[str], problems: list[str], path: str
) -> None:
    refused = {"status": 503, "code": "overloaded", "detail": "too many requests at a time"}
    page.route(f"**/v1/{path}?*", lambda route: route.fulfill(status=503, json=refused), times=1)
    page.goto(view(site, curved))
    expect(page.get_by_text("too many requests at a time")).to_be_visible()
    expect(page.locator("table.scores tbody tr")).to_have_count(2)
    expect(page.locator(".curve-legend li")).to_contain_text(["none (2 runs)", "mhe_sn (2 runs)"])
    expect(page.get_by_text("too many requests at a time")).to_have_count(0)
    problems[:] = [each for each in problems if "503" not in each]


def test_real_images_without_a_score_are_not_given_one(page: Page, site: Site) -> None:
    page.goto(view(site, [train(site.service, "none", seed, 5.0 + seed, more={"real": None}) for seed in (0, 1)]))
    expect(page.get_by_text("The real images have no score.")).to_be_visible()
    plot = page.get_by_role("img", name="Scores by variant")
    assert "eal images" not in (plot.get_attribute("aria-label") or "")


def test_the_smallest_p_is_not_called_the_smallest_difference(page: Page, site: Site, jobs: list[str]) -> None:
    scores = (("none", 0, 5.0), ("none", 1, 6.0), ("mhe_sn", 0, 5.5), ("mhe_sn", 1, 5.75))
    page.goto(view(site, [train(site.service, *each) for each in scores], "&reference=none"))
    expect(page.get_by_text("No significant difference to none")).to_contain_text("the smallest p is that of mhe_sn")


def test_a_variant_with_a_single_seed_is_named_among_others(page: Page, site: Site) -> None:
    page.goto(view(site, [train(site.service, *each) for each in (*SCORES[:2], SCORES[3])]))
    expect(page.get_by_text("One seed says nothing about the spread between seeds: mhe_sn.")).to_be_visible()


def test_all_runs_can_be_chosen_again_after_a_box_was_ticked(page: Page, site: Site, jobs: list[str]) -> None:
    page.goto(view(site, jobs))
    choice = page.get_by_role("combobox", name="Show")
    page.get_by_text("Choose runs").click()
    page.get_by_label("none, seed 1").uncheck()
    expect(choice.get_by_role("option", selected=True)).to_have_text("those ticked below")
    choice.select_option(label="all runs")
    expect(page.locator(".sides-card")).to_have_count(6)


def test_no_film_at_all_is_a_choice_that_the_address_keeps(page: Page, site: Site) -> None:
    page.goto(view(site, [train(site.service, "none", seed, 5.0 + seed) for seed in (0, 1)]))
    page.get_by_text("Choose runs").click()
    for seed in (0, 1):
        page.get_by_label(f"none, seed {seed}").uncheck()
    page.reload()
    expect(page.get_by_text("No run is chosen.")).to_be_visible()
