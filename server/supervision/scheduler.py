"""From what is wanted and what is seen to what happens next: the one place that starts, stops and ends attempts.

`Scheduler.tick` is one round, in one thread. All it must not forget is in the store; what it remembers between rounds
is only for how long something has been so, and that begins anew after a restart.
"""

import math
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import structlog
from sqlalchemy import Connection

from gan_mhe.errors import ConfigError
from server.crash_points import crash_point
from server.errors import InvalidTransition
from server.executors.base import Executor, ExitRecord, Handle, LaunchError, LaunchSpec, Observation, Signal
from server.ingest import retention
from server.queue import queue, worker_request
from server.queue.queue import TRAIN, StopMode
from server.queue.states import Reason, State
from server.settings import Settings
from server.store import artifacts, heartbeat, journal
from server.store.rows import AttemptRow, JobRow
from server.store.store import Store
from server.supervision import endings, outcomes, stall_detection

_ROUND_SECONDS = 0.2
_TROUBLE_SECONDS = 1.0
_HOUSEKEEPING_SECONDS = 60.0
_DEADLINES_SECONDS = 1.0
_STOP_NOW_SECONDS = 5.0
_KILL_MARGIN_SECONDS = 5.0  # the supervisor kills after the grace; this long after it, we do
_KILL_AGAIN_SECONDS = 5.0
_MIB = 2**20

_NEVER_STARTED = ExitRecord(None, None, "stop", "it was not started", {"outcome": "stopped"})

log = structlog.get_logger()


class RunReader(Protocol):
    """Reads what runs say into the store."""

    def poll(self) -> None:
        """A bounded part of what all live attempts have said since."""

    def drain(self, job_id: str) -> None:
        """All that a job's run has said."""


@dataclass
class _Watch:
    """How long something has been so with one attempt, on the monotonic clock."""

    silent_since: float | None = None
    signalled: dict[Signal, float] = field(default_factory=dict)
    journal_seq: int = -1
    heard: float = 0.0


