"""What axe finds in the views, in both themes and at two widths.

axe is no Python package: TEST_AXE names its file, which `.ci/run` fetches; without it these tests are skipped.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.page.compared import finish, make_experiment, measure
from tests.page.conftest import WAIT_MS, Site
from tests.server.http.test_compare import train

VARIABLE = "TEST_AXE"
RUN = """async () => {
  const { violations } = await axe.run();
  return violations.map(({ id, impact, nodes }) => `${impact} ${id}: ${nodes[0].html}`);
}"""


@pytest.fixture(scope="module")
def axe() -> str:
    """The source of axe."""
    if not os.environ.get(VARIABLE):
        pytest.skip(f"{VARIABLE} names no file of axe")
    return Path(os.environ[VARIABLE]).read_text()


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[390, 1440])
def tab(request: pytest.FixtureRequest, browser: Browser, scheme: str) -> Iterator[Page]:
    """A tab of this width and theme whose policy lets axe in."""
    viewport = {"width": request.param, "height": 900}
    context = browser.new_context(color_scheme=scheme, viewport=viewport, bypass_csp=True)  # type: ignore[arg-type]
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    yield page
    context.close()


def test_axe_finds_nothing(axe: str, tab: Page, site: Site) -> None:
    job_id = site.add_job("accessible")
    jobs = [train(site.service, variant, seed, 5.0 + seed) for variant in ("none", "mhe_sn") for seed in (0, 1)]
    experiment, cells = make_experiment(site.service, {"variant": ["none", "mhe_sn"], "seed": [0, 1]}, "accessible")
    for each in cells[:2]:
        measure(site.service, each, {20: 5.0, 40: 6.0})
        finish(site.service, each, 6.0)
    compared = "#/compare?reference=none&" + "&".join(f"job={each}" for each in jobs)
    experiments = ("#/experiments", f"#/experiments/{experiment}")
    found = []
    form = "#/new?preset=debug_cpu&variant=mhe&seed=0-1&set=training.steps=0&set=loss=hinge&label=paper:mhe"
    for view in ("#/", f"#/jobs/{job_id}", compared, "#/compare", form, *experiments):
        tab.goto("about:blank")
        tab.goto(f"{site.url}/{view}")
        expect(tab.get_by_role("heading", level=1)).to_be_visible()
        if view in (compared, experiments[1]):
            expect(tab.locator("table.scores")).to_be_visible()
        tab.evaluate(f"{axe}; 0")
        found += [f"{view}: {each}" for each in tab.evaluate(RUN)]
    assert found == []
