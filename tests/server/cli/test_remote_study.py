"""A study at a service with a fake worker: jobs are found again, and results become run directories."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
import structlog
from fastapi.testclient import TestClient

from gan_mhe.comparison.compare import compare
from gan_mhe.errors import ConfigError
from gan_mhe.files import sha256_file
from gan_mhe.records.events import Evaluated, Finished, Progress, SampleGrid, Scalars, Started, effective
from gan_mhe.records.run_dir import RunDir
from gan_mhe.study.definition import Study, load, run_directory, scores
from server import startup
from server.cli import remote_study
from server.client import Client, Job
from server.settings import Settings
from tests.support.app import make_app
from tests.support.paths import FAKE_WORKER

URL = "http://localhost"
STUDY = """
name = "energies"
question = "Does the energy help?"
config = "digits_cnn"
seeds = [3, 1]
reference = "plain"

[set]
training.steps = 12
training.report_every_steps = 4
sampling.every_steps = 4
evaluation.every_steps = 6
checkpoint.every_steps = 6

[[arms]]
name = "plain"
variant = "none"

[[arms]]
name = "mhe-2"
variant = "mhe"
set = { constraints.mhe.lambda_hidden = 2.0, loss = "hinge", constraints.weight_decay = {} }
"""
CELLS = [("plain", 3), ("plain", 1), ("mhe-2", 3), ("mhe-2", 1)]  # as they are submitted
LABEL = "mhe + loss=hinge, constraints.mhe.lambda_hidden=2, constraints.weight_decay"
ONE_SEED, ENDLESS = ("[3, 1]", "[3]"), ("training.steps = 12", "training.steps = 1000000")

Write = Callable[..., Study]
Done = tuple[Study, Path]


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The settings of other tests, shared by the tests of this file."""
    return Settings(
        data_dir=tmp_path_factory.mktemp("studying") / "data",
        port=0,
        cpu_slots=2,
        cuda_slots_per_device=0,
        worker_command=(sys.executable, str(FAKE_WORKER)),
        grace_seconds=2,
        lease_ttl_seconds=5,
        program_retries=0,
        retry_backoff_seconds=0.05,
        disk_reserve_bytes=0,
    )


