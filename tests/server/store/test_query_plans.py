"""No frequent query reads a whole big table: the plans of what the code really executes.

The statements are those that the driver gets while the functions run, so that none is missed and none is out of date.
SQLite keeps no statistics of this database, hence its plans do not depend on how many rows there are.
"""

import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Connection, Engine, event

from server.executors.base import Slot
from server.ingest import retention
from server.queue import claims, experiments, job_list, queue
from server.queue.job_list import JobFilter
from server.service import Service
from server.settings import Settings
from server.store import journal
from server.store.store import Store
from tests.support.kept import add_run
from tests.support.looped import looped

BIG = frozenset({"jobs", "job_labels", "attempts", "journal", "samples", "checkpoints", "blobs"}) | frozenset(
    {"metric_points", "metric_blocks", "metric_summary", "evaluations", "idempotency_keys"}
)
SORTED = "USE TEMP B-TREE FOR ORDER BY"
COUNT_ALL = "SELECT jobs.kind, jobs.state, count(*) AS count_1 \nFROM jobs GROUP BY jobs.kind, jobs.state"
JUSTIFIED = {COUNT_ALL: "the counts of all jobs for Prometheus, from an index alone, once per scrape"}
CPU, TASK = Slot("cpu0", "cpu", "train"), Slot("task0", "cpu", "task")

FILTERS = [
    JobFilter(),
    JobFilter(states=["queued"]),
    JobFilter(states=["queued", "running"]),
    JobFilter(variants=["mhe"]),
    JobFilter(labels=[("a", "b")]),
    JobFilter(labels=[("a", "b"), ("c", "d")], states=["queued"], variants=["mhe"]),
    JobFilter(name="part"),
    JobFilter(created_after=1, created_before=9),
    JobFilter(experiment_id="exp_1"),
    JobFilter(experiment_id="exp_1", states=["queued"], labels=[("a", "b")]),
]


