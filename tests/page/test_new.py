"""The form for a new run in a real browser: its fields, what the service says about them, and what it submits."""

import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Page, Route, expect
from sqlalchemy import update
from typer.testing import CliRunner

from gan_mhe.config import compose, documents
from gan_mhe.config.run_config import RunConfig
from server import client as client_package
from server.cli import demo
from server.cli.app import app
from server.client import Client, Rejected
from server.http.bodies import SubmitExperiment, SubmitJob
from server.queue import admission, queue
from server.queue.states import State
from server.store import keys, tables
from tests.page.conftest import Site
from tests.support.paths import ROOT

HOSTILE = """it's "$(touch x)" `id` \\n \\ 'é' -x"""
SWEEP = "preset=debug_cpu&variant=none&variant=mhe_sn&seed=0-2&set=training.steps=20,30&set=loss=hinge"


def open_form(page: Page, site: Site, query: str = "preset=debug_cpu") -> None:
    """The form, once the service has accepted what it holds."""
    page.goto(f"{site.url}/#/new?{query}")
    expect(page.get_by_role("button", name="Submit")).to_be_enabled()


def tick(page: Page, variant: str) -> None:
    page.get_by_role("checkbox", name=re.compile(rf"^{variant} ")).check()


def submitted(page: Page) -> dict[str, Any]:
    """The body that the button sends."""
    with page.expect_request(lambda request: request.method == "POST" and "dry_run" not in request.url) as sent:
        page.get_by_role("button", name="Submit").click()
    page.wait_for_url(re.compile("#/(jobs|experiments)/"))
    body = sent.value.post_data_json
    assert isinstance(body, dict)
    return body


def forget(problems: list[str], *statuses: int) -> None:
    """Take out the errors that the browser logs for refused requests."""
    problems[:] = [each for each in problems if not any(str(status) in each for status in statuses)]


# --- what is submitted


def test_one_variant_and_one_seed_become_a_job_that_is_shown(page: Page, site: Site) -> None:
    open_form(page, site)
    page.get_by_label("Name", exact=True).fill("made here")
    tick(page, "mhe_sn")
    page.get_by_label("Seeds").fill("7")
    expect(page.get_by_role("status").filter(has_text="One run.")).to_contain_text("50 steps, 400 real images")
    expect(page.get_by_role("button", name="Submit run")).to_be_enabled()
    body = submitted(page)
    assert body == {"preset": "debug_cpu", "name": "made here", "variant": "mhe_sn", "seed": 7}
    expect(page.get_by_role("heading", level=1)).to_have_text("made here")


def test_several_values_become_an_experiment_whose_size_is_said_before(page: Page, site: Site) -> None:
    open_form(page, site, SWEEP)
    status = page.locator(".new-summary")
    expect(status).to_contain_text("An experiment of 12 runs: 2 variants × 3 seeds × 2 values of training.steps.")
    expect(status).to_contain_text("300 steps, 2,400 real images to train on, nothing to score, in all 12 runs")
    body = submitted(page)
    assert body["matrix"] == {"variant": ["none", "mhe_sn"], "seed": [0, 1, 2], "training.steps": [20, 30]}
    assert body["overrides"] == {"loss": "hinge"}
    experiment = page.url.rsplit("/", 1)[1]
    assert len(httpx2.get(f"{site.url}/v1/experiments/{experiment}").json()["cells"]) == 12


def test_the_form_is_filled_in_and_submitted_by_keyboard_alone(page: Page, site: Site) -> None:
    open_form(page, site)

    def tab_to(text: str) -> None:
        for _ in range(80):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.labels?.[0]?.textContent ?? ''").startswith(text):
                return
        pytest.fail(f"no Tab leads to {text}")

    tab_to("Name")
    page.keyboard.type("typed")
    tab_to("none")
    page.keyboard.press("Space")
    tab_to("Add a key")
    page.keyboard.type("training.steps")
    page.keyboard.press("Enter")
    page.keyboard.type("20")
    expect(page.locator(".new-summary")).to_contain_text("20 steps")
    page.keyboard.press("Enter")
    page.wait_for_url("**/#/jobs/*")
    expect(page.get_by_role("heading", level=1)).to_have_text("typed")


