"""The states of a job: every pair of them is tried on a real row, and every legal move is written down here again."""

import itertools
from typing import Any

import pytest

from server.errors import InvalidTransition, StaleWriter
from server.queue import queue
from server.queue.states import MOVES, TERMINAL, Reason, State, legal
from server.store import journal
from server.store.store import Store
from tests.support.looped import looped

LEGAL = {
    "queued": "starting cancelled paused failed",
    "starting": "running succeeded failed pausing paused recovering cancelling",
    "running": "succeeded failed pausing paused recovering cancelling",
    "pausing": "paused succeeded failed recovering cancelling",
    "paused": "queued cancelled",
    "recovering": "queued succeeded failed pausing paused cancelling cancelled",
    "cancelling": "cancelled succeeded failed",
    "succeeded": "",
    "failed": "queued",
    "cancelled": "",
}
PAIRS = list(itertools.product(State, State))


@pytest.fixture(scope="module")
def one_world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One store for all pairs."""
    store = Store(tmp_path_factory.mktemp("pairs") / "pairs.sqlite3")
    store.migrate()
    yield store
    store.close()


def submit(store: Any, state: State) -> str:
    new = queue.NewJob(project="p", request={}, request_sha256="0")
    return str(store.write(lambda connection: queue.create(connection, new, state))["id"])


def rows(store: Any, job_id: str) -> list[Any]:
    return list(store.read(lambda connection: journal.of_job(connection, job_id, after=0, limit=100)))


@looped(("before", "after"), PAIRS)
def test_a_job_makes_the_legal_moves_and_no_others(one_world: Any, before: State, after: State) -> None:
    job_id = submit(one_world, before)

    def move(connection: Any) -> Any:
        return queue.move(connection, queue.get(connection, job_id), after, reason=Reason.USER, message="why")

    if after in LEGAL[before].split():
        moved = one_world.write(move)
        assert (moved["state"], moved["reason"], moved["message"], moved["revision"]) == (after, "user", "why", 2)
        assert [row["data"]["state"] for row in rows(one_world, job_id)] == [before, after]
    else:
        unmoved = one_world.read(lambda connection: queue.get(connection, job_id))
        with pytest.raises(InvalidTransition, match=f"is {before}; it cannot become {after}"):
            one_world.write(move)
        assert one_world.read(lambda connection: queue.get(connection, job_id)) == unmoved
        assert len(rows(one_world, job_id)) == 1


def test_the_table_has_a_row_for_every_state() -> None:
    assert set(MOVES) == set(State) == set(map(State, LEGAL))
    assert all(legal(before, after) == (after in LEGAL[before].split()) for before, after in PAIRS)


def test_only_a_retry_leaves_a_terminal_state() -> None:
    assert {(before, after) for before in TERMINAL for after in MOVES[before]} == {(State.FAILED, State.QUEUED)}


def test_every_state_can_reach_a_terminal_one() -> None:
    reached = set(TERMINAL)
    while grown := {state for state in State if MOVES[state] & reached} - reached:
        reached |= grown
    assert reached == set(State)


class TestCompareAndSet:
    def test_a_move_from_a_row_read_before_another_move_is_refused(self, one_world: Any) -> None:
        job_id = submit(one_world, State.QUEUED)
        stale = one_world.read(lambda connection: queue.get(connection, job_id))
        one_world.write(lambda connection: queue.move(connection, stale, State.PAUSED))
        with pytest.raises(InvalidTransition, match="no longer queued; it cannot become starting"):
            one_world.write(lambda connection: queue.move(connection, stale, State.STARTING))

    def test_a_move_for_an_attempt_that_was_replaced_is_refused(self, one_world: Any) -> None:
        job_id = submit(one_world, State.RUNNING)
        job = one_world.read(lambda connection: queue.get(connection, job_id))
        with pytest.raises(StaleWriter, match="lease epoch 0; the writer's is 1"):
            one_world.write(lambda connection: queue.move(connection, job, State.SUCCEEDED, epoch=1))

    def test_a_row_of_an_older_epoch_moves_nothing(self, one_world: Any) -> None:
        job_id = submit(one_world, State.QUEUED)
        old = one_world.read(lambda connection: queue.get(connection, job_id))
        for state in (State.STARTING, State.RECOVERING, State.QUEUED):
            one_world.write(
                lambda connection, to=state: queue.move(connection, queue.get(connection, job_id), to, lease_epoch=1)
            )
        with pytest.raises(InvalidTransition):
            one_world.write(lambda connection: queue.move(connection, old, State.STARTING))


class TestTimes:
    def test_a_terminal_job_has_an_end_and_no_wish_to_stop(self, world: Any) -> None:
        job_id = world.submit()
        world.runs(job_id)
        world.does(queue.cancel, job_id)
        world.passes(3)
        assert world.ends(job_id, cause="stop") is State.CANCELLED
        job = world.job(job_id)
        assert job["finished_at"] == round(world.now * 1000)
        assert (job["stop_mode"], job["stop_at"], job["eta_seconds"]) == (None, None, None)

    def test_the_first_start_is_kept_over_a_recovery(self, world: Any) -> None:
        job_id = world.submit()
        world.runs(job_id)
        started = world.job(job_id)["started_at"]
        world.passes(10)
        world.ends(job_id, exit_code=None, signal=9)
        world.passes(1)
        world.runs(job_id)
        assert world.job(job_id)["started_at"] == started

    def test_a_retried_job_has_not_ended(self, world: Any) -> None:
        job_id = world.submit(state=State.FAILED)
        assert world.does(queue.retry, job_id)["finished_at"] is None
