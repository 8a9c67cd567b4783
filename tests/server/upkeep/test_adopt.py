"""Directories of jobs without a row become the jobs that they were."""

import json
import os
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from gan_mhe.errors import StorageError
from gan_mhe.records.run_dir import RunDir
from server.errors import NotFound
from server.ids import new_id
from server.ingest import importer
from server.queue import queue
from server.settings import Settings
from server.store import artifacts, metric_history, tables
from server.store.store import Store
from server.upkeep.adopt import Adoption, adopt
from tests.support.kept import add_run, forget, hashes, job

FACTS = (
    "id",
    "project",
    "name",
    "labels",
    "origin",
    "priority",
    "state",
    "variant",
    "seed",
    "request",
    "result",
    "step",
)


def test_a_run_without_a_row_is_the_job_that_it_was(store: Store, settings: Settings) -> None:
    job_id = add_run(store, settings, name="mine", labels={"team": "a"}, priority=3)
    before, files = job(store, job_id), hashes(settings.job_dir(""))
    forget(store, job_id)
    assert adopt(store, settings) == [Adoption(job_id, "succeeded", None)]
    after = job(store, job_id)
    assert {name: after[name] for name in FACTS} == {name: before[name] for name in FACTS}
    assert hashes(settings.job_dir("")) == files


def test_its_metrics_scores_grids_and_checkpoints_come_back(store: Store, settings: Settings) -> None:
    def known() -> list[object]:
        samples = store.read(lambda connection: artifacts.samples(connection, job_id, after=-1, limit=100))
        checkpoints = store.read(lambda connection: artifacts.checkpoints(connection, job_id))
        scores = select(tables.evaluations.c.step, tables.evaluations.c.scores)
        rows = store.read(lambda connection: connection.execute(scores).all())
        latest = store.read(lambda connection: metric_history.latest(connection, queue.get(connection, job_id)))
        return [
            [(row["step"], row["sha256"]) for row in samples],
            [(row["step"], row["sha256"], row["status"]) for row in checkpoints],
            list(rows),
            latest,
        ]

    job_id = add_run(store, settings)
    before = known()
    assert all(before)
    forget(store, job_id)
    adopt(store, settings)
    assert known() == before


def test_the_next_attempt_has_a_new_number_and_a_new_epoch(store: Store, settings: Settings) -> None:
    job_id = add_run(store, settings)
    attempt = settings.job_dir(job_id) / "attempts" / "4"
    attempt.mkdir()
    (attempt / "spec.json").write_text('{"epoch": 6}')
    forget(store, job_id)
    adopt(store, settings)
    assert (job(store, job_id)["attempts"], job(store, job_id)["lease_epoch"]) == (4, 6)


@pytest.mark.parametrize("epoch", ["1e300", "99999999999999999999", '"x"'])
def test_an_attempt_without_a_possible_epoch_is_known_by_its_number(
    store: Store, settings: Settings, epoch: str
) -> None:
    job_id = add_run(store, settings)
    attempts = settings.job_dir(job_id) / "attempts"
    (attempts / ("9" * 30)).mkdir()
    (attempts / "3").mkdir()
    (attempts / "3" / "spec.json").write_text(f'{{"epoch": {epoch}}}')
    forget(store, job_id)
    adopt(store, settings)
    assert (job(store, job_id)["attempts"], job(store, job_id)["lease_epoch"]) == (3, 3)


def test_an_unfinished_run_becomes_a_paused_job(store: Store, settings: Settings) -> None:
    job_id = add_run(store, settings)
    RunDir(settings.job_dir(job_id) / "run").result.unlink()
    forget(store, job_id)
    assert adopt(store, settings) == [Adoption(job_id, "paused", None)]


def test_a_run_that_a_process_writes_stays_as_it_is(store: Store, settings: Settings) -> None:
    job_id = add_run(store, settings)
    forget(store, job_id)
    with RunDir(settings.job_dir(job_id) / "run").locked():
        [adoption] = adopt(store, settings)
    assert adoption.state is None and "in use by another process" in str(adoption.problem)


