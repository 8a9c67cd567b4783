"""How large the page is: what is sent for it, and what a long list of runs puts into the browser."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import Connection

from gan_mhe.config.run_config import RunConfig
from server.queue import queue
from server.queue.admission import new_job
from server.store import tables
from tests.page.conftest import Site
from tests.support.paths import ROOT

MOST_BYTES = 150_000
MOST_NODES = 3000
MOST_ROWS = 300
RUNS = 2000  # 40 pages of the list
NAME = "one of very many"


def files() -> list[str]:
    """The page's files by their addresses below that of the assets; the index has another."""
    folder: Path = ROOT / "server" / "page"
    found = (str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    return [name for name in found if name != "index.html"]


def sent_bytes(client: httpx2.Client, address: str) -> int:
    answer = client.get(address, headers={"Accept-Encoding": "gzip"})
    assert (answer.status_code, answer.headers["content-encoding"]) == (200, "gzip"), address
    return int(answer.headers["content-length"])


def test_all_files_of_the_page_together_are_small_as_they_are_sent(site: Site) -> None:
    with httpx2.Client() as client:
        sizes = {name: sent_bytes(client, f"{site.assets}{name}") for name in files()}
        sizes["index.html"] = sent_bytes(client, f"{site.url}/")
    assert "main.js" in sizes
    assert sum(sizes.values()) < MOST_BYTES, sorted(sizes.items(), key=lambda each: -each[1])[:5]


@pytest.fixture
def many_runs(site: Site) -> Iterator[None]:
    """Copies of one job, taken away afterwards: other tests share the service."""
    store, jobs = site.service.store, tables.jobs

    def add(connection: Connection) -> None:
        row = dict(queue.create(connection, new_job(RunConfig(), "default", name=NAME)))
        del row["seq"]
        connection.execute(jobs.insert(), [{**row, "id": f"{row['id'][:-6]}{index:06d}"} for index in range(RUNS)])

    store.write(add)
    yield
    store.write(lambda connection: connection.execute(jobs.delete().where(jobs.c.name == NAME)))


@pytest.mark.usefixtures("many_runs")
def test_a_long_list_of_runs_is_shown_in_pages_of_few_nodes(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/#/?name=one%20of%20very%20many")
    expect(page.get_by_role("link", name="Next page")).to_be_visible()
    assert 1 < page.locator("tr").count() < MOST_ROWS
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    counted = {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}
    assert counted["Nodes"] < MOST_NODES
