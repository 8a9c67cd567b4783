"""Users, workers, crashes and restarts in any order: what must hold after every step of a job's life."""

import itertools
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule, run_state_machine_as_test
from sqlalchemy import select

from server.errors import InvalidTransition
from server.executors.base import Slot
from server.queue import claims, queue, removal
from server.queue.states import LIVE, TERMINAL, State, legal
from server.store import tables
from tests.support.world import World

IMAGES = {"sha256": "a" * 64, "size_bytes": 5, "media_type": "image/png"}
COMPLETED = {"outcome": {"outcome": "completed", "result": IMAGES}}
ENDS = (
    COMPLETED,
    {"exit_code": 75, "outcome": {"outcome": "stopped"}},
    {"exit_code": 1, "outcome": {"outcome": "failed", "code": "error", "message": "crash"}},
    {"exit_code": 1, "outcome": {"outcome": "failed", "code": "diverged", "message": "NaN"}},
    {"exit_code": 1, "outcome": {"outcome": "failed", "code": "disk_full", "message": "ENOSPC"}},
    {"exit_code": 1, "outcome": {"outcome": "failed", "code": "storage_failed", "message": "EIO"}},
    {"exit_code": 1},
    {"exit_code": None, "signal": 9},
    {"exit_code": None, "signal": 9, "cause": "stop"},
    {"exit_code": None, "signal": 15, "cause": "timeout"},
    {"exit_code": None, "signal": 9, "cause": "fenced"},
)
STOPPING = (State.PAUSING, State.CANCELLING, State.RECOVERING)
SETTLED = TERMINAL | {State.PAUSED}
MODES = st.sampled_from(["graceful", "now"])


