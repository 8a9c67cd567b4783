"""Job rows: created, moved from state to state by compare-and-set, and claimed for slots.

Every function works in the caller's transaction. An illegal move raises InvalidTransition and changes nothing; a writer
with an old lease epoch gets StaleWriter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Unpack

from sqlalchemy import Connection, case, delete, func, select, update

from server.clock import now_ms
from server.errors import InvalidTransition, NotFound, RevisionMismatch, StaleWriter
from server.ids import new_id
from server.queue.states import LIVE, TERMINAL, Reason, State, legal
from server.store import journal, tables
from server.store.rows import AttemptRow, ForkedFrom, JobChanges, JobRow, fetch_all, fetch_one

StopMode = Literal["graceful", "now"]

# One level of priority counts as much as waiting for this long, so that jobs of low priority cannot starve.
PRIORITY_STEP_MS = 600_000

# The longest delay before another try. What is due later than this was written by a clock that has been set back.
LONGEST_DELAY_SECONDS = 60.0

_jobs, _attempts, _labels = tables.jobs, tables.attempts, tables.job_labels
TRAIN = "train"


@dataclass(frozen=True)
class NewJob:
    """The values of a new job. request: a RunConfig document for training, a task's parameters otherwise."""

    project: str
    request: Mapping[str, Any]
    request_sha256: str
    kind: str = TRAIN
    name: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    origin: str = "submitted"
    experiment_id: str | None = None
    cell: Mapping[str, Any] | None = None
    forked_from: ForkedFrom | None = None
    variant: str | None = None
    seed: int | None = None
    total_steps: int | None = None
    device: str = "auto"
    priority: int = 0
    wall_seconds_limit: float | None = None
    start_deadline: int | None = None


def create(
    connection: Connection,
    new: NewJob,
    state: State = State.QUEUED,
    *,
    job_id: str | None = None,
    **facts: Unpack[JobChanges],
) -> JobRow:
    """Create a job. It is queued, unless it was run elsewhere; then `state` and `facts` describe it.

    job_id: the id of a job that had one already, whose files are named by it.
    """
    values = {**columns(new, now_ms(), state), "id": job_id or fresh_id(new), **facts}
    connection.execute(_jobs.insert().values(values))
    job = get(connection, str(values["id"]))
    _write_labels(connection, job)
    _announce_state(connection, job)
    return get(connection, job["id"])


def fresh_id(new: NewJob) -> str:
    """Return an id for a new job or task."""
    return new_id("job" if new.kind == TRAIN else "task")


def columns(new: NewJob, now: int, state: State = State.QUEUED) -> dict[str, Any]:
    """Return the values of a new job's row, without its id. now: the time of its queueing, in milliseconds."""
    return {
        **{name: getattr(new, name) for name in NewJob.__dataclass_fields__},
        "labels": dict(new.labels),
        "state": state,
        "rank": _rank(now, new.priority),
        "created_at": now,
        "queued_at": now,
        "finished_at": now if state in TERMINAL else None,
        **dict.fromkeys(_COUNTERS, 0),
        "revision": 1,
    }


_COUNTERS = (
    "lease_epoch",
    "attempts",
    "infrastructure_used",
    "program_used",
    "step",
    "wall_seconds_used",
    "events_offset",
    "events_seq",
    "console_offset",
    "journal_seq",
)


def _rank(queued_at: int, priority: int) -> int:
    return queued_at - priority * PRIORITY_STEP_MS


def _write_labels(connection: Connection, job: JobRow) -> None:
    connection.execute(delete(_labels).where(_labels.c.job_seq == job["seq"]))
    if job["labels"]:
        rows = [{"job_seq": job["seq"], "key": key, "value": value} for key, value in job["labels"].items()]
        connection.execute(_labels.insert(), rows)


def get(connection: Connection, job_id: str, project: str | None = None) -> JobRow:
    """Return a job or task. Raises NotFound if it does not exist or belongs to another project than `project`."""
    row = fetch_one(connection, select(_jobs).where(_jobs.c.id == job_id), JobRow)
    if row is None or (project is not None and row["project"] != project):
        raise NotFound(f"there is no {job_id!r}")
    return row


def count(connection: Connection) -> int:
    """Return how many jobs and tasks there are."""
    return connection.execute(select(func.count()).select_from(_jobs)).scalar_one()


def count_trained(connection: Connection) -> int:
    """Return how many jobs have trained a step: they have files."""
    query = select(func.count()).select_from(_jobs).where(_jobs.c.kind == TRAIN, _jobs.c.step > 0)
    return connection.execute(query).scalar_one()


def waiting(connection: Connection, project: str) -> int:
    """Return how many jobs of a project are queued."""
    query = select(func.count()).select_from(_jobs).where(_jobs.c.project == project, _jobs.c.state == State.QUEUED)
    return connection.execute(query).scalar_one()


