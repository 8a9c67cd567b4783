"""A study at a service whose worker is a fake: its jobs are found again, and what comes back is run directories."""

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
from gan_mhe.study.definition import Study, cell_directory, load, scores
from server.cli import remote_study
from server.client import Client, Job
from server.service import Service
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
MATRIX_LABEL = "constraints.mhe.lambda_hidden=2.0, constraints.weight_decay={}, loss=hinge"
ONE_SEED, ENDLESS = ("[3, 1]", "[3]"), ("training.steps = 12", "training.steps = 1000000")

Write = Callable[..., Study]
Done = tuple[Study, Path]


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """As for other tests, but for the tests of this file together."""
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
    """A client of a service that runs in this process; `studying` has it too, whatever URL it is given."""
    patch.setenv("GAN_MHE_FAKE_STEP_SECONDS", "0.001")
    # Its log would be among what is printed.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    service = Service.open(settings)
    service.start()
    inside = TestClient(make_app(service), base_url=URL)

    def answer(request: httpx2.Request) -> httpx2.Response:
        said = inside.request(request.method, str(request.url), headers=request.headers, content=request.read())
        return httpx2.Response(said.status_code, headers=said.headers, content=said.content)

    def connected(url: str) -> Client:
        return Client(url, key="", transport=httpx2.MockTransport(answer))

    patch.setattr(remote_study, "Client", connected)
    with connected(URL) as opened:
        yield opened
    service.stop()
    structlog.reset_defaults()


def stop(client: Client, ids: list[str]) -> None:
    """Endless jobs keep their slots from the other tests, and would outlive the service, as they are meant to."""
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
    """The study under this test's name, with parts of its text replaced."""
    return partial(written, tmp_path, request.node.name)