def test_a_submission_that_is_sent_twice_counts_once(page: Page, site: Site, problems: list[str]) -> None:
    open_form(page, site, "preset=debug_cpu&name=counted%20once")

    def lose_the_answer(route: Route) -> None:
        route.fetch()
        route.abort()

    page.route("**/v1/jobs", lose_the_answer, times=1)
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_role("alert").filter(has_text="the service does not answer")).to_be_visible()
    expect(page.get_by_label("Name", exact=True)).to_have_value("counted once")
    submitted(page)
    jobs = httpx2.get(f"{site.url}/v1/jobs?name=counted%20once").json()["data"]
    assert [page.url.rsplit("/", 1)[1]] == [job["id"] for job in jobs]
    problems[:] = [each for each in problems if "ERR_FAILED" not in each]


def test_a_changed_form_is_another_submission(page: Page, site: Site) -> None:
    found = []
    page.on("request", lambda request: found.append(request.headers.get("idempotency-key")))
    for name in ("first", "second"):
        open_form(page, site, f"preset=debug_cpu&name={name}")
        submitted(page)
        page.goto("about:blank")
    first, second = (key for key in found if key)
    assert first != second


# --- what the fields offer


def test_every_documented_key_can_be_added_and_shows_what_it_is(page: Page, site: Site) -> None:
    open_form(page, site, "preset=digits_cnn")
    offered = set(page.locator("#new-known option").evaluate_all("options => options.map(each => each.value)"))
    rows = re.findall(r"^\| `([a-z0-9_.]+)`.*\|$", (ROOT / "docs" / "configuration.md").read_text(), re.M)
    documented = {key for key in rows if "." in key or key == "loss"}
    assert len(documented) > 60 and documented <= offered
    assert {"constraints.mhe", "constraints.mhe.ratio.target", "constraints.mhe.layer_factors"} <= offered
    page.get_by_label("Add a key").fill("training.steps")
    page.get_by_role("button", name="Add").click()
    row = page.locator(".new-field").filter(has=page.get_by_label("training.steps"))
    expect(row).to_contain_text("Number of generator updates")
    expect(row).to_contain_text("integer · ≥ 1 · digits_cnn: 2,750")
    page.get_by_role("button", name="Remove training.steps").click()
    expect(row).to_have_count(0)


def test_a_key_that_does_not_exist_is_not_added(page: Page, site: Site) -> None:
    open_form(page, site)
    page.get_by_label("Add a key").fill("training.stepz")
    page.get_by_label("Add a key").press("Enter")
    expect(page.get_by_text("There is no key “training.stepz”")).to_be_visible()
    expect(page.get_by_role("button", name="Remove training.stepz")).to_have_count(0)


def test_choices_are_boxes_and_several_of_them_are_varied(page: Page, site: Site) -> None:
    open_form(page, site, "preset=debug_cpu&set=loss=hinge&set=data.flip=false&set=constraints.weight_decay.power=2")
    page.get_by_role("group", name="data.flip").get_by_label("true").check()
    page.get_by_role("group", name="loss").get_by_label("wasserstein").check()
    expect(page.get_by_role("button", name="Submit 4 runs")).to_be_enabled()
    body = submitted(page)
    assert body["matrix"] == {"seed": [0], "loss": ["hinge", "wasserstein"], "data.flip": [False, True]}
    assert body["overrides"] == {"constraints.weight_decay.power": 2}