class Lifecycle(RuleBasedStateMachine):
    """One store; schedulers come and go. Rules that a job's state does not allow must leave the job as it was."""

    jobs = Bundle("jobs")

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.world.executor.slots = [Slot("cpu0", "cpu", "train"), Slot("cpu1", "cpu", "train")]
        self.world.executor.slots += [Slot("task0", "cpu", "task")]
        self.submitted: list[str] = []
        self.cancelled_in_queue: dict[str, int] = {}
        self.epochs: dict[str, int] = {}

    # --- users

    @rule(target=jobs, kind=st.sampled_from(["train", "train", "sample"]), priority=st.integers(-1, 1))
    def submit(self, kind: str, priority: int) -> str:
        self.submitted.append(self.world.submit(kind, priority=priority))
        return self.submitted[-1]

    @rule(job_id=jobs, mode=MODES)
    def cancel(self, job_id: str, mode: str) -> None:
        before = self.world.job(job_id)
        if self._asks(queue.cancel, job_id, mode) and before["state"] == State.QUEUED:
            assert self.world.state(job_id) is State.CANCELLED
            self.cancelled_in_queue[job_id] = before["attempts"]

    @rule(job_id=jobs, mode=MODES)
    def pause(self, job_id: str, mode: str) -> None:
        self._asks(queue.pause, job_id, mode)

    @rule(job_id=jobs)
    def resume(self, job_id: str) -> None:
        self._asks(queue.resume, job_id)

    @rule(job_id=jobs)
    def retry(self, job_id: str) -> None:
        self._asks(queue.retry, job_id)

    @rule(mode=MODES)
    def cancel_all(self, mode: str) -> None:
        queued = [job for job in map(self.world.job, self.submitted) if job["state"] == State.QUEUED]
        self.world.store.write(
            lambda connection: queue.cancel_many(
                connection, [queue.get(connection, job_id) for job_id in self.submitted], mode
            )
        )
        self.cancelled_in_queue |= {job["id"]: job["attempts"] for job in queued}
        assert all(self.world.state(job_id) in TERMINAL | {State.CANCELLING} for job_id in self.submitted)

    @rule(job_id=consumes(jobs))
    def remove(self, job_id: str) -> None:
        try:
            self.world.store.write(lambda connection: removal.remove(connection, queue.get(connection, job_id)))
        except InvalidTransition:
            return
        self.submitted.remove(job_id)

    def _asks(self, what: Callable[..., Any], job_id: str, *mode: str) -> bool:
        before = self.world.job(job_id)
        try:
            self.world.does(what, job_id, *mode)
        except InvalidTransition:
            assert self.world.job(job_id) == before
            return False
        return True

    # --- the server

    @rule(rounds=st.integers(1, 3), seconds=st.sampled_from([0.0, 0.2, 1.5, 30.0]))
    def tick(self, rounds: int, seconds: float) -> None:
        for _ in range(rounds):
            self.world.tick()
            self.world.passes(seconds)

    @rule()
    def restart(self) -> None:
        self.world.restart()

    @rule()
    def server_dies_between_claim_and_launch(self) -> None:
        slots = [slot for slot in self.world.executor.slots if slot.name not in self._slots_in_use()]
        self.world.store.write(lambda connection: claims.claim(connection, slots, "fake"))
        self.world.restart()

    @rule(reason=st.sampled_from([None, None, "no more processes"]))
    def launches_work_or_do_not(self, reason: str | None) -> None:
        self.world.executor.refuses = reason

    # --- the workers

    @rule(job_id=jobs)
    def worker_says_it_has_started(self, job_id: str) -> None:
        if self.world.state(job_id) is State.STARTING and self._running(job_id):
            self.world.moves(job_id, State.RUNNING)

    @rule(job_id=jobs, how=st.sampled_from(ENDS))
    def worker_ends(self, job_id: str, how: dict[str, Any]) -> None:
        if attempt := self._running(job_id):
            self.world.executor.exits(attempt, **how)

    @rule(job_id=jobs)
    def supervisor_and_worker_vanish(self, job_id: str) -> None:
        if attempt := self._running(job_id):
            self.world.executor.vanishes(attempt)

    @rule(job_id=jobs, how=st.sampled_from(["silent", "expired", "runs"]))
    def lease(self, job_id: str, how: str) -> None:
        if attempt := self._running(job_id):
            {
                "silent": lambda: self.world.executor.silent(attempt),
                "expired": lambda: self.world.executor.runs(attempt, lease_age_seconds=100.0),
                "runs": lambda: self.world.executor.runs(attempt),
            }[how]()

    def _running(self, job_id: str) -> str | None:
        attempt = self.world.attempt(job_id)
        return attempt if attempt in self.world.executor.running() else None

    # --- what holds always

    @invariant()
    def everything_is_as_it_should_be(self) -> None:
        jobs, attempts, history = self._all(tables.jobs), self._all(tables.attempts), self._all(tables.journal)
        self._histories_are_legal_and_without_gaps(jobs, history)
        self._no_job_has_two_processes_and_no_slot_two_jobs(attempts)
        self._nothing_is_stuck(jobs, attempts)
        self._epochs_only_grow_and_belong_to_one_attempt(jobs, attempts)
        self._what_was_cancelled_in_the_queue_never_starts()

    def _histories_are_legal_and_without_gaps(self, jobs: list[Any], history: list[Any]) -> None:
        for job in jobs:
            rows = sorted((row for row in history if row["job_id"] == job["id"]), key=lambda row: row["seq"])
            assert [row["job_seq"] for row in rows] == list(range(1, len(rows) + 1))
            states = [State(row["data"]["state"]) for row in rows if row["type"] == "job.state"]
            assert states[0] is State.QUEUED and states[-1] == job["state"]
            assert all(legal(before, after) for before, after in itertools.pairwise(states))

    def _no_job_has_two_processes_and_no_slot_two_jobs(self, attempts: list[Any]) -> None:
        live = {attempt["id"]: attempt for attempt in attempts if attempt["live"]}
        assert len({attempt["job_id"] for attempt in live.values()}) == len(live)
        assert len({attempt["slot"] for attempt in live.values()}) == len(live)
        assert set(self.world.executor.running()) <= set(live)

    def _nothing_is_stuck(self, jobs: list[Any], attempts: list[Any]) -> None:
        live = {attempt["job_id"] for attempt in attempts if attempt["live"]}
        for job in jobs:
            assert (job["state"] in LIVE) == (job["id"] in live)
            assert (job["finished_at"] is not None) == (job["state"] in TERMINAL)
            assert (job["stop_mode"] is not None) == (job["state"] in STOPPING)
            assert job["infrastructure_used"] <= self.world.settings.infrastructure_retries
            assert job["program_used"] <= self.world.settings.program_retries

    def _epochs_only_grow_and_belong_to_one_attempt(self, jobs: list[Any], attempts: list[Any]) -> None:
        for job in jobs:
            assert job["lease_epoch"] >= self.epochs.get(job["id"], 0)
            self.epochs[job["id"]] = job["lease_epoch"]
            own = sorted(attempt["epoch"] for attempt in attempts if attempt["job_id"] == job["id"])
            assert own == list(range(1, job["attempts"] + 1)) and job["lease_epoch"] == job["attempts"]

    def _what_was_cancelled_in_the_queue_never_starts(self) -> None:
        for job_id, attempts in self.cancelled_in_queue.items():
            assert len([spec for spec in self.world.executor.launched.values() if spec.job_id == job_id]) <= attempts

    def _slots_in_use(self) -> set[str]:
        return {attempt["slot"] for attempt in self._all(tables.attempts) if attempt["live"]}

    def _all(self, table: Any) -> list[Any]:
        return list(self.world.store.read(lambda connection: connection.execute(select(table)).mappings().all()))

    def teardown(self) -> None:
        """Left to itself with workers that finish, everything comes to an end or to a pause."""
        self.world.executor.refuses = None
        for _ in range(10 + 3 * len(self.submitted)):
            for attempt in self.world.executor.running():
                self.world.executor.exits(attempt, **COMPLETED)
            self.world.tick()
            self.world.passes(61)
            states = [job["state"] for job in self._all(tables.jobs)]
            if set(states) <= SETTLED:
                break
        self.world.store.close()
        assert set(states) <= SETTLED


def test_no_order_of_events_breaks_a_job(make_world: Callable[[], Any]) -> None:
    run_state_machine_as_test(
        lambda: Lifecycle(make_world()),
        settings=settings(
            max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