def move(
    connection: Connection,
    job: JobRow,
    to: State,
    *,
    epoch: int | None = None,
    **changes: Unpack[JobChanges],
) -> JobRow:
    """Move a job from the state in `job` to another, and set its times and the columns in `changes`.

    Reason, message and exit code become None unless they are given. epoch: the lease epoch of a writer that acts for an
    attempt. Raises InvalidTransition if the move is illegal or the job is no longer in that state, StaleWriter if the
    epoch is not the job's.
    """
    before = State(job["state"])
    if not legal(before, to):
        raise InvalidTransition(f"{job['id']} is {before}; it cannot become {to}")
    if epoch is not None and epoch != job["lease_epoch"]:
        raise StaleWriter(f"{job['id']} is at lease epoch {job['lease_epoch']}; the writer's is {epoch}")
    values = {
        "state": to,
        "reason": None,
        "message": None,
        "exit_code": None,
        "revision": _jobs.c.revision + 1,
        **_times(job, to),
        **changes,
    }
    guard = (_jobs.c.id == job["id"], _jobs.c.state == before, _jobs.c.lease_epoch == job["lease_epoch"])
    if connection.execute(update(_jobs).where(*guard).values(values)).rowcount != 1:
        raise InvalidTransition(f"{job['id']} is no longer {before}; it cannot become {to}")
    moved = get(connection, job["id"])
    _announce_state(connection, moved)
    return get(connection, job["id"])


def _times(job: JobRow, to: State) -> JobChanges:
    now = now_ms()
    if to is State.QUEUED:
        return {"queued_at": now, "rank": _rank(now, job["priority"]), "finished_at": None}
    if to is State.RUNNING:
        return {"started_at": job["started_at"] or now}
    if to in TERMINAL:
        return {
            "finished_at": max(now, job["started_at"] or 0),
            "stop_mode": None,
            "stop_at": None,
            "eta_seconds": None,
        }
    if to is State.PAUSED:
        return {"stop_mode": None, "stop_at": None, "eta_seconds": None}
    return {}


def _announce_state(connection: Connection, job: JobRow) -> None:
    journal.append(connection, job["id"], "job.state", state_data(job))