def test_values_keep_their_types(page: Page, site: Site) -> None:
    settings = {
        "constraints.mhe.layer_factors": "[1, 0.5], [2]",
        "evaluation.num_samples": "null",
        "optimizer.epsilon": "1e-7",
        "constraints.weight_decay": '{"power": 2}',
        "checkpoint.keep_best": "false",
    }
    open_form(page, site, "&".join(["preset=debug_cpu", *(f"set={key}={text}" for key, text in settings.items())]))
    body = submitted(page)
    assert body["matrix"] == {"seed": [0], "constraints.mhe.layer_factors": [[1, 0.5], [2]]}
    assert body["overrides"] == {
        "evaluation.num_samples": None,
        "optimizer.epsilon": 1e-7,
        "constraints.weight_decay": {"power": 2},
        "checkpoint.keep_best": False,
    }


def test_the_list_of_variants_is_narrowed_without_losing_a_selection(page: Page, site: Site) -> None:
    open_form(page, site, "preset=debug_cpu&variant=none")
    page.get_by_label("Narrow the variants").fill("arjovsky")
    expect(page.get_by_role("checkbox", name="weight_clipping")).to_be_visible()
    expect(page.get_by_role("checkbox", name="none no constraint")).to_be_hidden()
    tick(page, "weight_clipping")
    expect(page.get_by_text("2 selected: none, weight_clipping")).to_be_visible()


# --- what is wrong


def test_a_mistake_is_said_at_its_field_and_nothing_is_lost(page: Page, site: Site, problems: list[str]) -> None:
    open_form(page, site, "preset=debug_cpu&name=kept&set=training.steps=20")
    steps = page.get_by_label("training.steps", exact=True)
    steps.fill("0")
    expect(steps).to_have_attribute("aria-invalid", "true")
    expect(steps).to_have_accessible_description(re.compile(r"✗ training\.steps: .*it is 0"))
    expect(page.get_by_role("button", name="Submit")).to_be_disabled()
    expect(page.get_by_label("Name", exact=True)).to_have_value("kept")
    steps.fill("21")
    expect(steps).not_to_have_attribute("aria-invalid", "true")
    expect(page.get_by_role("button", name="Submit")).to_be_enabled()
    assert submitted(page)["overrides"] == {"training.steps": 21}
    forget(problems, 422)


@pytest.mark.parametrize(
    ("query", "place", "message"),
    [
        ("name=%20", "#new-name", "expected more than spaces"),
        ("variant=mhee", "#new-variants", "unknown variant 'mhee'"),
        ("variant=none&variant=mhee", "#new-variants", "unknown variant 'mhee'"),
        ("set=data.split=test,train&set=data.name=digits", "#new-set-data\\.split", "digits has no split 'test'"),
        ("label=UP:x", "#new-labels", "labels"),
        ("priority=11", "#new-priority", "less than or equal to 10"),
        ("limit=-1", "#new-limit", "greater than 0"),
        ("preset=debug", "#new-preset", "unknown preset 'debug'"),
    ],
    ids=["name", "variant", "variants", "varied key", "labels", "priority", "limit", "preset"],
)
def test_each_pointer_of_the_service_leads_to_its_field(
    page: Page, site: Site, problems: list[str], query: str, place: str, message: str
) -> None:
    preset = "" if query.startswith("preset") else "preset=debug_cpu&"
    page.goto(f"{site.url}/#/new?{preset}{query}")
    expect(page.locator(f"{place}-error")).to_contain_text(message)
    forget(problems, 422)


def test_a_problem_of_no_field_is_said_beside_the_button(page: Page, site: Site, problems: list[str]) -> None:
    page.goto(f"{site.url}/#/new?preset=image_folder_cnn")
    expect(page.locator(".new-summary")).to_contain_text("data.root is missing")
    expect(page.get_by_role("button", name="Submit")).to_be_disabled()
    forget(problems, 422)


