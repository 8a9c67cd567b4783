"""What tests of the page share: a browser, a service with its page, jobs with sample grids; what pages must not do."""

import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import httpx2
import pytest
import uvicorn
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from gan_mhe.files import sha256_bytes
from server import startup
from server.clock import now_ms
from server.service import Service
from server.settings import Settings
from server.store import artifacts
from server.store.rows import SampleRow
from tests.support.app import make_app
from tests.support.fake_executor import FakeExecutor
from tests.support.kept import add_run

CHROMIUM = shutil.which("chromium")
REQUIRED = "TEST_REQUIRE_BROWSER"
# No sandbox: containers run as root. Shared memory is small there. The resolver refuses every name: no network.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
WAIT_MS = 10_000
REPORT_VIOLATIONS = """addEventListener("securitypolicyviolation", (event) =>
    console.error(`the policy ${event.violatedDirective} forbids ${event.blockedURI || event.sample}`));"""


@dataclass
class Site:
    """A service that is served but schedules nothing."""

    url: str
    service: Service

    @cached_property
    def assets(self) -> str:
        """The address of the page's files."""
        found = re.search(r'src="(ui/\w+/)main\.js"', httpx2.get(self.url).text)
        assert found is not None
        return f"{self.url}/{found[1]}"

    def add_job(self, name: str | None = None) -> str:
        """A succeeded job of 4 steps with grids of 4 images at steps 0 and 4."""
        return add_run(self.service.store, self.service.settings, name=name)

    def draw(self, job_id: str, step: int, color: tuple[int, int, int], *, pruned: bool = False) -> SampleRow:
        """Add a grid of one color, 48 by 32 pixels, as the indexer would."""
        path = f"run/samples/step_{step:08d}.png"
        file: Path = self.service.settings.job_dir(job_id) / path
        Image.new("RGB", (48, 32), color).save(file)
        content = file.read_bytes()
        row: SampleRow = {
            "job_id": job_id,
            "step": step,
            "attempt": 1,
            "sha256": sha256_bytes(content),
            "path": path,
            "size_bytes": len(content),
            "width": 48,
            "height": 32,
            "created_at": now_ms(),
            "pruned_at": None,
        }
        self.service.store.write(lambda connection: artifacts.add_sample(connection, row))
        if pruned:
            self.prune(job_id, step)
        return row

    def prune(self, job_id: str, *steps: int) -> None:
        """Mark grids as deleted."""
        self.service.store.write(lambda connection: artifacts.prune_samples(connection, job_id, steps))


# Of the package and not of the session: while Playwright runs, this thread has a running event loop, and tests
# elsewhere could start none.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    if CHROMIUM is None:
        sentence = "chromium is not installed, which tests of the page need"
        if os.environ.get(REQUIRED) == "1":
            pytest.fail(f"{sentence} and {REQUIRED}=1 demands")
        pytest.skip(sentence)
    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A service at a port of this machine."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("page") / "data", port=0, disk_reserve_bytes=0)
    settings.data_dir.mkdir()
    service = startup.open_service(settings, executor=FakeExecutor())
    app = make_app(service)
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_config=None, access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + WAIT_MS / 1000
    while not server.started:
        assert thread.is_alive() and time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Site(f"http://127.0.0.1:{port}", service)
    server.should_exit = True
    thread.join()
    service.stop()


@pytest.fixture
def problems() -> list[str]:
    """What went wrong in the page: a test that causes a problem takes it out."""
    return []


@pytest.fixture
def page(browser: Browser, site: Site, problems: list[str]) -> Iterator[Page]:
    """An empty tab."""
    with watched_tab(browser, site.url, problems) as page:
        yield page


@contextmanager
def watched_tab(browser: Browser, url: str, problems: list[str]) -> Iterator[Page]:
    """An empty tab. Errors, violations of the policy and requests to other places than `url` fail the test."""
    page = browser.new_page(reduced_motion="no-preference")
    page.set_default_timeout(WAIT_MS)
    page.add_init_script(REPORT_VIOLATIONS)
    page.on("console", _note_errors(problems))
    page.on("pageerror", lambda error: problems.append(f"uncaught: {error}"))
    page.on("request", lambda request: _note_foreign(problems, url, request.url))
    yield page
    page.close()
    assert not problems, f"in Chromium {browser.version}: {problems}"


def _note_errors(problems: list[str]) -> Callable[[ConsoleMessage], None]:
    def note(message: ConsoleMessage) -> None:
        if message.type == "error":
            problems.append(f"{message.text} ({message.location['url']})")

    return note


def _note_foreign(problems: list[str], home: str, url: str) -> None:
    if not url.startswith((f"{home}/", "blob:")):
        problems.append(f"a request to another place: {url}")
