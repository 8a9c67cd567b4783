"""Many jobs queued at once are the jobs that would have been queued one by one, at the cost of a few statements."""

from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, text

from server.queue import queue, removal
from server.queue.new_jobs import NewJobs
from server.queue.queue import NewJob
from server.store import tables
from server.store.rows import JournalRow
from server.store.store import Store

_OWN = frozenset({"seq", "id", "job_id", "job_seq", "created_at", "queued_at", "rank", "time"})
CELLS = [{"seed": 0, "variant": "mhe"}, {"seed": 1, "training.steps": None}]


def new(number: int, **attributes: Any) -> NewJob:
    request = {"name": "ü", "seed": number, "none": None, "list": [1, 2.5, True]}
    own = {"request": request, "request_sha256": f"{number:064}", "seed": number, "total_steps": 3, **attributes}
    return NewJob(project="p", **own)


def jobs(count: int = 2, **attributes: Any) -> list[NewJob]:
    return [new(number, **attributes) for number in range(count)]


def together(store: Store, some: Sequence[NewJob]) -> list[str]:
    made = NewJobs(some)
    store.write(made.insert)
    return made.ids


def one_by_one(store: Store, some: Sequence[NewJob]) -> list[str]:
    return [store.write(lambda connection, each=each: queue.create(connection, each))["id"] for each in some]


def stored(store: Store) -> dict[str, list[list[tuple[str, Any]]]]:
    """What the database holds of all jobs but what says which job it is and when it was queued, and how it holds it."""

    def read(connection: Connection) -> Any:
        found = {}
        for table in (tables.jobs, tables.job_labels, tables.journal):
            order = ", ".join(column.name for column in table.primary_key)
            rows = connection.execute(text(f"SELECT * FROM {table.name} ORDER BY {order}")).mappings()
            found[table.name] = [[(key, value) for key, value in row.items() if key not in _OWN] for row in rows]
        return found

    return dict(store.read(read))


def test_they_are_rows_labels_and_history_as_of_jobs_queued_one_by_one(store: Store) -> None:
    some = [
        new(0, name="a name", labels={"b": "2", "a": "1"}, cell=CELLS[0], priority=3, wall_seconds_limit=1.5),
        new(1, labels={}, cell=CELLS[1], start_deadline=10**12, device="cuda", variant="mhe"),
        new(2, forked_from={"job_id": "job_1", "checkpoint_id": "c", "step": 1, "same_config": True}),
    ]
    one_by_one(store, some)
    expected = stored(store)
    store.write(lambda connection: connection.execute(tables.jobs.delete()))
    together(store, some)
    assert stored(store) == expected
    assert len(expected["jobs"]) == len(expected["journal"]) == 3


def test_their_times_and_their_place_in_the_queue_are_those_of_one_moment(store: Store) -> None:
    ids = together(store, jobs(priority=2))
    [first, second] = store.read(lambda connection: [queue.get(connection, each) for each in ids])
    assert first["created_at"] == first["queued_at"] == second["queued_at"]
    assert first["rank"] == second["rank"] == first["queued_at"] - 2 * queue.PRIORITY_STEP_MS
    assert first["seq"] < second["seq"]


def test_their_labels_are_theirs_after_the_newest_job_was_deleted(store: Store) -> None:
    [*_, newest] = one_by_one(store, jobs(labels={"old": "1"}))
    store.write(lambda connection: queue.cancel(connection, queue.get(connection, newest)))
    store.write(lambda connection: removal.remove(connection, queue.get(connection, newest)))
    [first, second] = together(store, [new(0, labels={"mine": "0"}), new(1, labels={"mine": "1"})])
    query = "SELECT id, value FROM job_labels JOIN jobs ON seq = job_seq WHERE key = 'mine' ORDER BY seq"
    labels = store.read(lambda connection: connection.execute(text(query)).all())
    assert [tuple(row) for row in labels] == [(first, "0"), (second, "1")]


def test_listeners_get_the_history_in_order_as_it_is_stored(store: Store) -> None:
    heard: list[JournalRow] = []
    one_by_one(store, jobs(1))
    store.subscribe(heard.extend)
    ids = together(store, jobs(3))
    query = tables.journal.select().where(tables.journal.c.job_id.in_(ids)).order_by(tables.journal.c.seq)
    rows = store.read(lambda connection: connection.execute(query).mappings().all())
    assert [row["job_id"] for row in heard] == ids
    assert [dict(row) for row in rows] == heard


def test_a_transaction_that_fails_queues_none(store: Store) -> None:
    made = NewJobs(jobs())

    def work(connection: Connection) -> None:
        made.insert(connection)
        raise RuntimeError("afterwards")

    with pytest.raises(RuntimeError, match="afterwards"):
        store.write(work)
    assert stored(store) == {"jobs": [], "job_labels": [], "journal": []}


def test_a_hundred_take_as_many_statements_as_two(store: Store) -> None:
    counted: list[str] = []

    def count(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        counted.append(statement)

    event.listen(Engine, "before_cursor_execute", count)
    together(store, jobs(2, labels={"a": "b"}))
    two = len(counted)
    together(store, jobs(100, labels={"a": "b"}))
    event.remove(Engine, "before_cursor_execute", count)
    assert len(counted) - two == two < 10


def test_none_at_all_are_no_error(store: Store) -> None:
    assert together(store, []) == []
