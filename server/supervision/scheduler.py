"""The scheduler: compares the requested states with the observed ones, and starts, stops and ends attempts.

`Scheduler.tick` is one round and runs in one thread. Everything that must survive a restart is in the store; between
rounds the scheduler only remembers since when a condition has held, and a restart resets that.
"""

import math
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import structlog
from sqlalchemy import Connection

from gan_mhe.errors import ConfigError, StorageError
from server.crash_points import crash_point
from server.errors import InvalidTransition
from server.executors.base import Executor, ExitRecord, Handle, LaunchError, LaunchSpec, Observation, Signal
from server.ingest import retention, trash
from server.queue import queue, worker_request
from server.queue.public_text import public_text
from server.queue.queue import TRAIN, StopMode
from server.queue.states import Reason, State
from server.settings import Settings
from server.store import artifacts, heartbeat, job_record, journal
from server.store.rows import AttemptRow, JobRow
from server.store.store import Store
from server.supervision import endings, outcomes, stall_detection

_ROUND_SECONDS = 0.2
_ERROR_ROUND_SECONDS = 1.0
_HOUSEKEEPING_SECONDS = 60.0
_DEADLINES_SECONDS = 1.0
_STOP_NOW_SECONDS = 5.0
_KILL_MARGIN_SECONDS = 5.0  # the supervisor kills after the grace, the scheduler this much later
_KILL_AGAIN_SECONDS = 5.0
_MIB = 2**20

_NEVER_STARTED = ExitRecord(None, None, "stop", "the attempt was not started", {"outcome": "stopped"})

log = structlog.get_logger()


class RunReader(Protocol):
    """Reads the events of runs into the store."""

    def poll(self) -> None:
        """Read a bounded part of the new events of all live attempts."""

    def drain(self, job_id: str) -> None:
        """Read all remaining events of a job's run."""


@dataclass
class _Watch:
    """Since when a condition has held for one attempt, on the monotonic clock."""

    silent_since: float | None = None
    signalled: dict[Signal, float] = field(default_factory=dict)
    journal_seq: int = -1
    last_event: float = 0.0


