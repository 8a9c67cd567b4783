"""The scheduler: compares the requested states with the observed ones, and starts, stops and ends attempts.

`Scheduler.tick` is one round and runs in one thread. Everything that must survive a restart is in the store; between
rounds the scheduler only remembers since when a condition has held, and a restart resets that.
"""

import math
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Connection

from gan_mhe.errors import ConfigError, StorageError
from server.clock import stepped_seconds
from server.crash_points import crash_point
from server.errors import InvalidTransition
from server.executors.base import Executor, ExitRecord, Handle, LaunchError, LaunchSpec, Observation, Signal
from server.ingest import retention, trash
from server.queue import claims, queue, worker_request
from server.queue.public_text import public_text
from server.queue.queue import TRAIN, StopMode
from server.queue.states import TERMINAL, Reason, State
from server.settings import Settings
from server.store import artifacts, heartbeat, job_record, journal
from server.store.rows import AttemptRow, JobRow
from server.store.store import Store
from server.supervision import endings, outcomes, reports, stall_detection
from server.supervision.breaker import Breaker
from server.supervision.machine import Machine

_HOUSEKEEPING_SECONDS = 60.0
_DEADLINES_SECONDS = 1.0
_STOP_NOW_SECONDS = 5.0
_KILL_MARGIN_SECONDS = 5.0  # the supervisor kills after the grace, the scheduler this much later
_KILL_AGAIN_SECONDS = 5.0
_MIB = 2**20

# Failures that say nothing of whether this machine can run attempts.
_SILENT_CODES = frozenset({"disk_full", "config_invalid"})
_NEVER_STARTED = ExitRecord(None, None, "stop", "the attempt was not started", {"outcome": "stopped"})


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
    worked: bool = False
    judged: tuple[ExitRecord | None, bool] | None = None  # how it ended, and whether the job is charged for that
    journal_seq: int = -1
    last_event: float = 0.0