def test_what_cannot_be_seeds_is_explained_where_it_is_typed(page: Page, site: Site) -> None:
    open_form(page, site)
    seeds = page.get_by_label("Seeds")
    for text, message in (
        ("1-x", "Expected seeds such as 0, 1, 2 or a range such as 0-4; got “1-x”."),
        ("-1", "got “-1”"),
        ("4-0", "Expected the smaller seed of a range first; got 4-0."),
        ("0-9999999", "Expected a range of at most 10,000 seeds"),
        ("9007199254740993", "Expected seeds below 2^53"),
    ):
        seeds.fill(text)
        expect(seeds).to_have_accessible_description(re.compile(re.escape(message)))
        expect(page.get_by_role("button", name="Submit")).to_be_disabled()


def test_only_the_answer_to_the_newest_entries_counts(page: Page, site: Site) -> None:
    open_form(page, site, "preset=debug_cpu&set=training.steps=20")
    held: list[Route] = []

    def hold(route: Route) -> None:
        if route.request.post_data_json["overrides"] == {"training.steps": 30}:
            held.append(route)
        else:
            route.continue_()

    page.route("**/v1/jobs?dry_run=true", hold)
    steps = page.get_by_label("training.steps", exact=True)
    with page.expect_request("**/v1/jobs?dry_run=true"):
        steps.fill("30")
    steps.fill("40")
    expect(page.locator(".new-summary")).to_contain_text("40 steps")
    with suppress(Exception):  # the browser has given this request up
        held[0].fulfill(json={"estimate": {"steps": 30, "images": 1, "scored_images": 0, "note": ""}})
    expect(page.get_by_role("button", name="Submit")).to_be_enabled()
    expect(page.locator(".new-summary")).to_contain_text("40 steps")


def test_a_service_that_is_away_for_a_while_is_asked_again(page: Page, site: Site, problems: list[str]) -> None:
    open_form(page, site)
    page.route("**/v1/jobs?dry_run=true", lambda route: route.abort(), times=1)
    page.get_by_label("Seeds").fill("3")
    expect(page.locator(".new-summary")).to_contain_text("the service does not answer")
    expect(page.get_by_role("button", name="Submit")).to_be_enabled()
    problems[:] = [each for each in problems if "ERR_FAILED" not in each]


def test_a_service_that_is_busy_for_a_while_is_asked_again(page: Page, site: Site, problems: list[str]) -> None:
    open_form(page, site)
    refused = {"status": 503, "code": "overloaded", "detail": "too many requests at a time"}
    page.route("**/v1/jobs?dry_run=true", lambda route: route.fulfill(status=503, json=refused), times=1)
    page.get_by_label("Seeds").fill("3")
    expect(page.locator(".new-summary")).to_contain_text("too many requests at a time")
    expect(page.get_by_role("button", name="Submit")).to_be_enabled()
    forget(problems, 503)


def test_a_summary_that_is_still_true_is_not_read_again(page: Page, site: Site) -> None:
    open_form(page, site)
    said = page.locator(".new-summary p").first.element_handle()
    with page.expect_response("**/v1/jobs?dry_run=true"):
        page.get_by_label("Name", exact=True).fill("changes no cost")
    expect(page.get_by_role("button", name="Submit")).to_be_enabled()
    assert said.evaluate("said => said.isConnected")


# --- the address


def test_the_address_keeps_every_entry(page: Page, site: Site) -> None:
    open_form(page, site)
    page.get_by_label("Name", exact=True).fill(HOSTILE)
    tick(page, "half_mhe")
    page.get_by_label("Seeds").fill("0-2")
    page.get_by_label("Add a key").fill("training.steps")
    page.get_by_label("Add a key").press("Enter")
    page.get_by_label("training.steps", exact=True).fill("20, 30")
    page.get_by_text("Advanced").click()
    page.get_by_label("Labels").fill("a:1\nb:x:y")
    page.get_by_label("Priority").fill("2")
    page.get_by_label("Limit of the running time").fill("60")
    expect(page.get_by_role("button", name="Submit 6 runs")).to_be_enabled()
    page.reload()
    expect(page.get_by_role("button", name="Submit 6 runs")).to_be_enabled()
    body = submitted(page)
    assert body == {
        "preset": "debug_cpu",
        "name": HOSTILE,
        "labels": {"a": "1", "b": "x:y"},
        "priority": 2,
        "wall_seconds_limit": 60,
        "matrix": {"variant": ["half_mhe"], "seed": [0, 1, 2], "training.steps": [20, 30]},
    }


