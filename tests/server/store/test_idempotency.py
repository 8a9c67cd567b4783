"""Requests with a key are done once, whatever happens around them."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import Connection, func, insert, select

from server.errors import IdempotencyMismatch, QueueFull
from server.store import idempotency, tables
from server.store.idempotency import Answer, Call
from server.store.store import Store

CALL = Call("anonymous", "POST", "/v1/jobs", "key-1", "a" * 64)


class Work:
    """Adds one row to a table each time it is done."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, connection: Connection) -> Answer:
        self.times += 1
        connection.execute(insert(tables.metric_names).values(name=f"row {self.times}"))
        return Answer(201, {"row": self.times}, {"Location": f"/rows/{self.times}"})


def rows(store: Store) -> int:
    query = select(func.count()).select_from(tables.metric_names)
    return store.read(lambda connection: connection.execute(query).scalar_one())


def test_a_replay_has_the_same_answer_and_does_nothing(store: Store) -> None:
    work = Work()
    first = idempotency.run(store, CALL, work)
    second = idempotency.run(store, CALL, work)
    assert not first.replayed
    assert second == replace(first, replayed=True)
    assert rows(store) == 1


def test_without_a_key_the_work_is_done_each_time(store: Store) -> None:
    work = Work()
    for _ in range(2):
        assert not idempotency.run(store, replace(CALL, key=None), work).replayed
    assert rows(store) == 2


def test_the_same_key_with_another_body_is_refused(store: Store) -> None:
    idempotency.run(store, CALL, Work())
    with pytest.raises(IdempotencyMismatch, match="'key-1'"):
        idempotency.run(store, replace(CALL, body_sha256="b" * 64), Work())
    assert rows(store) == 1


@pytest.mark.parametrize(
    "other", [replace(CALL, owner="k2"), replace(CALL, method="PUT"), replace(CALL, path="/v1/x")], ids=repr
)
def test_a_key_counts_for_one_owner_method_and_path(store: Store, other: Call) -> None:
    work = Work()
    idempotency.run(store, CALL, work)
    assert not idempotency.run(store, other, work).replayed
    assert rows(store) == 2


def test_work_that_fails_is_undone_and_may_be_sent_again(store: Store) -> None:
    work = Work()

    def full(connection: Connection) -> Answer:
        work(connection)
        raise QueueFull("full")

    with pytest.raises(QueueFull):
        idempotency.run(store, CALL, full)
    assert rows(store) == 0
    assert not idempotency.run(store, CALL, work).replayed


def test_two_hundred_concurrent_requests_with_one_key_do_the_work_once(store: Store) -> None:
    work, barrier = Work(), threading.Barrier(20)

    def send(number: int) -> Answer:
        if number < 20:
            barrier.wait()
        return idempotency.run(store, CALL, work)

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(send, range(200)))
    assert work.times == 1
    assert [answer.replayed for answer in answers].count(False) == 1
    assert {answer.body["row"] for answer in answers} == {1}


def test_a_key_is_forgotten_after_a_day(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work()
    idempotency.run(store, CALL, work)
    later = idempotency.now_ms() + idempotency.KEPT_MS + 1000
    monkeypatch.setattr(idempotency, "now_ms", lambda: later)
    assert idempotency.kept(store, CALL) is None
    assert not idempotency.run(store, CALL, work).replayed
    kept = select(func.count()).select_from(tables.idempotency_keys)
    assert store.read(lambda connection: connection.execute(kept).scalar_one()) == 1


def test_an_answer_can_be_asked_for_before_the_work_is_prepared(store: Store) -> None:
    assert idempotency.kept(store, CALL) is None
    answer = idempotency.run(store, CALL, Work())
    assert idempotency.kept(store, CALL) == replace(answer, replayed=True)
    assert idempotency.kept(store, replace(CALL, key=None)) is None
    with pytest.raises(IdempotencyMismatch):
        idempotency.kept(store, replace(CALL, body_sha256="b" * 64))