class Scheduler:
    """Moves jobs between states. clock: monotonic seconds; free_bytes: of the file system that holds a path."""

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
        """Read new events of live attempts."""
        self._indexer.poll()

    def tick(self) -> None:
        """One round. An error with one job does not affect the others; all errors are raised together at the end."""
        if self._is_due("heartbeat", heartbeat.INTERVAL_SECONDS):
            self._store.write(heartbeat.beat, name="heartbeat", durable=False)
        live = self._store.read(queue.live_attempts)
        errors = self._for_each(self._supervise, live)
        if self._is_due("deadlines", _DEADLINES_SECONDS):
            self._cancel_overdue()
        shortage = self._disk_shortage()
        if shortage is None:
            errors += self._for_each(self._start, self._claim())
        else:
            self._pause_running(live, shortage)
        if self._is_due("housekeeping", _HOUSEKEEPING_SECONDS):
            retention.apply(self._store, self._settings)
            trash.empty_old(self._settings)
            self._store.tidy()
        self._last_round = self._clock()
        if errors:
            raise ExceptionGroup("some jobs could not be handled", errors)

    def round_age(self) -> float:
        """Seconds since the last complete round."""
        return self._clock() - self._last_round

    def _is_due(self, task: str, every_seconds: float) -> bool:
        now = self._clock()
        if now < self._due.get(task, now):
            return False
        self._due[task] = now + every_seconds
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
                error.add_note(f"job {job['id']}, attempt {attempt['number']}")
                errors.append(error)
        return errors

    def _supervise(self, attempt: AttemptRow, job: JobRow) -> None:
        """Observe an attempt and react to its state."""
        handle = attempt["handle"]
        if handle is None:  # a server was killed while launching it
            self._start(attempt, job)
            return
        seen = self._executor.observe(handle)
        watch = self._watches.setdefault(attempt["id"], _Watch())
        if seen.status == "exited":
            self._end(attempt, job, seen.record)
        elif job["state"] in (State.PAUSING, State.CANCELLING, State.RECOVERING):
            self._request_stop(handle, job, watch)
        elif (silence := self._silence(seen, watch)) is not None:
            self._abandon(attempt, job, "now", f"the supervisor has not responded for {silence:.0f} s")
        elif job["kind"] != TRAIN and job["state"] == State.STARTING:
            self._move(attempt, job, State.RUNNING)
        elif (silence := self._stall(attempt, job, watch)) is not None:
            message = f"no progress for {silence:.0f} s at step {job['step']}"
            self._abandon(attempt, job, "graceful", message, {"step": job["step"], "seconds": silence})

    def _silence(self, seen: Observation, watch: _Watch) -> float | None:
        """Seconds for which the supervisor has been lost, None while it is not.

        Counts from when this process first saw the lease overdue: until then, this process or the machine may have been
        stopped.
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
        """Seconds without a new event, None while they are below the stall limit."""
        now = self._clock()
        if watch.journal_seq != job["journal_seq"]:
            watch.journal_seq, watch.last_event = job["journal_seq"], now
        patience, silent = stall_detection.patience_seconds(job, attempt), now - watch.last_event
        return silent if patience is not None and silent >= patience else None

    def _abandon(
        self, attempt: AttemptRow, job: JobRow, mode: StopMode, message: str, stalled: dict[str, float] | None = None
    ) -> None:
        """Detach the job from a lost or stalled attempt; it is queued again once the attempt has ended."""

        def work(connection: Connection) -> None:
            if stalled is not None:
                journal.append(connection, job["id"], "job.stalled", stalled)
            cause: dict[str, Any] = {"reason": Reason.WORKER_LOST, "message": message, "stop_mode": mode}
            queue.move(connection, job, State.RECOVERING, epoch=attempt["epoch"], **cause)

        with suppress(InvalidTransition):  # a user changed the job first; the next round acts on that
            self._store.write(work)

    def _move(self, attempt: AttemptRow, job: JobRow, to: State) -> None:
        with suppress(InvalidTransition):  # as above
            self._store.write(lambda connection: queue.move(connection, job, to, epoch=attempt["epoch"]))

    def _request_stop(self, handle: Handle, job: JobRow, watch: _Watch) -> None:
        """Send each signal once; kill an attempt that is overdue, and repeat that if it has no effect."""
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

    def _end(self, attempt: AttemptRow, job: JobRow, record: ExitRecord | None) -> None:
        """Read the remaining events, then end the attempt and move its job, in one transaction."""
        record = None if record is None else self._public(record)
        self._indexer.drain(job["id"])
        self._store.write(lambda connection: endings.end(connection, attempt["id"], record, self._limits))
        self._watches.pop(attempt["id"], None)

    def _public(self, record: ExitRecord) -> ExitRecord:
        """The record with messages that clients may read."""
        outcome = record.outcome
        if outcome is not None and isinstance(outcome.get("message"), str):
            outcome = {**outcome, "message": public_text(outcome["message"], self._settings)}
        return replace(record, message=public_text(record.message, self._settings), outcome=outcome)

    def _claim(self) -> list[tuple[AttemptRow, JobRow]]:
        """New attempts of waiting jobs for the free slots."""
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
        """Launch an attempt, or adopt it if a server launched it and was killed before storing the handle."""
        job = self._store.read(lambda connection: queue.get(connection, job["id"]))
        handle = self._executor.find(worker_request.attempt_dir(attempt, self._settings))
        if handle is None and job["state"] != State.STARTING:  # a user changed the job first
            self._end(attempt, job, _NEVER_STARTED)
            return
        try:
            if handle is None:
                job_record.write(self._settings, job)
                handle = self._executor.launch(self._spec(attempt, job))
        except (LaunchError, StorageError) as error:
            self._end(attempt, job, ExitRecord(None, None, "launch_failed", str(error)))
            return
        except ConfigError as error:
            outcome = {"outcome": "failed", "code": error.code, "message": str(error)}
            self._end(attempt, job, ExitRecord(None, None, "launch_failed", str(error), outcome))
            return
        crash_point("launch.after_start")
        known = handle
        self._store.write(lambda connection: queue.launched(connection, attempt["id"], known))

    def _spec(self, attempt: AttemptRow, job: JobRow) -> LaunchSpec:
        """The launch of an attempt. Raises LaunchError if its slot no longer exists.

        Raises ConfigError if the job names something that the operator no longer offers.
        """
        slots = {slot.name: slot for slot in self._executor.inventory()}
        if attempt["slot"] not in slots:
            raise LaunchError(f"slot {attempt['slot']} no longer exists")
        made = self._store.read(lambda connection: artifacts.checkpoints(connection, job["id"]))
        kept = any(checkpoint["status"] == "available" for checkpoint in made)
        return worker_request.launch_spec(job, attempt, slots[attempt["slot"]], self._settings, has_checkpoint=kept)

    def _cancel_overdue(self) -> None:
        if not self._store.read(queue.overdue):
            return

        def work(connection: Connection) -> None:
            for job in queue.overdue(connection):
                queue.move(connection, job, State.CANCELLED, reason=Reason.DEADLINE_BEFORE_START)

        self._store.write(work)

    def _disk_shortage(self) -> str | None:
        """A message if less disk space is free than the reserve, else None."""
        free, reserve = self._free_bytes(self._settings.data_dir), self._settings.disk_reserve_bytes
        if free >= reserve:
            return None
        return f"{free // _MIB} MiB of disk space are free; the reserve is {reserve // _MIB} MiB"

    def _pause_running(self, live: Sequence[tuple[AttemptRow, JobRow]], shortage: str) -> None:
        """Pause running training jobs: they save into the reserve. A user has to resume them."""
        running = [job for _, job in live if job["kind"] == TRAIN and job["state"] == State.RUNNING]
        if not running:
            return

        def work(connection: Connection) -> None:
            for job in running:
                with suppress(InvalidTransition):  # as above
                    queue.pause(connection, job, reason=Reason.DISK_FULL, message=shortage)

        self._store.write(work)


class Engine:
    """The one thread that reads events and schedules. An exception does not end it."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._stopping = False
        self._awake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)

    def start(self) -> None:
        """Start the thread; call once."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the current round."""
        self._stopping = True
        self._awake.set()
        if self._thread.is_alive():
            self._thread.join()

    def wake(self) -> None:
        """Start the next round immediately, after a request. Thread-safe."""
        self._awake.set()

    def heartbeat_age(self) -> float:
        """Seconds since the last complete round, infinite before the first. Errors with single jobs do not count."""
        return self._scheduler.round_age()

    def _run(self) -> None:
        while not self._stopping:
            succeeded = [_try(work) for work in (self._scheduler.poll, self._scheduler.tick)]
            self._awake.wait(_ROUND_SECONDS if all(succeeded) else _ERROR_ROUND_SECONDS)
            self._awake.clear()


def _try(work: Callable[[], None]) -> bool:
    try:
        work()
    except Exception:
        log.exception("scheduler round failed")
        return False
    return True