@pytest.fixture(scope="module")
def client(settings: Settings, patch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A client of a service that runs in this process; `remote_study` uses the same service for every URL."""
    patch.setenv("FAKE_WORKER_STEP_SECONDS", "0.001")
    # Otherwise its log would be part of the output.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    service = startup.open_service(settings)
    service.start()
    inside = TestClient(make_app(service), base_url=URL)

    def answer(request: httpx2.Request) -> httpx2.Response:
        response = inside.request(request.method, str(request.url), headers=request.headers, content=request.read())
        return httpx2.Response(response.status_code, headers=response.headers, content=response.content)

    def connected(url: str) -> Client:
        return Client(url, key="", transport=httpx2.MockTransport(answer))

    patch.setattr(remote_study, "Client", connected)
    with connected(URL) as opened:
        yield opened
    service.stop()
    structlog.reset_defaults()


def stop(client: Client, ids: list[str]) -> None:
    """Cancel endless jobs, which would keep their slots and outlive the service."""
    for id_ in ids:
        client.cancel(id_, mode="now")
        client.wait(id_, timeout=20)


def written(folder: Path, name: str, *replaced: tuple[str, str]) -> Study:
    text = STUDY
    for old, new in (("energies", name), *replaced):
        assert old in text
        text = text.replace(old, new)
    (folder / "study.toml").write_text(text)
    return load(folder / "study.toml")


@pytest.fixture
def write(tmp_path: Path, request: pytest.FixtureRequest) -> Write:
    """The study, named after this test, with parts of its text replaced."""
    return partial(written, tmp_path, request.node.name)


@pytest.fixture(scope="module")
def done(client: Client, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A study that the service has completed, and the directory of its results."""
    folder = tmp_path_factory.mktemp("done")
    study = written(folder, "energies")
    assert remote_study.run(URL, study, folder / "out") == 0
    return study, folder / "out"


def jobs(client: Client, study: Study) -> list[Job]:
    """The jobs of a study, oldest first."""
    return list(client.jobs(label=f"study:{study.name}"))[::-1]


def test_the_downloaded_run_directories_compare_like_the_services_jobs(client: Client, done: Done) -> None:
    study, root = done
    found = scores(study, root)
    assert [(score.variant, score.seed) for score in found] == [("plain", 3), ("mhe-2", 3), ("plain", 1), ("mhe-2", 1)]
    here = compare(found, reference="plain")
    there = client.compare([job.id for job in jobs(client, study)], reference="none")
    names = {"none": "plain", LABEL: "mhe-2"}
    assert {(row.variant, row.n, row.mean, row.best_mean, row.difference) for row in here.rows} == {
        (names[row.variant], row.n, row.mean, row.best_mean, row.difference) for row in there.rows
    }
    assert (here.real, here.fingerprint, here.evaluations) == (there.real, there.fingerprint, there.evaluations)


def test_the_downloaded_events_are_those_of_the_run(client: Client, done: Done, settings: Settings) -> None:
    study, root = done
    for job in jobs(client, study):
        mine = RunDir(run_directory(root, job.labels["arm"], job.seed or 0))
        original = RunDir(settings.job_dir(job.id) / "run")
        assert mine.read_config().digest() == original.read_config().digest()
        events, expected = list(effective(mine.read_events())), list(effective(original.read_events()))
        for kind in (Started, Scalars, Evaluated, SampleGrid, Finished):
            assert [e for e in events if isinstance(e, kind)] == [e for e in expected if isinstance(e, kind)]
        assert [e for e in events if isinstance(e, Progress)][-1] == [e for e in expected if isinstance(e, Progress)][
            -1
        ]


def test_the_result_of_a_run_is_reconstructed_from_the_service(client: Client, done: Done, settings: Settings) -> None:
    study, root = done
    for job in jobs(client, study):
        result = RunDir(run_directory(root, job.labels["arm"], job.seed or 0)).read_result()
        truth = RunDir(settings.job_dir(job.id) / "run").read_result()
        assert result is not None and truth is not None
        derived = ("train_seconds", "peak_memory_bytes", "curve")
        mine = {k: v for k, v in result.items() if k not in derived}
        assert mine == {k: v for k, v in truth.items() if k not in derived}
        assert result["train_seconds"] == pytest.approx(12 * 0.001)  # the run reports 1000 steps/s
        assert [point["step"] for point in result["curve"]] == [6, 12]
        assert result["curve"][-1] == truth["final"]


def test_the_training_time_is_the_sum_of_the_attempts_last_reports() -> None:
    def speed(step: int, rate: float) -> Progress:
        return Progress(step, 100, rate, rate, 0.0)

    events = [Started(0, 100, resumed=False), speed(10, 5.0), speed(20, 4.0), Started(15, 100, resumed=True)]
    assert remote_study._train_seconds([*events, speed(20, 2.0), speed(30, 3.0)]) == 20 / 4 + 15 / 3


def test_the_first_and_the_newest_grid_are_fetched(client: Client, done: Done) -> None:
    study, root = done
    for job in jobs(client, study):
        run_dir = RunDir(run_directory(root, job.labels["arm"], job.seed or 0))
        assert sorted(path.name for path in run_dir.samples.iterdir()) == ["step_00000000.png", "step_00000012.png"]
        assert sha256_file(run_dir.sample(12)) == client.samples(job.id)[-1].sha256


def test_each_arm_is_an_experiment_whose_matrix_has_the_arms_settings(client: Client, done: Done) -> None:
    made = jobs(client, done[0])
    plain, mhe = (client.experiment(str(job.experiment_id)) for job in made[::2])
    assert plain.matrix == {"variant": ["none"], "seed": [3, 1]}
    assert mhe.matrix == {
        **{"variant": ["mhe"], "seed": [3, 1], "loss": ["hinge"]},
        **{"constraints.mhe.lambda_hidden": [2.0], "constraints.weight_decay": [{}]},
    }
    assert [(job.labels["arm"], job.seed) for job in made] == CELLS


def test_running_the_command_again_changes_nothing(client: Client, done: Done) -> None:
    study, root = done
    made = [job.id for job in jobs(client, study)]
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert remote_study.run(URL, study, root) == 0
    assert [job.id for job in jobs(client, study)] == made
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_additional_seeds_are_submitted_and_finished_jobs_stay(client: Client, write: Write, tmp_path: Path) -> None:
    first = write(ONE_SEED)
    remote_study.run(URL, first, tmp_path / "out")
    made = {job.id for job in jobs(client, first)}
    assert remote_study.run(URL, write(("[3, 1]", "[5, 3]")), tmp_path / "out") == 0
    after = jobs(client, first)
    assert {job.seed for job in after if job.id not in made} == {5}
    assert len(after) == 4


def test_a_submission_whose_response_was_lost_is_not_repeated(
    client: Client, done: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, root = done
    made = jobs(client, study)
    monkeypatch.setattr(Client, "jobs", lambda self, **filters: iter(()))  # as before the first answer
    assert remote_study.run(URL, study, root) == 0
    monkeypatch.undo()
    assert jobs(client, study) == made


def test_cancelled_jobs_are_submitted_again(client: Client, write: Write) -> None:
    study = write(ENDLESS, ONE_SEED)

    def submitted() -> list[str]:
        return [job.id for arm in study.arms for job in remote_study._jobs(client, study, arm)]

    first = submitted()
    stop(client, first)
    again = submitted()
    assert set(again).isdisjoint(first)
    assert [job.id for job in jobs(client, study)] == [*first, *again]
    assert submitted() == again
    stop(client, again)


def test_a_failed_job_is_reported_recorded_and_retried(
    client: Client, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study, root = write(ONE_SEED), tmp_path / "out"
    monkeypatch.setenv("FAKE_WORKER_FAIL_AT", "8")
    assert remote_study.run(URL, study, root) == 1
    errors = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[:2] for line in errors] == [["plain seed 3", "failed"], ["mhe-2 seed 3", "failed"]]
    run_dir = RunDir(run_directory(root, "plain", 3))
    last = list(run_dir.read_events())[-1]
    assert isinstance(last, Finished) and (last.reason, run_dir.read_result()) == ("failed", None)
    assert "fake failure at step 8" in last.message
    monkeypatch.delenv("FAKE_WORKER_FAIL_AT")
    assert remote_study.run(URL, study, root) == 0
    assert len(jobs(client, study)) == 2


def test_a_diverged_job_is_recorded_as_diverged(
    client: Client, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_WORKER_DIVERGE_AT", "7")
    study, root = write(ONE_SEED), tmp_path / "out"
    assert remote_study.run(URL, study, root) == 1
    last = list(RunDir(root / "plain" / "seed_3").read_events())[-1]
    assert isinstance(last, Finished) and last.reason == "diverged"
    assert [(score.status, score.final) for score in scores(study, root)] == [("diverged", None)] * 2


def test_ctrl_c_leaves_the_jobs_running_and_downloads_what_exists(
    client: Client, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(self: Client, ids: Any, **_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "stream", interrupted)
    study, root = write(ENDLESS, ONE_SEED), tmp_path / "out"
    assert remote_study.run(URL, study, root) == 130
    assert capsys.readouterr().out.splitlines()[-1] == "the jobs continue; run the same command to follow them"
    left = jobs(client, study)
    assert len(left) == 2 and not any(job.terminal for job in left)
    assert [score.status for score in scores(study, root)] == ["unfinished"] * 2
    stop(client, [job.id for job in left])


def test_local_runs_are_not_overwritten(client: Client, write: Write, tmp_path: Path) -> None:
    study, run_dir = write(), RunDir(run_directory(tmp_path / "out", "plain", 1))
    run_dir.root.mkdir(parents=True)
    run_dir.environment.write_text("{}")
    with pytest.raises(ConfigError, match=r"plain/seed_1 is a local run; expected another --out"):
        remote_study.run(URL, study, tmp_path / "out")
    assert jobs(client, study) == [] and os.listdir(run_dir.root) == ["environment.json"]