@pytest.mark.parametrize(
    ("preset", "variant", "overrides"),
    [
        ("digits_cnn", "mhe_sn", {"training.steps": 30, "evaluation.num_samples": 200}),
        ("debug_cpu", "mhe", {"constraints.mhe": None, "loss": "hinge"}),
        ("digits_cnn", "none", {"constraints.mhe.layer_factors": [1.0, 0.5], "optimizer.epsilon": 1e-9}),
    ],
    ids=["keys", "a section removed", "a section added"],
)
def test_a_run_like_another_has_its_configuration(
    page: Page, site: Site, preset: str, variant: str, overrides: dict[str, Any]
) -> None:
    body = {"preset": preset, "variant": variant, "seed": 5, "overrides": overrides, "name": "like"}
    job = httpx2.post(f"{site.url}/v1/jobs", json=body).json()
    page.goto(f"{site.url}/#/jobs/{job['id']}")
    with page.expect_response("**/v1/jobs?dry_run=true") as answered:
        page.get_by_role("link", name="New run like this").click()
    assert answered.value.json()["config_digest"] == job["config_digest"]
    assert answered.value.json()["config"] == job["config"]
    expect(page.get_by_label("Name", exact=True)).to_have_value("like")
    assert f"preset={preset}" in page.url and "from=" not in page.url


# --- what it costs


def test_a_time_is_said_only_if_a_run_of_the_preset_has_measured_it(page: Page, site: Site) -> None:
    cell = "preset=debug_cpu&set=training.batch_size=24"
    open_form(page, site, cell)
    expect(page.locator(".new-summary")).not_to_contain_text("on this machine")
    document = documents.load_document(documents.PRESETS / "debug_cpu.toml")
    config = compose.compose(document, overrides={"training": {"batch_size": 24}})
    new = admission.new_job(config, "default", name="measured")

    def train(connection: Any) -> str:
        row = queue.create(connection, new, State.SUCCEEDED)
        values = {"step": 50, "images_per_second": 120.0}
        connection.execute(update(tables.jobs).where(tables.jobs.c.id == row["id"]).values(values))
        return str(row["id"])

    job_id = site.service.store.write(train)
    page.goto("about:blank")
    open_form(page, site, f"{cell}&set=training.steps=600")
    said = page.locator(".new-summary").get_by_text(
        "About 2 min of training on this machine, at the speed of the last run of this preset"
    )
    expect(said).to_be_visible()
    expect(said.get_by_role("link", name="measured")).to_have_attribute("href", f"#/jobs/{job_id}")
    page.get_by_label("training.batch_size", exact=True).fill("25")
    expect(page.locator(".new-summary")).to_contain_text("15,000 real images")
    expect(said).to_have_count(0)