class Scheduler:
    """Moves jobs along. clock: monotonic seconds; free_bytes: of the file system that holds a path."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        executor: Executor,
        indexer: RunReader,
        *,
        clock: Callable[[], float] = time.monotonic,
        free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
    ) -> None:
        self._indexer = indexer
        self._store = store
        self._settings = settings
        self._executor = executor
        self._clock = clock
        self._free_bytes = free_bytes
        self._limits = outcomes.Limits(
            settings.infrastructure_retries, settings.program_retries, settings.retry_backoff_seconds
        )
        self._watches: dict[str, _Watch] = {}
        self._due: dict[str, float] = {}
        self._last_round = -math.inf

    def poll(self) -> None:
        """Read what live attempts have said."""
        self._indexer.poll()

    def tick(self) -> None:
        """One round. What goes wrong with one job is kept from the others; at the end all of it is raised as one."""
        if self._is_due("heartbeat", heartbeat.INTERVAL_SECONDS):
            self._store.write(heartbeat.beat, name="heartbeat", durable=False)
        live = self._store.read(queue.live_attempts)
        errors = self._for_each(self._attend, live)
        if self._is_due("deadlines", _DEADLINES_SECONDS):
            self._cancel_overdue()
        shortage = self._disk_shortage()
        if shortage is None:
            errors += self._for_each(self._start, self._claim())
        else:
            self._pause_running(live, shortage)
        if self._is_due("housekeeping", _HOUSEKEEPING_SECONDS):
            retention.apply(self._store, self._settings)
            self._store.tidy()
        self._last_round = self._clock()
        if errors:
            raise ExceptionGroup("some jobs could not be attended to", errors)

    def round_age(self) -> float:
        """Seconds since a round went through."""
        return self._clock() - self._last_round

    def _is_due(self, what: str, every_seconds: float) -> bool:
        now = self._clock()
        if now < self._due.get(what, now):
            return False
        self._due[what] = now + every_seconds
        return True

    @staticmethod
    def _for_each(
        work: Callable[[AttemptRow, JobRow], None], pairs: Sequence[tuple[AttemptRow, JobRow]]
    ) -> list[Exception]:
        errors = []
        for attempt, job in pairs:
            try:
                work(attempt, job)
            except Exception as error:
                error.add_note(f"with {job['id']}, attempt {attempt['number']}")
                errors.append(error)
        return errors

    # --- attempts

    def _attend(self, attempt: AttemptRow, job: JobRow) -> None:
        """See how an attempt is, and do what follows."""
        handle = attempt["handle"]
        if handle is None:  # a server was killed while launching it
            self._start(attempt, job)
            return
        seen = self._executor.observe(handle)
        watch = self._watches.setdefault(attempt["id"], _Watch())
        if seen.status == "exited":
            self._conclude(attempt, job, seen.record)
        elif job["state"] in (State.PAUSING, State.CANCELLING, State.RECOVERING):
            self._ask_to_stop(handle, job, watch)
        elif (silence := self._silence(seen, watch)) is not None:
            self._give_up(attempt, job, "now", f"the supervisor has not been heard of for {silence:.0f} s")
        elif job["kind"] != TRAIN and job["state"] == State.STARTING:
            self._move(attempt, job, State.RUNNING)
        elif (silence := self._stall(attempt, job, watch)) is not None:
            message = f"no progress for {silence:.0f} s at step {job['step']}"
            self._give_up(attempt, job, "graceful", message, {"step": job["step"], "seconds": silence})

    def _silence(self, seen: Observation, watch: _Watch) -> float | None:
        """How long the supervisor has been lost, None while it is not.

        Counted from when this process first saw the lease overdue: it may itself have been away, or the machine asleep.
        """
        ttl, age, now = self._settings.lease_ttl_seconds, seen.lease_age_seconds, self._clock()
        if seen.status == "running" and (age is None or age <= ttl):
            watch.silent_since = None
            return None
        if watch.silent_since is None:
            watch.silent_since = now
        silent = now - watch.silent_since
        return max(silent, age or 0.0) if silent > ttl else None

    def _stall(self, attempt: AttemptRow, job: JobRow, watch: _Watch) -> float | None:
        """How long a run has said nothing, None while that is not too long."""
        now = self._clock()
        if watch.journal_seq != job["journal_seq"]:
            watch.journal_seq, watch.heard = job["journal_seq"], now
        patience, silent = stall_detection.patience_seconds(job, attempt), now - watch.heard
        return silent if patience is not None and silent >= patience else None

    def _give_up(
        self, attempt: AttemptRow, job: JobRow, mode: StopMode, message: str, stalled: dict[str, float] | None = None
    ) -> None:
        """Take the job from an attempt that is of no use any more; it is queued once the attempt is gone."""

        def work(connection: Connection) -> None:
            if stalled is not None:
                journal.append(connection, job["id"], "job.stalled", stalled)
            why: dict[str, Any] = {"reason": Reason.WORKER_LOST, "message": message, "stop_mode": mode}
            queue.move(connection, job, State.RECOVERING, epoch=attempt["epoch"], **why)

        with suppress(InvalidTransition):  # a user was faster; the next round does what is wanted now
            self._store.write(work)

    def _move(self, attempt: AttemptRow, job: JobRow, to: State) -> None:
        with suppress(InvalidTransition):  # as above
            self._store.write(lambda connection: queue.move(connection, job, to, epoch=attempt["epoch"]))

    def _ask_to_stop(self, handle: Handle, job: JobRow, watch: _Watch) -> None:
        """Ask once in each way; kill, and again, what is still there when it should long be gone."""
        graceful, now = job["stop_mode"] == "graceful", self._clock()
        what: Signal = "checkpoint_stop" if graceful else "stop"
        if job["state"] == State.RECOVERING and not graceful:
            what = "kill"
        if what not in watch.signalled:
            watch.signalled[what] = now
            self._executor.signal(handle, what)
            return
        grace = self._settings.grace_seconds if graceful else min(self._settings.grace_seconds, _STOP_NOW_SECONDS)
        killed = watch.signalled.get("kill")
        overdue = now - watch.signalled[what] > grace + _KILL_MARGIN_SECONDS
        if overdue if killed is None else now - killed > _KILL_AGAIN_SECONDS:
            watch.signalled["kill"] = now
            self._executor.signal(handle, "kill")

    # --- the end of an attempt

    def _conclude(self, attempt: AttemptRow, job: JobRow, record: ExitRecord | None) -> None:
        """Read in what is left to read, then end the attempt and move its job on, in one transaction."""
        self._indexer.drain(job["id"])
        self._store.write(lambda connection: endings.end(connection, attempt["id"], record, self._limits))
        self._watches.pop(attempt["id"], None)

    # --- the start of an attempt

    def _claim(self) -> list[tuple[AttemptRow, JobRow]]:
        """New attempts for the free slots for which a job waits."""
        if not self._store.read(queue.any_due):
            return []
        taken = {attempt["slot"] for attempt, _ in self._store.read(queue.live_attempts)}
        free = [slot for slot in self._executor.inventory() if slot.available and slot.name not in taken]
        slots = self._store.read(lambda connection: queue.wanted(connection, free))
        if not slots:
            return []
        name = self._executor.name
        claimed = self._store.write(lambda connection: queue.claim(connection, slots, name), name="claim")
        return [(attempt, job) for job, attempt, _ in claimed]

    def _start(self, attempt: AttemptRow, job: JobRow) -> None:
        """Launch an attempt, or take up the one that a server launched and did not live to note."""
        job = self._store.read(lambda connection: queue.get(connection, job["id"]))
        handle = self._executor.find(worker_request.attempt_dir(attempt, self._settings))
        if handle is None and job["state"] != State.STARTING:  # a user was faster
            self._conclude(attempt, job, _NEVER_STARTED)
            return
        try:
            handle = handle or self._executor.launch(self._spec(attempt, job))
        except LaunchError as error:
            self._conclude(attempt, job, ExitRecord(None, None, "launch_failed", str(error)))
            return
        except ConfigError as error:
            said = {"outcome": "failed", "code": error.code, "message": str(error)}
            self._conclude(attempt, job, ExitRecord(None, None, "launch_failed", str(error), said))
            return
        crash_point("launch.after_start")
        known = handle
        self._store.write(lambda connection: queue.launched(connection, attempt["id"], known))

    def _spec(self, attempt: AttemptRow, job: JobRow) -> LaunchSpec:
        """Raises LaunchError when the slot is gone, ConfigError when the operator withdrew what the job names."""
        slots = {slot.name: slot for slot in self._executor.inventory()}
        if attempt["slot"] not in slots:
            raise LaunchError(f"there is no slot {attempt['slot']} any more")
        made = self._store.read(lambda connection: artifacts.checkpoints(connection, job["id"]))
        kept = any(checkpoint["status"] == "available" for checkpoint in made)
        return worker_request.launch_spec(job, attempt, slots[attempt["slot"]], self._settings, has_checkpoint=kept)

    # --- what no attempt is needed for

    def _cancel_overdue(self) -> None:
        if not self._store.read(queue.overdue):
            return

        def work(connection: Connection) -> None:
            for job in queue.overdue(connection):
                queue.move(connection, job, State.CANCELLED, reason=Reason.DEADLINE_BEFORE_START)

        self._store.write(work)

    def _disk_shortage(self) -> str | None:
        """What is wrong with the disk, None when it has room."""
        free, reserve = self._free_bytes(self._settings.data_dir), self._settings.disk_reserve_bytes
        if free >= reserve:
            return None
        return f"{free // _MIB} MiB of disk are free and {reserve // _MIB} MiB are kept in reserve"

    def _pause_running(self, live: Sequence[tuple[AttemptRow, JobRow]], shortage: str) -> None:
        """Let running training jobs save into the reserve and stop. Somebody has to resume them."""
        running = [job for _, job in live if job["kind"] == TRAIN and job["state"] == State.RUNNING]
        if not running:
            return

        def work(connection: Connection) -> None:
            for job in running:
                with suppress(InvalidTransition):  # as above
                    queue.pause(connection, job, reason=Reason.DISK_FULL, message=shortage)

        self._store.write(work)


class Engine:
    """The one thread that reads what runs say and schedules. An exception does not end it."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._stopping = False
        self._awake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)

    def start(self) -> None:
        """Begin. Once only."""
        self._thread.start()

    def stop(self) -> None:
        """End after the present round."""
        self._stopping = True
        self._awake.set()
        if self._thread.is_alive():
            self._thread.join()

    def wake(self) -> None:
        """Begin the next round now: something was submitted or asked for. From any thread."""
        self._awake.set()

    def heartbeat_age(self) -> float:
        """Seconds since a round went through, infinite before the first. Trouble with single jobs does not count."""
        return self._scheduler.round_age()

    def _run(self) -> None:
        while not self._stopping:
            fine = [_try(work) for work in (self._scheduler.poll, self._scheduler.tick)]
            self._awake.wait(_ROUND_SECONDS if all(fine) else _TROUBLE_SECONDS)
            self._awake.clear()


def _try(work: Callable[[], None]) -> bool:
    try:
        work()
    except Exception:
        log.exception("trouble in a round of the scheduler")
        return False
    return True