def test_a_directory_that_is_no_run_stays_and_the_others_are_adopted(store: Store, settings: Settings) -> None:
    empty, task = new_id("job"), new_id("task")
    for name in (empty, task):
        settings.job_dir(name).mkdir(parents=True)
    job_id = add_run(store, settings)
    forget(store, job_id)
    adopted = {each.job_id: each for each in adopt(store, settings)}
    assert adopted[job_id].state == "succeeded"
    assert adopted[empty].problem == "it has no run: nothing was trained yet"
    assert "can be drawn again" in str(adopted[task].problem)


RECORDS = (
    None,
    "{",
    "[]",
    '{"labels": 5}',
    "[" * 100_000,
    '{"name": "mine", "created_at": 1e300}',
    '{"name": "mine", "created_at": 999999999999999}',
    '{"name": "mine", "priority": 99999999999999999999}',
    '{"name": "mine", "project": "../other"}',
    '{"name": "mine", "forked_from": {"job_id": 1, "checkpoint_id": 2, "step": "x"}}',
    '{"name": "%s"}' % ("x" * 201),
)


@pytest.mark.parametrize("record", RECORDS)
def test_a_run_whose_record_is_missing_or_damaged_is_adopted_and_shown(
    store: Store, settings: Settings, client: TestClient, record: str | None
) -> None:
    job_id = add_run(store, settings, name="mine")
    path = settings.job_dir(job_id) / "job.json"
    path.unlink() if record is None else path.write_text(record)
    forget(store, job_id)
    assert adopt(store, settings) == [Adoption(job_id, "succeeded", None)]
    assert job(store, job_id)["project"] == "default" and len(job(store, job_id)["name"] or "") <= 200
    [shown] = client.get("/v1/jobs").json()["data"]
    assert shown["id"] == job_id


def test_text_that_no_column_can_hold_stops_no_adoption(store: Store, settings: Settings) -> None:
    job_id = add_run(store, settings)
    (settings.job_dir(job_id) / "job.json").write_text('{"name": "\\ud800"}')
    forget(store, job_id)
    assert adopt(store, settings) == [Adoption(job_id, "succeeded", None)]
    assert job(store, job_id)["name"] == "?"


def test_the_experiment_of_a_job_comes_back_with_it_only_if_it_is_still_there(store: Store, settings: Settings) -> None:
    values = {"id": "exp_1", "project": "default", "labels": {}, "base": {}, "matrix": {}, "created_at": 0}
    store.write(lambda connection: connection.execute(tables.experiments.insert().values(values)))
    kept = add_run(store, settings, experiment_id="exp_1", cell={"seed": 1})
    forget(store, kept)
    adopt(store, settings)
    assert job(store, kept)["experiment_id"] == "exp_1"
    forget(store, kept)
    store.write(lambda connection: connection.execute(tables.experiments.delete()))
    adopt(store, settings)
    assert (job(store, kept)["experiment_id"], job(store, kept)["cell"]) == (None, {"seed": 1})


def test_a_fork_is_still_known_as_one(store: Store, settings: Settings) -> None:
    origin = {"job_id": "job_a", "checkpoint_id": "ckpt_b", "step": 2, "same_config": False, "one_config": False}
    job_id = add_run(store, settings, origin="forked", forked_from=origin)
    forget(store, job_id)
    adopt(store, settings)
    assert job(store, job_id)["forked_from"] == origin


def test_a_known_directory_or_none_is_refused_by_its_name(store: Store, settings: Settings) -> None:
    job_id = add_run(store, settings)
    for name in (job_id, new_id("job"), "../x"):
        with pytest.raises(NotFound, match="not a directory of jobs/ that the database does not know"):
            adopt(store, settings, [name])


def test_a_changed_name_is_in_the_record(store: Store, settings: Settings, client: TestClient) -> None:
    job_id = add_run(store, settings, name="old")
    assert client.patch(f"/v1/jobs/{job_id}", json={"name": "new", "labels": {"a": "b"}}).status_code == 200
    record = json.loads((settings.job_dir(job_id) / "job.json").read_text())
    assert (record["id"], record["name"], record["labels"]) == (job_id, "new", {"a": "b"})