class Scheduler:
    """Moves jobs between states.

    machine: tries whether attempts can run here. clock: monotonic seconds; free_bytes: of the file system that holds a
    path.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        executor: Executor,
        indexer: RunReader,
        *,
        machine: Machine | None = None,
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
        self._machine = machine or Machine(settings, executor, clock)
        self._breaker = Breaker(self._machine.problem, clock)
        self._report = reports.Machine()
        self._watches: dict[str, _Watch] = {}
        self._due: dict[str, float] = {}
        self._last_round = -math.inf

    def poll(self) -> None:
        """Read new events of live attempts."""
        self._indexer.poll()

    def tick(self) -> None:
        """One round. An error in one part, or with one job, does not affect the others; all are raised at the end."""
        parts: Sequence[Callable[[], list[Exception] | None]] = (
            lambda: self._every(heartbeat.INTERVAL_SECONDS, self._beat),
            self._supervise_all,
            lambda: self._every(_DEADLINES_SECONDS, self._cancel_overdue),
            self._start_waiting,
            lambda: self._every(_HOUSEKEEPING_SECONDS, self._keep_house),
        )
        errors: list[Exception] = []
        complete = True
        for part in parts:
            try:
                errors += part() or ()
            except Exception as error:
                errors.append(error)
                complete = False
        if complete:
            self._last_round = self._clock()
        if errors:
            raise ExceptionGroup("parts of a round failed", errors)

    def round_age(self) -> float:
        """Seconds since the last complete round."""
        return self._clock() - self._last_round

    def problem(self) -> str | None:
        """Why this machine cannot start attempts, for clients; None if nothing speaks against it. Thread-safe."""
        found = self._breaker.problem or self._machine.recent_problem()
        return None if found is None else public_text(found, self._settings)

    def _beat(self) -> None:
        self._store.write(heartbeat.beat, name="heartbeat", durable=False)

    def _supervise_all(self) -> list[Exception]:
        return self._for_each(self._supervise, self._store.read(queue.live_attempts))

    def _start_waiting(self) -> list[Exception]:
        """Start attempts, as many as disk and machine allow; with too little disk space, empty the trash, or pause."""
        shortage = self._disk_shortage()
        if shortage is not None:
            if not trash.empty_oldest(self._settings):
                self._pause_running(shortage)
            return []
        allowance = self._breaker.allowance()
        claimed = self._claim(allowance) if allowance != 0 else []
        errors = self._for_each(self._start, claimed)
        if allowance and not claimed and not self._store.read(claims.any_queued):
            self._breaker.nothing_waits()
        self._report.problem(self._breaker.problem)
        return errors

    def _keep_house(self) -> None:
        self._report.stepped(stepped_seconds())
        retention.apply(self._store, self._settings)
        self._store.tidy()

    def _every(self, seconds: float, task: Callable[[], None]) -> None:
        """Do a task if that is due; a task that failed stays due."""
        now = self._clock()
        if now >= self._due.get(task.__name__, now):
            task()
            self._due[task.__name__] = now + seconds

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
        if job["kind"] == TRAIN and job["state"] == State.RUNNING and not watch.worked:
            watch.worked = True
            self._breaker.worked(attempt["id"], job["id"])
        if seen.status == "exited":
            self._end(attempt, job, seen.record, seen.seconds)
        elif job["state"] in (State.PAUSING, State.CANCELLING, State.RECOVERING):
            self._request_stop(handle, job, watch)
        elif (silence := self._silence(attempt, seen, watch)) is not None:
            self._abandon(attempt, job, "now", f"the supervisor has not responded for {silence:.0f} s")
        elif job["kind"] != TRAIN and job["state"] == State.STARTING:
            self._move(attempt, job, State.RUNNING)
        elif (silence := self._stall(attempt, job, watch)) is not None:
            message = f"no progress for {silence:.0f} s at step {job['step']}"
            self._abandon(attempt, job, "graceful", message, {"step": job["step"], "seconds": silence})

    def _silence(self, attempt: AttemptRow, seen: Observation, watch: _Watch) -> float | None:
        """Seconds for which the supervisor has been lost, None while it is not.

        Counts from when this process first saw the lease overdue: until then, this process or the machine may have been
        stopped. The age of a lease that nobody can write says nothing; the supervisor then ends the attempt itself.
        """
        ttl, age, now = self._settings.lease_ttl_seconds, seen.lease_age_seconds, self._clock()
        overdue = seen.status != "running" or (age is not None and age > ttl)
        if not overdue or (seen.status == "running" and self._unwritable(attempt)):
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

    def _unwritable(self, attempt: AttemptRow) -> str | None:
        return self._machine.unwritable(worker_request.attempt_dir(attempt, self._settings))

    def _end(self, attempt: AttemptRow, job: JobRow, record: ExitRecord | None, seconds: float = 0.0) -> None:
        """Read the remaining events, then end the attempt and move its job, in one transaction.

        seconds: how long it ran, if there is no record.
        """
        if record is None and (problem := self._unwritable(attempt)) is not None:
            record = ExitRecord(None, None, "unwritable", f"no exit record: {problem}", seconds=seconds)
        watch = self._watches.setdefault(attempt["id"], _Watch())
        if watch.judged is None or watch.judged[0] != record:  # an end that could not be stored is still one fault
            watch.judged = (record, self._judge(attempt, job, record))
        charged = watch.judged[1]
        public = None if record is None else self._public(record)
        self._indexer.drain(job["id"])

        def work(connection: Connection) -> JobRow:
            ran = seconds if public is None else public.seconds
            delay = 0.0 if charged else self._breaker.retry_seconds
            own = {"seconds": ran, "least_delay_seconds": delay}
            return endings.end(connection, attempt["id"], public, self._limits, charged=charged, **own)

        endings.remove_partial(self._settings, attempt)
        if self._store.write(work)["state"] in TERMINAL:
            self._breaker.ended(attempt["id"], job["id"])
        self._watches.pop(attempt["id"], None)

    def _judge(self, attempt: AttemptRow, job: JobRow, record: ExitRecord | None) -> bool:
        """Tell the breaker what the end says of the machine; returns whether a fault is charged to the job."""
        fault = outcomes.machine_fault(job, record)
        if fault is not None:
            return self._breaker.failed(attempt["id"], job["id"], fault)
        outcome = {} if record is None else record.outcome or {}
        if outcome.get("outcome") in ("completed", "failed") and outcome.get("code") not in _SILENT_CODES:
            self._breaker.worked(attempt["id"], job["id"])
        self._breaker.ended(attempt["id"], job["id"])
        return True

    def _public(self, record: ExitRecord) -> ExitRecord:
        """The record with messages that clients may read."""
        outcome = record.outcome
        if outcome is not None and isinstance(outcome.get("message"), str):
            outcome = {**outcome, "message": public_text(outcome["message"], self._settings)}
        return replace(record, message=public_text(record.message, self._settings), outcome=outcome)

    def _claim(self, most: int | None) -> list[tuple[AttemptRow, JobRow]]:
        """New attempts of waiting jobs for the free slots, at most so many (None: for all)."""
        if not self._store.read(lambda connection: claims.any_queued(connection, due=True)):
            return []
        taken = {attempt["slot"] for attempt, _ in self._store.read(queue.live_attempts)}
        free = [slot for slot in self._executor.inventory() if slot.available and slot.name not in taken]
        slots = self._store.read(lambda connection: claims.wanted(connection, free))[:most]
        if not slots:
            return []
        name = self._executor.name
        claimed = self._store.write(lambda connection: claims.claim(connection, slots, name), name="claim")
        return [(attempt, job) for job, attempt, _ in claimed]

    def _start(self, attempt: AttemptRow, job: JobRow) -> None:
        """Launch an attempt, or adopt it if a server launched it and was killed before storing the handle."""
        job = self._store.read(lambda connection: queue.get(connection, job["id"]))
        self._breaker.started(attempt["id"])
        try:
            handle = self._executor.find(worker_request.attempt_dir(attempt, self._settings))
            if handle is None and job["state"] == State.STARTING:
                job_record.write(self._settings, job)
                handle = self._executor.launch(self._spec(attempt, job))
        except (LaunchError, OSError, StorageError) as error:
            self._end(attempt, job, ExitRecord(None, None, "launch_failed", str(error)))
            return
        except ConfigError as error:
            outcome = {"outcome": "failed", "code": error.code, "message": str(error)}
            self._end(attempt, job, ExitRecord(None, None, "launch_failed", str(error), outcome))
            return
        if handle is None:  # a user changed the job first
            self._end(attempt, job, _NEVER_STARTED)
            return
        crash_point("launch.after_start")
        known = handle
        self._store.write(lambda connection: claims.launched(connection, attempt["id"], known))

    def _spec(self, attempt: AttemptRow, job: JobRow) -> LaunchSpec:
        """The launch of an attempt. Raises LaunchError if its slot no longer exists.

        Raises ConfigError if the job names something that the operator no longer offers.
        """
        slots = {slot.name: slot for slot in self._executor.inventory()}
        if attempt["slot"] not in slots:
            raise LaunchError(f"slot {attempt['slot']} no longer exists")
        made = self._store.read(lambda connection: artifacts.checkpoints(connection, job["id"]))
        statuses = [checkpoint["status"] for checkpoint in made]
        return worker_request.launch_spec(job, attempt, slots[attempt["slot"]], self._settings, checkpoints=statuses)

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

    def _pause_running(self, shortage: str) -> None:
        """Pause running training jobs: they save into the reserve. A user has to resume them."""
        live = self._store.read(queue.live_attempts)
        running = [job for _, job in live if job["kind"] == TRAIN and job["state"] == State.RUNNING]
        if not running:
            return

        def work(connection: Connection) -> None:
            for job in running:
                with suppress(InvalidTransition):  # as above
                    queue.pause(connection, job, reason=Reason.DISK_FULL, message=shortage)

        self._store.write(work)