# --- the same as


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The requests of clients that are made meanwhile; each is refused."""
    found: list[dict[str, Any]] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        found.append({"url": str(request.url), "body": json.loads(request.content)})
        return httpx2.Response(422, json={"status": 422, "code": "x", "detail": "noted", "errors": []})

    def make(url: str) -> Client:
        return Client(url, key="", transport=httpx2.MockTransport(answer))

    monkeypatch.setattr(client_package, "Client", make)
    return found


def arguments(command: str, text: str) -> list[str]:
    """What a shell passes to the command in the text."""
    function = command + "() { printf '%s\\0' \"$@\"; }"
    shown = subprocess.run(["bash", "-c", f"{function}\n{text}"], capture_output=True, check=True)
    return shown.stdout.decode().split("\0")[:-1]


def shown_as(page: Page, language: str) -> str:
    page.get_by_role("button", name=language, exact=True).click()
    text = page.get_by_role("group", name=f"The same as {language}").text_content()
    assert text is not None
    return text


LANGUAGE_CASES = {
    "a hostile job": (
        "preset=debug_cpu&variant=mhe_sn&seed=3&set=training.steps=20&set=loss=hinge&set=optimizer.epsilon=1e-7"
        "&set=constraints.weight_decay={%22power%22:2}&priority=2&limit=60&label=a:it's%20%22b%22&label=c:"
    ),
    "a sweep": f"{SWEEP}&set=constraints.mhe.layer_factors=[1,0.5],[2]&set=data.flip=false,true",
}


@pytest.mark.parametrize("query", LANGUAGE_CASES.values(), ids=LANGUAGE_CASES)
def test_every_language_says_exactly_what_the_form_sends(
    page: Page, site: Site, received: list[dict[str, Any]], query: str
) -> None:
    open_form(page, site, query)
    page.get_by_label("Name", exact=True).fill(HOSTILE)
    expect(page.get_by_role("button", name="Submit")).to_be_enabled()
    curl, python, shell = (shown_as(page, language) for language in ("curl", "Python", "Shell"))
    body = submitted(page)
    kind = SubmitExperiment if "matrix" in body else SubmitJob
    path = f"{site.url}/v1/{'experiments' if 'matrix' in body else 'jobs'}"
    _, url, _, content_type, _, data = arguments("curl", curl)
    assert (url, content_type, json.loads(data)) == (path, "Content-Type: application/json", body)
    with pytest.raises(Rejected):
        exec(python, {})
    assert CliRunner().invoke(app, arguments("gan-mhe", shell)).exit_code != 0  # it was refused
    assert [each["url"] for each in received] == [path, path]
    for each in received:
        assert kind.model_validate(each["body"]) == kind.model_validate(body)


@pytest.mark.parametrize("query", LANGUAGE_CASES.values(), ids=LANGUAGE_CASES)
def test_the_toml_file_is_the_same_configuration(page: Page, site: Site, query: str) -> None:
    open_form(page, site, query)
    text = shown_as(page, "TOML")
    submitted(page)
    kind, made = page.url.rsplit("/", 2)[1:]
    job_id = made if kind == "jobs" else httpx2.get(f"{site.url}/v1/experiments/{made}").json()["cells"][0]["job_id"]
    job = httpx2.get(f"{site.url}/v1/jobs/{job_id}").json()
    assert RunConfig.model_validate(tomllib.loads(text)) == RunConfig.stored(job["config"])


def test_a_variant_replaces_the_loss_and_the_constraints_of_a_preset_in_the_toml_file(
    page: Page, site: Site, problems: list[str]
) -> None:
    page.goto(f"{site.url}/#/new?preset=cifar10_resnet&variant=wgan_gp&seed=1")
    text = shown_as(page, "TOML")
    document = documents.load_document(documents.PRESETS / "cifar10_resnet.toml")
    assert RunConfig.model_validate(tomllib.loads(text)) == compose.compose(document, variant="wgan_gp", seed=1)
    expect(page.locator(".new-summary")).to_contain_text("the service has no folder for 'cifar10'")
    forget(problems, 422)


def test_what_toml_cannot_say_is_said(page: Page, site: Site) -> None:
    open_form(page, site, "preset=debug_cpu&variant=mhe&set=constraints.mhe=null")
    assert shown_as(page, "TOML").startswith("TOML has no null")
    expect(page.get_by_role("button", name="Copy")).to_be_disabled()
    assert json.loads(arguments("curl", shown_as(page, "curl"))[-1])["overrides"] == {"constraints.mhe": None}


def test_the_text_is_copied_or_selected_where_a_page_may_not_copy(page: Page, site: Site) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    open_form(page, site)
    text = shown_as(page, "Shell")
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_text("Copied.")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == text
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_text("Selected: copy it")).to_be_visible()
    assert page.evaluate("getSelection().toString()") == text


# --- the first run, and keys


@pytest.fixture
def signed_in(page: Page, site: Site, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A tab with a key of a project without runs. The parameter: the key's scopes."""
    token = keys.create(site.service.store, "ann", f"project-{request.node.name[:20]}", request.param)
    page.goto(site.url)
    page.get_by_label("API key").fill(token)
    page.get_by_role("button", name="Sign in").click()
    yield page
    site.service.store.write(lambda connection: connection.execute(tables.api_keys.delete()))


