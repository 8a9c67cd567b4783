"""A run directory in which anything was changed: it is imported or refused, and nothing else suffers."""

import itertools
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gan_mhe.cli.runs import info, metrics
from gan_mhe.comparison.compare import compare, find_runs, read_score
from gan_mhe.errors import GanMheError
from gan_mhe.records.run_dir import RunDir
from gan_mhe.study.report.environment import made_with, read_environment
from server.ingest import importer
from server.service import Service
from tests.support.crafted import copy, damage, make_run

EXAMPLES, SOAK_EXAMPLES = 30, 1000


def examples(count: int, *, same: bool) -> settings:
    return settings(
        deadline=None,
        derandomize=same,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        max_examples=count,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs in which nothing was changed: `mhe` to be changed, `other` and `none` to be compared with."""
    root = tmp_path_factory.mktemp("whole")
    make_run(root / "mhe")
    make_run(root / "other", seed=1, score=7.0)
    make_run(root / "none", variant="none", score=6.0)
    make_run(root / "none-1", variant="none", seed=1, score=6.5)
    return root


class Shop:
    """The service, and the runs that were given to it."""

    def __init__(self, client: TestClient, service: Service, whole: Path) -> None:
        self._client, self._service, self._whole = client, service, whole
        self._numbers = itertools.count()
        self.known = [self._import(copy(whole / name, self._inbox(name))) for name in ("other", "none", "none-1")]

    def _inbox(self, name: str) -> Path:
        return self._service.settings.inbox / name

    def _import(self, run: RunDir) -> str:
        return str(self._client.post("/v1/imports", json={"name": run.root.name}).json()["id"])

    def take(self, draw: st.DrawFn) -> None:
        """Import a changed run, if it is not refused, and look at everything."""
        run = copy(self._whole / "mhe", self._inbox(f"run-{next(self._numbers)}"))
        what = damage(draw, run)
        self.look("/v1/imports", what)
        answer = self._client.post("/v1/imports", json={"name": run.root.name})
        assert answer.status_code < 500, (what, answer.text)
        if answer.status_code == 201:
            self.look_at_job(str(answer.json()["id"]), what)
        self.look("/v1/jobs?limit=200", what)
        importer.recover(self._service.store, self._service.settings)
        assert list(self._service.settings.job_dir("").glob("*/import.json")) == [], what

    def look_at_job(self, job: str, what: str) -> None:
        own = f"/v1/jobs/{job}"
        for part in (
            "",
            "/events",
            "/metrics",
            "/metrics/history?name=d_loss",
            "/logs",
            "/samples/0",
            "/samples/latest",
        ):
            self.look(own + part, what)
        for row in self.look(f"{own}/samples", what)["data"]:
            self.look(row["links"]["self"], what)
            self.look(row["links"]["image"], what)
        for row in self.look(f"{own}/checkpoints", what)["data"]:
            for link in ("self", "manifest", "content"):
                self.look(row["links"].get(link, row["links"]["self"]), what)
        query = "&".join(f"job={job_id}" for job_id in (job, *self.known))
        for view in ("steps", "wall_time"):
            self.look(f"/v1/compare?{query}&view={view}&reference=none", what)

    def look(self, url: str, what: str) -> dict[str, list[dict[str, dict[str, str]]]]:
        answer = self._client.get(url, follow_redirects=False)
        assert answer.status_code < 500, (what, url, answer.text)
        is_json = answer.headers.get("content-type", "").startswith("application/json")
        return dict(answer.json()) if is_json and answer.status_code == 200 else {"data": []}


@pytest.fixture
def shop(client: TestClient, service: Service, whole: Path) -> Shop:
    return Shop(client, service, whole)


def read_in_the_shell(draw: st.DrawFn, whole: Path, place: Path) -> None:
    """Give a changed run to the commands that read runs: they succeed, or raise an error that is meant for people."""
    run = copy(whole / "mhe", place)
    what = damage(draw, run)
    others = [read_score(RunDir(whole / name)) for name in ("other", "none", "none-1")]
    for view in ("steps", "wall_time"):
        try:
            compare([*map(read_score, find_runs([place])), *others], view=view, reference="none")
        except GanMheError as error:
            assert str(error), what
    for command in (info, metrics, lambda path: list(made_with([read_environment(RunDir(path))]))):
        try:
            command(place)
        except GanMheError as error:
            assert str(error), what


@examples(EXAMPLES, same=True)
@given(data=st.data())
def test_a_changed_run_harms_no_answer_of_the_service(shop: Shop, data: st.DataObject) -> None:
    shop.take(data.draw)


@examples(EXAMPLES, same=True)
@given(data=st.data())
def test_a_changed_run_gives_the_shell_an_answer_or_an_error(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    read_in_the_shell(data.draw, whole, tmp_path_factory.mktemp("shell") / "run")


@pytest.mark.soak
@pytest.mark.timeout(3600)
@examples(SOAK_EXAMPLES, same=False)
@given(data=st.data())
def test_no_changed_run_harms_an_answer_of_the_service(shop: Shop, data: st.DataObject) -> None:
    shop.take(data.draw)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@examples(SOAK_EXAMPLES, same=False)
@given(data=st.data())
def test_no_changed_run_gives_the_shell_anything_but_an_answer_or_an_error(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    read_in_the_shell(data.draw, whole, tmp_path_factory.mktemp("shell") / "run")
