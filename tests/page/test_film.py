"""The film of a job: its sample grids over the training steps."""

import io
from collections.abc import Callable

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, Request, expect

from server.http.page import POLICY
from server.store import tables
from tests.page.conftest import Site

RED, GREEN, BLUE, GRAY = (200, 0, 0), (0, 160, 0), (0, 0, 220), (90, 90, 90)
STEPS = (0, 4, 8, 12, 4200)

Mount = Callable[..., None]


@pytest.fixture(scope="module")
def job(site: Site) -> str:
    """A job with grids at STEPS, which no test changes."""
    return make_job(site)


@pytest.fixture
def own_job(site: Site) -> str:
    """Such a job for one test."""
    return make_job(site)


def make_job(site: Site) -> str:
    job_id = site.add_job()
    for step, color in zip(STEPS[2:], (RED, GREEN, BLUE), strict=True):
        site.draw(job_id, step, color)
    return job_id


@pytest.fixture
def mount(page: Page, site: Site) -> Mount:
    """Put the film of a job into an empty document with the page's policy.

    The attribute `data-step` of `main` is the step that it reported last.
    """
    assets = site.assets
    html = f"""<!doctype html><html lang="en"><title>film</title><meta name="viewport" content="width=device-width">
        <link rel="icon" href="{assets}icon.svg"><link rel="stylesheet" href="{assets}parts/film.css"><main></main>"""
    headers = {"Content-Security-Policy": POLICY}
    page.route(f"{site.url}/empty", lambda route: route.fulfill(body=html, content_type="text/html", headers=headers))

    def mount(job_id: str, wanted: int | None = None) -> None:
        page.goto(f"{site.url}/empty")
        page.evaluate(
            """async ([module, job, wanted]) => {
                const { film } = await import(module);
                const main = document.querySelector("main");
                window.film = film(job, { onStep: (step) => { main.dataset.step = step; }, wanted });
                main.append(window.film.element);
            }""",
            [f"{assets}parts/film.js", job_id, wanted],
        )

    return mount


def slider(page: Page) -> Locator:
    return page.get_by_role("slider", name="Training step")


def expect_step(page: Page, step: str) -> None:
    """Slider and picture agree."""
    expect(page.get_by_role("slider").first).to_have_attribute("aria-valuetext", f"step {step} of 4")
    expect(page.locator("figcaption").first).to_contain_text(f"step {step},")


def expect_report(page: Page, step: str) -> None:
    expect(page.locator("main")).to_have_attribute("data-step", step)


def announce(page: Page, site: Site, job_id: str, step: int) -> None:
    """Draw a grid and give the film its event."""
    row = site.draw(job_id, step, GRAY)
    event = {"step": step, "sha256": row["sha256"], "width": 48, "height": 32, "url": f"/v1/blobs/{row['sha256']}"}
    page.evaluate("(event) => window.film.add(event)", event)


def press(page: Page, key: str) -> None:
    slider(page).press(key)


def test_it_begins_with_the_newest_grid_and_says_the_training_step(page: Page, mount: Mount, job: str) -> None:
    mount(job)
    expect_step(page, "4,200")
    expect(page.get_by_text("step 4,200 of 4")).to_be_visible()


def test_arrow_keys_go_from_grid_to_grid(page: Page, mount: Mount, job: str) -> None:
    mount(job)
    press(page, "ArrowLeft")
    expect_step(page, "12")
    press(page, "ArrowLeft")
    expect_step(page, "8")
    press(page, "ArrowRight")
    expect_step(page, "12")


def test_home_shows_step_0_and_end_the_newest(page: Page, mount: Mount, job: str) -> None:
    mount(job)
    press(page, "Home")
    expect_step(page, "0")
    press(page, "End")
    expect_step(page, "4,200")


def test_the_chosen_step_is_reported(page: Page, mount: Mount, job: str) -> None:
    mount(job)
    press(page, "Home")
    expect_report(page, "0")


def test_the_step_of_a_link_shows_the_nearest_grid_and_says_so(page: Page, mount: Mount, job: str) -> None:
    mount(job, wanted=4000)
    expect_step(page, "4,200")
    expect(page.get_by_role("status")).to_have_text("asked 4,000, shown 4,200: the nearest")


def test_of_two_equally_near_grids_the_earlier_is_shown(page: Page, mount: Mount, job: str) -> None:
    mount(job)
    page.get_by_label("Go to step").fill("10")
    page.get_by_role("button", name="Go").click()
    expect_step(page, "8")
    expect(page.get_by_role("status")).to_have_text("asked 10, shown 8: the nearest")