def state_data(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the history says of a job's state. job: its row; a column that a new row lacks is None."""
    return {
        "state": job["state"],
        "terminal": job["state"] in TERMINAL,
        "reason": job.get("reason"),
        "message": job.get("message"),
        "exit_code": job.get("exit_code"),
        "attempt": job["attempts"],
        "revision": job["revision"],
    }


# Requests of users.


def cancel(connection: Connection, job: JobRow, mode: StopMode = "graceful") -> JobRow:
    """Cancel a job: at once if no attempt runs, else when the attempt has ended.

    A second request can change the mode from `graceful` to `now`, not back.
    """
    state = State(job["state"])
    if state is State.CANCELLING:
        return _escalate(connection, job, mode)
    if state in LIVE and live_attempt(connection, job["id"]):
        return move(connection, job, State.CANCELLING, reason=Reason.USER, stop_mode=mode, stop_at=now_ms())
    return move(connection, job, State.CANCELLED, reason=Reason.USER)


def cancel_many(connection: Connection, jobs: Sequence[JobRow], mode: StopMode = "graceful") -> list[str]:
    """Cancel those of `jobs` that have not ended and return their ids.

    All queued and paused jobs together take a few statements.
    """
    open_ids = {job["id"] for job in jobs if job["state"] not in TERMINAL}
    idle = _cancel_idle(connection, [job["id"] for job in jobs if job["state"] in (State.QUEUED, State.PAUSED)])
    for job in jobs:
        if job["id"] in open_ids - idle:
            cancel(connection, job, mode)
    return [job["id"] for job in jobs if job["id"] in open_ids]


def _cancel_idle(connection: Connection, job_ids: Sequence[str]) -> set[str]:
    """Cancel the queued and paused jobs, which have no process, and return their ids."""
    now = now_ms()
    values = {
        "state": State.CANCELLED,
        "reason": Reason.USER,
        "message": None,
        "exit_code": None,
        "finished_at": case((_jobs.c.started_at > now, _jobs.c.started_at), else_=now),
        "eta_seconds": None,
        "revision": _jobs.c.revision + 1,
    }
    idle = (_jobs.c.id.in_(job_ids), _jobs.c.state.in_((State.QUEUED, State.PAUSED)))
    moved = fetch_all(connection, update(_jobs).where(*idle).values(values).returning(_jobs), JobRow)
    journal.append_each(connection, "job.state", {job["id"]: state_data(job) for job in moved})
    return {job["id"] for job in moved}


def pause(
    connection: Connection,
    job: JobRow,
    mode: StopMode = "graceful",
    *,
    reason: Reason = Reason.USER,
    message: str | None = None,
) -> JobRow:
    """Pause a job: its attempt saves a checkpoint and frees its slot."""
    state = State(job["state"])
    if state is State.PAUSING:
        return _escalate(connection, job, mode)
    if state in LIVE and live_attempt(connection, job["id"]):
        return move(connection, job, State.PAUSING, reason=reason, message=message, stop_mode=mode, stop_at=now_ms())
    return move(connection, job, State.PAUSED, reason=reason, message=message)


def _escalate(connection: Connection, job: JobRow, mode: StopMode) -> JobRow:
    if mode == "now" and job["stop_mode"] != "now":
        changes = {"stop_mode": mode, "revision": _jobs.c.revision + 1}
        connection.execute(update(_jobs).where(_jobs.c.id == job["id"]).values(changes))
    return get(connection, job["id"])


def resume(connection: Connection, job: JobRow) -> JobRow:
    """Put a paused job back into the queue."""
    if job["state"] != State.PAUSED:
        raise InvalidTransition(f"{job['id']} is {job['state']}; only a paused job can be resumed")
    return move(connection, job, State.QUEUED, not_before=None)


def retry(connection: Connection, job: JobRow) -> JobRow:
    """Put a failed job back into the queue, with full retry and time budgets; it continues from its last checkpoint."""
    if job["state"] != State.FAILED:
        raise InvalidTransition(f"{job['id']} is {job['state']}; only a failed job can be retried")
    fresh: JobChanges = {
        "infrastructure_used": 0,
        "program_used": 0,
        "wall_seconds_used": 0.0,
        "not_before": None,
        "result": None,
    }
    return move(connection, job, State.QUEUED, **fresh)


def change(connection: Connection, job: JobRow, changes: Mapping[str, Any], *, revision: int | None = None) -> JobRow:
    """Set any of `name`, `labels` and `priority`. Raises RevisionMismatch if `revision` is given and not the job's."""
    if revision is not None and revision != job["revision"]:
        raise RevisionMismatch(f"{job['id']} is at revision {job['revision']}; expected {revision}")
    values = {**changes, "revision": _jobs.c.revision + 1}
    if "priority" in changes and job["queued_at"] is not None:
        values["rank"] = _rank(job["queued_at"], changes["priority"])
    connection.execute(update(_jobs).where(_jobs.c.id == job["id"]).values(values))
    changed = get(connection, job["id"])
    if "labels" in changes:
        _write_labels(connection, changed)
    return changed


# Requests of the scheduler.


def live_attempt(connection: Connection, job_id: str) -> AttemptRow | None:
    """Return the attempt of a job that may still have processes, if there is one."""
    return fetch_one(connection, select(_attempts).where(_attempts.c.job_id == job_id, _attempts.c.live), AttemptRow)


def newest_attempt(connection: Connection, job_id: str) -> AttemptRow | None:
    """Return the newest attempt of a job, if there was one."""
    mine = select(_attempts).where(_attempts.c.job_id == job_id).order_by(_attempts.c.number.desc())
    return fetch_one(connection, mine.limit(1), AttemptRow)


def live_attempts(connection: Connection) -> list[tuple[AttemptRow, JobRow]]:
    """Return every attempt that may still have processes, with its job."""
    ids = connection.execute(select(_attempts.c.id).where(_attempts.c.live).order_by(_attempts.c.created_at)).scalars()
    found = [attempt(connection, attempt_id) for attempt_id in ids.all()]
    return [(row, get(connection, row["job_id"])) for row in found]


def attempt(connection: Connection, attempt_id: str) -> AttemptRow:
    """Return one attempt. Raises NotFound if there is none."""
    row = fetch_one(connection, select(_attempts).where(_attempts.c.id == attempt_id), AttemptRow)
    if row is None:
        raise NotFound(f"there is no {attempt_id!r}")
    return row


def overdue(connection: Connection) -> list[JobRow]:
    """Return the queued jobs that never started and whose start deadline has passed."""
    late = (_jobs.c.state == State.QUEUED, _jobs.c.started_at.is_(None), _jobs.c.start_deadline <= now_ms())
    return fetch_all(connection, select(_jobs).where(*late), JobRow)


def requeue(
    connection: Connection,
    job: JobRow,
    *,
    delay_seconds: float,
    epoch: int | None = None,
    **changes: Unpack[JobChanges],
) -> JobRow:
    """Put a job that lost its attempt back into the queue with its old rank; it can start after the delay.

    epoch, changes and errors: as for `move`.
    """
    requeued: JobChanges = {
        **changes,
        "not_before": now_ms() + round(1000 * delay_seconds),
        "rank": job["rank"],
        "queued_at": job["queued_at"],
        "stop_mode": None,
        "stop_at": None,
        "eta_seconds": None,
    }
    return move(connection, job, State.QUEUED, epoch=epoch, **requeued)
