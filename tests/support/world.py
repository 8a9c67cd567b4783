"""A scheduler in a world that a test moves: its executor, its clock and what its users ask for."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from gan_mhe.config.run_config import RunConfig
from server import clock
from server.executors.base import Signal
from server.queue import queue
from server.queue.queue import NewJob
from server.queue.states import State
from server.settings import Settings
from server.store import journal, sqlite, tables
from server.store.rows import JobRow
from server.store.store import Store
from server.supervision.machine import Machine
from server.supervision.scheduler import Scheduler
from tests.support.fake_executor import FakeExecutor

_CHECKPOINT = {"job_id": "job_source", "checkpoint_id": "ckpt_source", "checkpoint_sha256": "c" * 64, "step": 100}
_DRAW = {"n": 4, "seed": 1, "truncation": None, "interpolation": 0, "ema": False, "format": "png"}
_TASKS: Mapping[str, Mapping[str, Any]] = {
    "sample": {**_CHECKPOINT, **_DRAW},
    "score": {**_CHECKPOINT, "evaluation": RunConfig().document()["evaluation"]},
}


class Reader:
    """In the indexer's place: it notes which jobs were read to the end, and whether their attempt was live then."""

    def __init__(self, store: Store) -> None:
        self.drained: list[tuple[str, bool]] = []
        self._store = store

    def poll(self) -> None:
        pass

    def drain(self, job_id: str) -> None:
        live = self._store.read(lambda connection: queue.live_attempt(connection, job_id))
        self.drained.append((job_id, live is not None))


class ScriptedMachine(Machine):
    """A machine that is broken as the test says. broken: why nothing can start; tried: how often it was asked."""

    broken: str | None = None
    tried = 0

    def problem(self) -> str | None:
        self.tried += 1
        return self.broken

    def unwritable(self, directory: Path) -> str | None:
        return self.broken


class World:
    """A scheduler between a store and a fake executor, and a time that passes only when the test says so.

    `now` is in seconds and moves the wall clock and the monotonic one; `stepped` is how far the wall clock was set.
    """

    def __init__(self, store: Store, settings: Settings, executor: FakeExecutor, patch: pytest.MonkeyPatch) -> None:
        self.store, self.settings, self.executor = store, settings, executor
        self.now = 1_700_000_000.0
        self.free_bytes = 10**12
        self.stepped = 0.0
        self._launched: dict[str, float] = {}
        self._patch = patch
        self.machine = ScriptedMachine(settings, executor)
        # No test here pulls the plug, and waiting for the disk would be most of its time.
        patch.setattr(sqlite, "set_durable", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
        self.restart()

    def _nanoseconds(self, stepped: float = 0.0) -> int:
        return round((self.now + stepped) * 1000) * 1_000_000

    def restart(self) -> None:
        """A new scheduler that knows only what is in the store, and a clock that takes the wall clock as it is."""
        fresh = clock.Clock(lambda: self._nanoseconds(self.stepped), self._nanoseconds)
        self._patch.setattr(clock, "_clock", fresh)
        self.reader = Reader(self.store)
        self.scheduler = Scheduler(
            self.store,
            self.settings,
            self.executor,
            self.reader,
            machine=self.machine,
            clock=lambda: self.now,
            free_bytes=lambda path: self.free_bytes,
        )

    def tick(self, rounds: int = 1) -> None:
        for _ in range(rounds):
            try:
                self.scheduler.tick()
            finally:
                for attempt in self.executor.launched:
                    self._launched.setdefault(attempt, self.now)

    def passes(self, seconds: float) -> None:
        self.now += seconds

    def steps(self, seconds: float) -> None:
        """Somebody sets the wall clock forward, or back."""
        self.stepped += seconds

    def submit(self, kind: str = "train", state: State = State.QUEUED, **attributes: Any) -> str:
        request = RunConfig().document() if kind == "train" else dict(_TASKS[kind])
        new = NewJob(**{"project": "p", "request": request, "request_sha256": "0", "kind": kind, **attributes})
        return str(self.store.write(lambda connection: queue.create(connection, new, state))["id"])

    def job(self, job_id: str) -> JobRow:
        return self.store.read(lambda connection: queue.get(connection, job_id))

    def state(self, job_id: str) -> State:
        return State(self.job(job_id)["state"])

    def attempt(self, job_id: str) -> str | None:
        """The live attempt's id."""
        row = self.store.read(lambda connection: queue.live_attempt(connection, job_id))
        return None if row is None else str(row["id"])

    def does(self, what: Callable[..., JobRow], job_id: str, *arguments: Any, **options: Any) -> JobRow:
        """What a user asks for: one of queue.cancel, pause, resume, retry."""
        return self.store.write(
            lambda connection: what(connection, queue.get(connection, job_id), *arguments, **options)
        )

    def moves(self, job_id: str, *states: State, **changes: Any) -> None:
        for state in states:
            self.does(queue.move, job_id, state, **changes)

    def runs(self, job_id: str) -> str:
        """Start a queued job, which says that it has started; its attempt."""
        self.tick()
        if self.state(job_id) is State.STARTING:
            self.moves(job_id, State.RUNNING)
        attempt = self.attempt(job_id)
        assert attempt is not None
        return attempt

    def ends(self, job_id: str, **how: Any) -> State:
        """End the job's attempt as `FakeExecutor.exits` is told; the job's state after the scheduler has seen it.

        Unless told otherwise, its supervisor has measured how long it ran.
        """
        attempt = self.attempt(job_id)
        assert attempt is not None
        self.executor.exits(attempt, **{"seconds": self.now - self._launched[attempt], **how})
        self.tick()
        return self.state(job_id)

    def states(self, job_id: str) -> list[str]:
        """All states that the job has been in."""
        rows = self.store.read(lambda connection: journal.of_job(connection, job_id, after=0, limit=1000))
        return [row["data"]["state"] for row in rows if row["type"] == "job.state"]

    def attempts(self, job_id: str) -> list[dict[str, Any]]:
        """All attempts of the job, the oldest first."""
        query = select(tables.attempts).where(tables.attempts.c.job_id == job_id).order_by(tables.attempts.c.number)
        return [dict(row) for row in self.store.read(lambda connection: connection.execute(query).mappings().all())]

    def sets(self, job_id: str, **values: Any) -> None:
        """What the indexer would write into the job's row."""
        changes = update(tables.jobs).where(tables.jobs.c.id == job_id).values(values)
        self.store.write(lambda connection: connection.execute(changes))

    def limited(self, **changes: Any) -> None:
        """Other settings, from a restart on."""
        self.settings = self.settings.model_copy(update=changes)
        self.restart()

    def signals(self, attempt_id: str) -> list[Signal]:
        return [what for to, what in self.executor.signals if to == attempt_id]