@pytest.mark.parametrize("signed_in", [["admin"]], ids=["admin"], indirect=True)
def test_a_service_without_runs_offers_the_demo_and_trains_it(signed_in: Page, problems: list[str]) -> None:
    card = signed_in.get_by_role("region", name="The first run")
    expect(card).to_contain_text("four runs, about 7 minutes on two cores")
    expect(card.get_by_role("link", name="New run")).to_have_attribute("href", "#/new")
    with signed_in.expect_request("**/v1/experiments") as sent:
        card.get_by_role("button", name="Train the demo").click()
    assert sent.value.post_data_json == {
        "preset": demo.PRESET,
        "matrix": {"variant": list(demo.VARIANTS), "seed": list(demo.SEEDS)},
        "name": "demonstration",
    }
    signed_in.wait_for_url("**/#/experiments/exp_*")
    signed_in.get_by_role("link", name="Runs", exact=True).click()
    expect(signed_in.get_by_role("link", name="demonstration")).to_have_count(4)
    expect(card).to_have_count(0)
    forget(problems, 401)


@pytest.mark.parametrize("signed_in", [["admin"]], ids=["revoked"], indirect=True)
def test_a_revoked_key_leads_from_the_form_to_another_and_back_without_a_loss(
    signed_in: Page, site: Site, problems: list[str]
) -> None:
    expect(signed_in.get_by_role("heading", level=1)).to_have_text("Runs")
    signed_in.get_by_role("link", name="New run").click()
    expect(signed_in.get_by_role("button", name="Submit")).to_be_enabled()
    site.service.store.write(lambda connection: connection.execute(tables.api_keys.delete()))
    token = keys.create(site.service.store, "ann", "default", ["admin"])
    signed_in.get_by_label("Name", exact=True).fill("kept")
    signed_in.get_by_label("API key").fill(token)
    signed_in.get_by_role("button", name="Sign in").click()
    expect(signed_in.get_by_label("Name", exact=True)).to_have_value("kept")
    forget(problems, 401)


@pytest.mark.parametrize("signed_in", [["jobs:read"]], ids=["reader"], indirect=True)
def test_a_key_that_may_only_read_is_told_so(signed_in: Page, site: Site, problems: list[str]) -> None:
    sentence = "Your API key may look at runs but not submit any: this requires the scope jobs:write"
    signed_in.get_by_role("button", name="Train the demo").click()
    expect(signed_in.get_by_role("alert").filter(has_text=sentence)).to_be_visible()
    signed_in.get_by_role("link", name="New run").click()
    expect(signed_in.locator(".new-summary")).to_contain_text(sentence)
    expect(signed_in.get_by_role("button", name="Submit")).to_be_disabled()
    forget(problems, 401, 403)


@pytest.mark.parametrize("width", [320, 1440], ids=["narrow", "wide"])
def test_the_form_is_no_wider_than_the_window(page: Page, site: Site, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    long = "x" * 150
    open_form(page, site, f"{SWEEP}&set=constraints.weight_decay.schedule.warmup_steps=1&name={long}")
    for language in ("curl", "Python", "Shell", "TOML"):
        shown_as(page, language)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