def test_a_grid_of_the_asked_step_needs_no_rule(page: Page, mount: Mount, job: str) -> None:
    mount(job, wanted=3)
    expect(page.get_by_role("status")).to_have_text("asked 3, shown 4: the nearest")
    page.get_by_label("Go to step").fill("12")
    page.get_by_label("Go to step").press("Enter")
    expect_step(page, "12")
    expect(page.get_by_role("status")).to_be_empty()


def test_a_new_grid_is_shown_if_the_newest_was(page: Page, mount: Mount, site: Site, own_job: str) -> None:
    mount(own_job)
    expect_step(page, "4,200")
    announce(page, site, own_job, 5000)
    expect_step(page, "5,000")
    expect(page.locator("main[data-step]")).to_have_count(0)


def test_a_new_grid_leaves_an_older_one_in_view(page: Page, mount: Mount, site: Site, own_job: str) -> None:
    mount(own_job, wanted=8)
    expect_step(page, "8")
    announce(page, site, own_job, 6)
    announce(page, site, own_job, 5000)
    expect_step(page, "8")
    expect(slider(page)).to_have_attribute("max", "6")
    press(page, "ArrowLeft")
    expect_step(page, "6")


def test_a_step_drawn_again_replaces_its_grid(page: Page, mount: Mount, site: Site, own_job: str) -> None:
    mount(own_job, wanted=12)
    expect_step(page, "12")
    announce(page, site, own_job, 12)
    expect(slider(page)).to_have_attribute("max", "4")
    expect(page.get_by_role("img")).to_have_attribute("src", f"{site.url}/v1/blobs/{sha_of(site, own_job, 12)}")


def sha_of(site: Site, job_id: str, step: int) -> str:
    query = tables.samples.select().where(tables.samples.c.job_id == job_id, tables.samples.c.step == step)
    return str(site.service.store.read(lambda connection: connection.execute(query).one()).sha256)


def test_deleted_grids_are_left_out_and_counted(page: Page, mount: Mount, site: Site, own_job: str) -> None:
    site.prune(own_job, 8, 12)
    mount(own_job)
    expect(page.get_by_text("2 grids were deleted to save space and cannot be shown.")).to_be_visible()
    press(page, "ArrowLeft")
    expect_step(page, "4")


def test_a_job_without_a_grid_says_when_the_first_comes(page: Page, mount: Mount, site: Site) -> None:
    job_id = site.add_job()
    site.service.store.write(lambda c: c.execute(tables.samples.delete().where(tables.samples.c.job_id == job_id)))
    mount(job_id)
    expect(page.get_by_text("No grid yet: the first is drawn at step 0")).to_be_visible()
    expect(page.get_by_role("slider")).to_have_count(0)
    announce(page, site, job_id, 0)
    expect_step(page, "0")


def test_all_pages_of_a_long_list_are_read(page: Page, mount: Mount, site: Site, own_job: str) -> None:
    kept = {**site.draw(own_job, 5000, GRAY)}
    rows = [{**kept, "step": step} for step in range(5001, 6200)]
    site.service.store.write(lambda connection: connection.execute(tables.samples.insert(), rows))
    mount(own_job)
    expect_step(page, "6,199")
    expect(slider(page)).to_have_attribute("max", str(5 + 1 + 1199 - 1))


def test_only_the_visible_grid_and_its_neighbors_are_downloaded(page: Page, mount: Mount, site: Site, job: str) -> None:
    asked: list[str] = []

    def note(request: Request) -> None:
        if "/v1/blobs/" in request.url:
            asked.append(request.url.rsplit("/", 1)[-1])

    page.on("request", note)
    mount(job, wanted=8)
    while len(asked) < 3:
        page.wait_for_event("request")
    assert sorted(asked) == sorted(sha_of(site, job, step) for step in (4, 8, 12))


def test_an_image_that_cannot_be_read_is_reported_and_the_last_stays(
    page: Page, mount: Mount, site: Site, job: str
) -> None:
    broken = f"{site.url}/v1/blobs/{sha_of(site, job, 12)}"
    page.route(broken, lambda route: route.fulfill(body=b"not a PNG", content_type="image/png"))
    mount(job)
    expect_step(page, "4,200")
    press(page, "ArrowLeft")
    expect(page.get_by_role("alert")).to_have_text(
        "The image of step 12 could not be loaded. The picture is still that of step 4,200."
    )
    expect(page.locator("figcaption")).to_contain_text("step 4,200")
    press(page, "ArrowLeft")
    expect_step(page, "8")
    expect(page.get_by_role("alert")).to_be_empty()