IMPOSSIBLE: list[dict[str, Any]] = [
    {"created_at": 10**30},
    {"created_at": -(10**15)},
    {"priority": 10**30},
    {"priority": 99},
    {"wall_seconds_limit": -5},
    {"project": "../x"},
    {"origin": "elsewhere"},
    {"labels": {"a": "b", "\x00": "c"}},
    {"experiment_id": "\ud800"},
    {"forked_from": {"job_id": 5, "checkpoint_id": [], "step": "x", "same_config": 3, "one_config": None}},
    {"forked_from": {"job_id": "../../elsewhere", "checkpoint_id": "ckpt_a", "step": 2}},
]


@pytest.mark.parametrize("values", IMPOSSIBLE)
def test_what_no_job_can_have_is_not_taken_from_the_record(
    store: Store, settings: Settings, client: Any, values: dict[str, Any]
) -> None:
    job_id, other = add_run(store, settings, name="mine"), add_run(store, settings)
    path = settings.job_dir(job_id) / "job.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    for each in (job_id, other):
        forget(store, each)
    assert [each.state for each in adopt(store, settings)] == ["succeeded", "succeeded"]
    after = job(store, job_id)
    assert after["name"] == "mine" and all(after[name] != value for name, value in values.items())
    assert client.get("/v1/jobs").status_code == client.get(f"/v1/jobs/{job_id}").status_code == 200


def test_a_name_that_a_terminal_obeys_is_harmless_afterwards(store: Store, settings: Settings) -> None:
    job_id = add_run(store, settings)
    path = settings.job_dir(job_id) / "job.json"
    path.write_text(json.dumps({"name": "a\x1b[2Jb", "labels": {"team": "c\nd"}}))
    forget(store, job_id)
    adopt(store, settings)
    assert (job(store, job_id)["name"], job(store, job_id)["labels"]) == (r"a\x1b[2Jb", {"team": r"c\nd"})


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["job.json", "console.log", "import.json", "attempts/1/spec.json"])
def test_a_pipe_among_the_files_of_a_job_keeps_nobody_waiting(store: Store, settings: Settings, name: str) -> None:
    job_id = add_run(store, settings)
    path = settings.job_dir(job_id) / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    forget(store, job_id)
    assert [each.state for each in adopt(store, settings)] == ["succeeded"]
    importer.recover(store, settings)


def test_a_directory_that_cannot_be_written_stays_and_the_others_are_adopted(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, other = sorted((add_run(store, settings), add_run(store, settings)))
    mark = importer.mark

    def refuse(rules: Settings, job_id: str, name: str) -> None:
        if job_id == stuck:
            raise StorageError("cannot write: Read-only file system")
        mark(rules, job_id, name)

    for job_id in (stuck, other):
        forget(store, job_id)
    monkeypatch.setattr(importer, "mark", refuse)
    assert adopt(store, settings) == [
        Adoption(stuck, None, "cannot write: Read-only file system"),
        Adoption(other, "succeeded", None),
    ]


def test_of_two_commands_one_adopts_and_the_other_says_so(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = add_run(store, settings)
    forget(store, job_id)
    read_run = importer.read_run

    def read_late(path: Any) -> Any:
        """Let the other command finish between this one's look and its transaction."""
        monkeypatch.setattr(importer, "read_run", read_run)
        monkeypatch.setattr(importer, "lock_run", lambda stack, source: None)
        assert adopt(store, settings) == [Adoption(job_id, "succeeded", None)]
        return read_run(path)

    monkeypatch.setattr(importer, "read_run", read_late)
    [second] = adopt(store, settings)
    assert second.problem == "another command has made it a job meanwhile"
    assert not (settings.job_dir(job_id) / "import.json").exists()


def test_a_plain_file_with_the_name_of_a_job_is_no_directory_of_one(store: Store, settings: Settings) -> None:
    add_run(store, settings)
    settings.job_dir(new_id("job")).write_text("x")
    os.mkfifo(settings.job_dir(new_id("job")))
    assert adopt(store, settings) == []