class Seen:
    """The statements that were executed, with their parameters, and how the database plans them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._statements: list[tuple[str, Any]] = []

    def keep(self, _connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        if statement.startswith(("SELECT", "INSERT", "UPDATE", "DELETE")):
            self._statements.append((statement, parameters[0] if many else parameters))

    def plans(self) -> dict[str, list[str]]:
        """The steps of each statement's plan."""
        assert self._statements
        connection = sqlite3.connect(self._settings.database)
        connection.create_function("fold_case", 1, str)
        found = {
            statement: [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
            for statement, parameters in self._statements
        }
        connection.close()
        return found

    def scans(self) -> list[tuple[str, str]]:
        """The steps that read a whole big table or index, each with its statement."""
        return [
            (step, statement)
            for statement, steps in self.plans().items()
            for step in steps
            if step.startswith("SCAN") and step.split()[1] in BIG and statement not in JUSTIFIED
        ]


@pytest.fixture
def seen(settings: Settings) -> Iterator[Seen]:
    """What was executed since the fixtures that a test names before this one were made."""
    found = Seen(settings)
    event.listen(Engine, "before_cursor_execute", found.keep)
    yield found
    event.remove(Engine, "before_cursor_execute", found.keep)


@looped("order", ["asc", "desc"])
def test_every_list_of_jobs_ends_with_its_page(seen: Seen, store: Store, order: job_list.Order) -> None:
    for which in FILTERS:
        for after in (None, 5):
            read = {"order": order, "after": after, "limit": 3}
            store.read(lambda connection, which=which, read=read: job_list.page(connection, "p", which, **read))
    assert seen.scans() == []
    assert [statement for statement, steps in seen.plans().items() if SORTED in steps] == []


def test_what_is_shown_beside_jobs_is_looked_up(client: TestClient, service: Service, seen: Seen) -> None:
    job_id = add_run(service.store, service.settings, labels={"a": "b"})
    assert client.get("/v1/jobs").json()["data"][0]["newest_sample"]
    client.patch(f"/v1/jobs/{job_id}", json={"name": "x", "labels": {"c": "d"}}).raise_for_status()
    client.get(f"/v1/compare?job={job_id}").raise_for_status()
    client.delete(f"/v1/jobs/{job_id}").raise_for_status()
    assert seen.scans() == []


def test_experiments_are_created_counted_shown_and_cancelled_by_indexes(client: TestClient, seen: Seen) -> None:
    body = {"preset": "debug_cpu", "matrix": {"seed": [0, 1]}, "labels": {"a": "b"}}
    key = {"Idempotency-Key": "one"}
    made = client.post("/v1/experiments", json=body, headers=key).json()
    client.get("/v1/experiments").raise_for_status()
    client.get(f"/v1/experiments/{made['id']}").raise_for_status()
    client.post(f"/v1/experiments/{made['id']}/cancel", headers=key).raise_for_status()
    assert seen.scans() == []


def test_the_histories_of_a_run_are_read_by_indexes(client: TestClient, service: Service, seen: Seen) -> None:
    job = f"/v1/jobs/{add_run(service.store, service.settings)}"
    history = f"{job}/metrics/history?name=d_loss&max_points=2"
    for path in ("metrics", "samples", "samples/latest", "checkpoints", "events", "logs"):
        client.get(f"{job}/{path}").raise_for_status()
    for options in ("", "&from_step=1&to_step=1000", "&attempt=all", "&mode=raw", "&mode=raw&after=1"):
        client.get(history + options).raise_for_status()
    [*_, checkpoint] = client.get(f"{job}/checkpoints").json()["data"]
    client.post(checkpoint["links"]["samples"], json={"n": 4}).raise_for_status()
    assert seen.scans() == []


def test_streams_sort_numbers_and_not_rows(seen: Seen, store: Store) -> None:
    store.read(lambda connection: journal.of_jobs(connection, ["a", "b"], after=1, limit=3))
    store.read(lambda connection: journal.tail(connection, ["a", "b"], limit=3))
    store.read(lambda connection: journal.tail(connection, ["a", "b"], before=9, limit=3))
    assert seen.scans() == []
    for steps in seen.plans().values():
        assert any(step.startswith("SEARCH journal USING COVERING INDEX ix_journal_job_id_seq") for step in steps)


def test_monitoring_and_retention_read_by_indexes(client: TestClient, service: Service, seen: Seen) -> None:
    add_run(service.store, service.settings)
    client.get("/metrics").raise_for_status()
    client.get("/v1/system").raise_for_status()
    client.get("/v1/system/slots").raise_for_status()
    rules = {"samples_per_job": 2, "checkpoint_days": 1e-9}
    retention.apply(service.store, service.settings.model_copy(update=rules))
    assert seen.scans() == []


def test_each_exception_is_still_one(client: TestClient, seen: Seen) -> None:
    client.get("/metrics").raise_for_status()
    assert seen.plans().keys() >= JUSTIFIED.keys()


class Steps:
    """Counts the steps of SQLite's machine, which depend on the plan and the rows, and not on the processor."""

    def __init__(self) -> None:
        self.taken = 0

    def count(self, _connection: Any, cursor: Any, *_: Any) -> None:
        cursor.connection.set_progress_handler(self._step, 1)

    def _step(self) -> int:
        self.taken += 1
        return 0


def steps_of(store: Store, work: Callable[[Connection], object]) -> int:
    counted = Steps()
    event.listen(Engine, "before_cursor_execute", counted.count)
    store.read(work)
    event.remove(Engine, "before_cursor_execute", counted.count)
    return counted.taken


def add_waiting(store: Store, count: int, **attributes: Any) -> None:
    new = queue.NewJob(project="p", request={}, request_sha256="0", device="cuda", **attributes)

    def work(connection: Connection) -> None:
        for _ in range(count):
            queue.create(connection, new)

    store.write(work)


@looped(
    "work",
    [
        lambda connection: claims.any_queued(connection, due=True),
        lambda connection: claims.wanted(connection, [CPU, TASK]),
        queue.overdue,
        queue.live_attempts,
        lambda connection: job_list.page(connection, "p", JobFilter(), order="desc", after=None, limit=2),
    ],
)
def test_what_is_asked_all_the_time_takes_no_more_steps_with_more_waiting_jobs(
    store: Store, work: Callable[[Connection], object]
) -> None:
    add_waiting(store, 10)
    few = steps_of(store, work)
    add_waiting(store, 50)
    assert steps_of(store, work) <= few + 5


@looped(
    "work",
    [
        lambda connection: queue.waiting(connection, "p"),
        lambda connection: experiments.counts(connection, ["exp_1"]),
        lambda connection: job_list.page(
            connection, "p", JobFilter(states=["running"], variants=["x"]), order="desc", after=None, limit=2
        ),
    ],
)
def test_what_counts_or_filters_does_so_in_an_index(
    seen: Seen, store: Store, work: Callable[[Connection], object]
) -> None:
    store.read(work)
    [*_, steps] = seen.plans().values()
    assert any(" ix_jobs_" in step for step in steps), steps