def test_a_list_that_cannot_be_read_can_be_asked_for_again(
    page: Page, mount: Mount, site: Site, job: str, problems: list[str]
) -> None:
    page.route("**/samples?*", lambda route: route.fulfill(status=503, json={"detail": "too busy"}), times=1)
    mount(job)
    expect(page.get_by_role("alert")).to_contain_text("The grids could not be loaded: too busy.")
    page.get_by_role("button", name="Try again").click()
    expect_step(page, "4,200")
    expect(page.get_by_role("alert")).to_be_empty()
    assert len(problems) == 1 and "503" in problems.pop()


def test_the_film_plays_only_when_asked_and_stops_at_the_end(page: Page, mount: Mount, job: str) -> None:
    mount(job)
    play = page.get_by_role("button", name="Play")
    expect(play).to_have_attribute("aria-pressed", "false")
    page.get_by_label("Speed").select_option("10")
    play.click()
    expect(play).to_have_attribute("aria-pressed", "true")
    expect(play).to_have_attribute("aria-pressed", "false")
    expect_step(page, "4,200")
    expect_report(page, "4200")


def test_a_choice_by_hand_pauses_the_film(page: Page, mount: Mount, job: str) -> None:
    mount(job, wanted=4)
    page.get_by_label("Speed").select_option("2")
    page.get_by_role("button", name="Play").click()
    press(page, "Home")
    expect(page.get_by_role("button", name="Play")).to_have_attribute("aria-pressed", "false")
    expect_step(page, "0")


def test_readers_who_want_little_motion_begin_with_the_slowest_speed(page: Page, mount: Mount, job: str) -> None:
    page.emulate_media(reduced_motion="reduce")
    mount(job)
    expect(page.get_by_label("Speed")).to_have_value("2")


def test_a_comparison_shows_a_to_the_left_and_b_to_the_right_of_the_handle(page: Page, mount: Mount, job: str) -> None:
    mount(job, wanted=8)
    page.get_by_role("button", name="Compare two steps").click()
    second = page.get_by_role("slider", name="Step B, right")
    expect(second).to_have_attribute("aria-valuetext", "step 4,200 of 4")
    second.press("ArrowLeft")
    expect(page.locator("figcaption")).to_have_text("Left A: step 8. Right B: step 12. 48 \u00d7 32 pixels.")
    handle = page.get_by_role("slider", name="Border between A and B")
    assert colors(page, 10, 38) == [RED, GREEN]
    handle.press("End")
    expect(handle).to_have_attribute("aria-valuetext", "100 % A, 0 % B")
    assert colors(page, 10, 38) == [RED, RED]
    handle.press("Home")
    assert colors(page, 10, 38) == [GREEN, GREEN]


def colors(page: Page, *columns: int) -> list[tuple[int, ...]]:
    """The colors of the picture in its middle row."""
    image = Image.open(io.BytesIO(page.locator(".film-open").screenshot())).convert("RGB")
    return [image.getpixel((column, image.height // 2)) for column in columns]  # type: ignore[misc]


def test_grids_have_native_pixels_until_they_are_enlarged(page: Page, mount: Mount, job: str) -> None:
    mount(job)
    expect_step(page, "4,200")
    image = page.locator(".film-open img").first
    expect(image).to_have_css("image-rendering", "pixelated")
    expect(image).to_have_css("width", "48px")
    page.get_by_role("button", name="3\u00d7").click()
    expect(page.get_by_role("button", name="3\u00d7")).to_have_attribute("aria-pressed", "true")
    expect(image).to_have_css("width", "144px")
    expect(image).to_have_css("height", "96px")
    press(page, "ArrowLeft")
    expect_step(page, "12")
    expect(image).to_have_css("width", "144px")


def test_the_image_has_a_text_in_its_place(page: Page, mount: Mount, site: Site) -> None:
    job_id = site.add_job(name="<b>first</b>")
    mount(job_id)
    expect(page.get_by_role("img")).to_have_attribute("alt", "4 generated samples, run <b>first</b>, step 4")


def test_enter_opens_the_grid_in_full_size_and_escape_closes_it(page: Page, mount: Mount, job: str) -> None:
    mount(job)
    expect_step(page, "4,200")
    opener = page.get_by_role("button", name="generated samples")
    opener.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("img")).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(opener).to_be_focused()


def test_the_film_fits_a_narrow_screen(page: Page, mount: Mount, job: str) -> None:
    page.set_viewport_size({"width": 320, "height": 800})
    mount(job)
    expect_step(page, "4,200")
    page.get_by_role("button", name="Compare two steps").click()
    page.get_by_role("button", name="Fit").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


def test_a_film_that_is_destroyed_reports_nothing_more(page: Page, mount: Mount, job: str) -> None:
    page.clock.install()
    mount(job)
    expect_step(page, "4,200")
    press(page, "Home")
    page.evaluate("window.film.destroy()")
    page.clock.run_for(1000)
    expect(page.locator("main[data-step]")).to_have_count(0)