@pytest.fixture(scope="module")
def done(client: Client, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A study that the service has done, and where it was fetched to."""
    folder = tmp_path_factory.mktemp("done")
    study = written(folder, "energies")
    assert remote_study.run(URL, study, folder / "out") == 0
    return study, folder / "out"


def jobs(client: Client, study: Study) -> list[Job]:
    """The oldest first."""
    return list(client.jobs(label=f"study:{study.name}"))[::-1]


def test_a_study_comes_back_as_run_directories_that_compare_as_those_of_the_service(client: Client, done: Done) -> None:
    study, root = done
    found = scores(study, root)
    assert [(score.variant, score.seed) for score in found] == [("plain", 3), ("mhe-2", 3), ("plain", 1), ("mhe-2", 1)]
    here = compare(found, reference="plain")
    there = client.compare([job.id for job in jobs(client, study)], reference="none")
    names = {"none": "plain", f"mhe [{MATRIX_LABEL}]": "mhe-2"}
    assert {(row.variant, row.n, row.mean, row.best_mean, row.difference) for row in here.rows} == {
        (names[row.variant], row.n, row.mean, row.best_mean, row.difference) for row in there.rows
    }
    assert (here.real, here.fingerprint, here.evaluations) == (there.real, there.fingerprint, there.evaluations)


def test_what_a_run_said_is_in_its_directory_again(client: Client, done: Done, settings: Settings) -> None:
    study, root = done
    for job in jobs(client, study):
        mine = RunDir(cell_directory(root, job.labels["arm"], job.seed or 0))
        original = RunDir(settings.job_dir(job.id) / "run")
        assert mine.read_config().digest() == original.read_config().digest()
        said, meant = list(effective(mine.read_events())), list(effective(original.read_events()))
        for kind in (Started, Scalars, Evaluated, SampleGrid, Finished):
            assert [e for e in said if isinstance(e, kind)] == [e for e in meant if isinstance(e, kind)]
        assert [e for e in said if isinstance(e, Progress)][-1] == [e for e in meant if isinstance(e, Progress)][-1]


def test_the_result_of_a_run_is_made_again_from_what_the_service_tells(
    client: Client, done: Done, settings: Settings
) -> None:
    study, root = done
    for job in jobs(client, study):
        result = RunDir(cell_directory(root, job.labels["arm"], job.seed or 0)).read_result()
        truth = RunDir(settings.job_dir(job.id) / "run").read_result()
        assert result is not None and truth is not None
        about = ("train_seconds", "peak_memory_bytes", "curve")
        assert {k: v for k, v in result.items() if k not in about} == {k: v for k, v in truth.items() if k not in about}
        assert result["train_seconds"] == pytest.approx(12 * 0.001)  # 1000 steps a second, as the run says
        assert [point["step"] for point in result["curve"]] == [6, 12]
        assert result["curve"][-1] == truth["final"]


def test_the_training_time_is_that_of_each_attempts_last_report() -> None:
    def speed(step: int, rate: float) -> Progress:
        return Progress(step, 100, rate, rate, 0.0)

    said = [Started(0, 100, resumed=False), speed(10, 5.0), speed(20, 4.0), Started(15, 100, resumed=True)]
    assert remote_study._train_seconds([*said, speed(20, 2.0), speed(30, 3.0)]) == 20 / 4 + 15 / 3


def test_the_first_and_the_newest_grid_are_fetched(client: Client, done: Done) -> None:
    study, root = done
    for job in jobs(client, study):
        place = RunDir(cell_directory(root, job.labels["arm"], job.seed or 0))
        assert sorted(path.name for path in place.samples.iterdir()) == ["step_00000000.png", "step_00000012.png"]
        assert sha256_file(place.sample(12)) == client.samples(job.id)[-1].sha256


def test_an_arm_is_an_experiment_whose_matrix_names_what_is_its_own(client: Client, done: Done) -> None:
    made = jobs(client, done[0])
    plain, mhe = (client.experiment(str(job.experiment_id)) for job in made[::2])
    assert plain.matrix == {"variant": ["none"], "seed": [3, 1]}
    assert mhe.matrix == {
        **{"variant": ["mhe"], "seed": [3, 1], "loss": ["hinge"]},
        **{"constraints.mhe.lambda_hidden": [2.0], "constraints.weight_decay": [{}]},
    }
    assert [(job.labels["arm"], job.seed) for job in made] == CELLS


def test_the_same_command_again_makes_no_new_jobs_and_the_same_directories(client: Client, done: Done) -> None:
    study, root = done
    made = [job.id for job in jobs(client, study)]
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert remote_study.run(URL, study, root) == 0
    assert [job.id for job in jobs(client, study)] == made
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_more_seeds_are_more_jobs_and_the_finished_ones_stay(client: Client, write: Write, tmp_path: Path) -> None:
    first = write(ONE_SEED)
    remote_study.run(URL, first, tmp_path / "out")
    made = {job.id for job in jobs(client, first)}
    assert remote_study.run(URL, write(("[3, 1]", "[5, 3]")), tmp_path / "out") == 0
    after = jobs(client, first)
    assert {job.seed for job in after if job.id not in made} == {5}
    assert len(after) == 4


def test_a_submission_whose_answer_was_lost_is_not_made_twice(
    client: Client, done: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, root = done
    made = jobs(client, study)
    monkeypatch.setattr(Client, "jobs", lambda self, **filters: iter(()))  # as before the first answer
    assert remote_study.run(URL, study, root) == 0
    monkeypatch.undo()
    assert jobs(client, study) == made


def test_cancelled_jobs_are_submitted_anew(client: Client, write: Write) -> None:
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


def test_a_failed_job_ends_with_exit_code_1_is_told_in_its_directory_and_tried_again(
    client: Client, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study, root = write(ONE_SEED), tmp_path / "out"
    monkeypatch.setenv("GAN_MHE_FAKE_FAIL_AT", "8")
    assert remote_study.run(URL, study, root) == 1
    errors = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[:2] for line in errors] == [["plain seed 3", "failed"], ["mhe-2 seed 3", "failed"]]
    place = RunDir(cell_directory(root, "plain", 3))
    last = list(place.read_events())[-1]
    assert isinstance(last, Finished) and (last.reason, place.read_result()) == ("failed", None)
    assert "fake failure at step 8" in last.message
    monkeypatch.delenv("GAN_MHE_FAKE_FAIL_AT")
    assert remote_study.run(URL, study, root) == 0
    assert len(jobs(client, study)) == 2


def test_a_diverged_job_says_so(client: Client, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAN_MHE_FAKE_DIVERGE_AT", "7")
    assert remote_study.run(URL, write(ONE_SEED), tmp_path / "out") == 1
    last = list(RunDir(tmp_path / "out" / "plain" / "seed_3").read_events())[-1]
    assert isinstance(last, Finished) and last.reason == "diverged"


def test_ctrl_c_leaves_the_jobs_running_and_fetches_what_there_is(
    client: Client, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(self: Client, ids: Any, **_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "stream", interrupted)
    study, root = write(ENDLESS, ONE_SEED), tmp_path / "out"
    assert remote_study.run(URL, study, root) == 130
    assert capsys.readouterr().out.splitlines()[-1] == "the jobs go on; the same command looks again"
    left = jobs(client, study)
    assert len(left) == 2 and not any(job.terminal for job in left)
    assert [score.status for score in scores(study, root)] == ["unfinished"] * 2
    stop(client, [job.id for job in left])


def test_runs_that_were_made_here_are_not_written_over(client: Client, write: Write, tmp_path: Path) -> None:
    study, place = write(), RunDir(cell_directory(tmp_path / "out", "plain", 1))
    place.root.mkdir(parents=True)
    place.environment.write_text("{}")
    with pytest.raises(ConfigError, match=r"plain/seed_1 is a run that was made here; expected another --out"):
        remote_study.run(URL, study, tmp_path / "out")
    assert jobs(client, study) == [] and os.listdir(place.root) == ["environment.json"]
