"""What the version before the folders left behind: a run directory with a checkpoint, and a service's database.

`tests/fixtures/version_0001` was written by revision feb8a2b: `run/` by `gan-mhe train` with tiny networks on digits,
`service.sql` by a service that imported that run and had nine more jobs. A key is added to it.
"""

import hashlib
import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from gan_mhe.comparison.compare import compare, read_score
from gan_mhe.records.run_dir import RunDir
from gan_mhe.run import execute
from server import startup
from server.app import create_app
from server.cli.app import app
from server.settings import Settings
from tests.support.paths import ROOT

FIXTURES = ROOT / "tests" / "fixtures" / "version_0001"
IMPORTED = "job_01m8fksnygehes64qsnwfqzk0e"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A copy of the old run directory."""
    return RunDir(Path(shutil.copytree(FIXTURES / "run", tmp_path / "run")))


def test_its_configuration_is_what_was_written_not_what_the_variant_is_today(run: RunDir) -> None:
    config = run.read_config()
    assert config.constraints.mhe is not None and config.constraints.mhe.schedule.warmup_steps == 7
    assert config.digest() == json.loads(run.result.read_text())["digest"]


def test_its_score_is_compared_with_a_run_like_it(run: RunDir) -> None:
    score = read_score(run)
    assert score.final is not None
    row = compare([score]).rows[0]
    label = "mhe + constraints.mhe.schedule.warmup_steps=7"  # the variant has another value today
    assert (row.variant, row.n, row.mean) == (label, 1, score.final["inception_score"])


def test_its_curve_and_its_events_are_read(run: RunDir) -> None:
    assert [step for step, _ in read_score(run).curve] == [2, 4]
    assert [type(event).__name__ for event in run.read_events()][-1] == "Finished"


def test_the_shell_describes_it_and_generates_from_its_checkpoint(run: RunDir, tmp_path: Path) -> None:
    described = CliRunner().invoke(app, ["info", str(run.root)])
    assert described.exit_code == 0 and "4 of 4" in described.stdout
    grid = tmp_path / "grid.png"
    generated = CliRunner().invoke(app, ["sample", str(run.root), "--n", "4", "--out", str(grid)])
    assert generated.exit_code == 0 and grid.read_bytes().startswith(b"\x89PNG")


def test_it_goes_on_from_its_checkpoint(run: RunDir) -> None:
    config = run.read_config()
    longer = config.model_copy(update={"training": config.training.model_copy(update={"steps": 6})})
    result = execute(longer, run.root)
    assert (result.status, result.step) == ("completed", 6)
    started = [event for event in run.read_events() if type(event).__name__ == "Started"]
    assert [(event.step, event.resumed) for event in started] == [(0, False), (4, True)]  # type: ignore[union-attr]


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    """The present service over the old one's database and files."""
    settings = Settings(data_dir=tmp_path, port=0, cpu_slots=0, cuda_slots_per_device=0, disk_reserve_bytes=0)
    connection = sqlite3.connect(settings.database)
    connection.executescript((FIXTURES / "service.sql").read_text())
    secret = hashlib.sha256(b"A" * 43).hexdigest()
    values = ("abcdefghijkl", secret, "an old key", "default", '["jobs:read"]', 1, None)
    connection.execute("INSERT INTO api_keys VALUES (?, ?, ?, ?, ?, ?, ?)", values)
    connection.commit()
    connection.close()
    shutil.copytree(FIXTURES / "run", tmp_path / "jobs" / IMPORTED / "run")
    key = {"Authorization": f"Bearer gk_abcdefghijkl_{'A' * 43}"}
    return TestClient(create_app(startup.open_service(settings)), base_url="http://localhost", headers=key)


def test_its_database_is_migrated_with_all_jobs(client: TestClient) -> None:
    jobs = client.get("/v1/jobs", params={"limit": 100}).json()["data"]
    states = sorted(job["state"] for job in jobs)
    assert states == sorted(["succeeded", "cancelled", *["queued"] * 7])
    assert {job["origin"] for job in jobs} >= {"imported", "forked"}


def test_its_keys_keep_their_project_and_scopes_and_have_no_limits_of_their_own(client: TestClient) -> None:
    limits = client.get("/v1/system").json()["limits"]
    defaults = Settings.model_fields
    assert {name: limits[name] for name in ("max_priority", "max_queued_jobs", "max_streams_per_key")} == {
        name: defaults[name].default for name in ("max_priority", "max_queued_jobs", "max_streams_per_key")
    }
    assert client.post("/v1/jobs", json={"preset": "debug_cpu"}).status_code == 403


def test_a_copy_of_it_is_kept(client: TestClient, tmp_path: Path) -> None:
    copy = sqlite3.connect(tmp_path / "service.sqlite3.before-0001")
    assert copy.execute("SELECT count(*) FROM jobs").fetchone() == (10,)
    copy.close()


def test_its_metrics_and_scores_are_answered(client: TestClient) -> None:
    latest = client.get(f"/v1/jobs/{IMPORTED}/metrics").json()["data"]
    assert {"d_loss", "g_loss", "inception_score"} <= {metric["name"] for metric in latest}
    compared = client.get("/v1/compare", params={"job": IMPORTED}).json()
    final = json.loads((FIXTURES / "run" / "result.json").read_text())["final"]["scores"]["inception_score"]
    assert compared["rows"][0]["mean"] == pytest.approx(final)


def test_a_queued_job_of_it_is_the_configuration_that_was_asked_for(client: TestClient) -> None:
    queued = next(job for job in client.get("/v1/jobs").json()["data"] if job["name"] == "queued")
    assert queued["config"]["training"]["steps"] == 300
    assert (queued["variant"], queued["labels"]) == ("mhe_sn", {"team": "a"})
