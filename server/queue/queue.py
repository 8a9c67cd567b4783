"""Jobs as rows: made, moved from state to state by compare-and-set, and claimed for slots.

Every function works inside the caller's transaction. A move that is not legal from the state the job is in raises
InvalidTransition and changes nothing; a writer with an old lease epoch gets StaleWriter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Select, delete, func, or_, select, update

from server.clock import now_ms
from server.errors import InvalidTransition, NotFound, RevisionMismatch, StaleWriter
from server.executors.base import Handle, Slot
from server.ids import new_id
from server.queue.states import LIVE, TERMINAL, Reason, State, legal
from server.store import journal, tables
from server.store.rows import Row

StopMode = Literal["graceful", "now"]

# One level of priority is worth as much as having waited this long: low priority ages instead of starving.
PRIORITY_STEP_MS = 600_000

_jobs, _attempts, _labels = tables.jobs, tables.attempts, tables.job_labels
TRAIN = "train"


@dataclass(frozen=True)
class NewJob:
    """What a job is made of. `request` is a RunConfig document for training, a task's parameters otherwise."""

    project: str
    request: Mapping[str, Any]
    request_sha256: str
    kind: str = TRAIN
    name: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    origin: str = "submitted"
    experiment_id: str | None = None
    cell: Mapping[str, Any] | None = None
    forked_from: Mapping[str, Any] | None = None
    variant: str | None = None
    seed: int | None = None
    total_steps: int | None = None
    device: str = "auto"
    priority: int = 0
    wall_seconds_limit: float | None = None
    start_deadline: int | None = None


def create(connection: Connection, new: NewJob, state: State = State.QUEUED, **facts: Any) -> Row:
    """A new job, in the queue; or, for work done elsewhere, in the state it is in, with further columns as `facts`."""
    now = now_ms()
    values = {
        **{name: getattr(new, name) for name in NewJob.__dataclass_fields__},
        "labels": dict(new.labels),
        "id": new_id("job" if new.kind == TRAIN else "task"),
        "state": state,
        "rank": _rank(now, new.priority),
        "created_at": now,
        "queued_at": now,
        "finished_at": now if state in TERMINAL else None,
        **dict.fromkeys(_COUNTERS, 0),
        "revision": 1,
        **facts,
    }
    connection.execute(_jobs.insert().values(values))
    job = get(connection, str(values["id"]))
    _write_labels(connection, job)
    _announce_state(connection, job)
    return get(connection, job["id"])


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


def _write_labels(connection: Connection, job: Row) -> None:
    connection.execute(delete(_labels).where(_labels.c.job_seq == job["seq"]))
    if job["labels"]:
        rows = [{"job_seq": job["seq"], "key": key, "value": value} for key, value in job["labels"].items()]
        connection.execute(_labels.insert(), rows)


def get(connection: Connection, job_id: str, project: str | None = None) -> Row:
    """A job or task. NotFound when there is none, or it is another project's."""
    row = _one(connection, select(_jobs).where(_jobs.c.id == job_id))
    if row is None or (project is not None and row["project"] != project):
        raise NotFound(f"there is no {job_id!r}")
    return row


def _one(connection: Connection, query: Select[Any]) -> Row | None:
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else {str(key): value for key, value in row.items()}


def waiting(connection: Connection, project: str) -> int:
    """How many jobs of a project are queued."""
    query = select(func.count()).select_from(_jobs).where(_jobs.c.project == project, _jobs.c.state == State.QUEUED)
    return connection.execute(query).scalar_one()


def move(
    connection: Connection,
    job: Row,
    to: State,
    *,
    reason: Reason | None = None,
    message: str | None = None,
    exit_code: int | None = None,
    epoch: int | None = None,
    **changes: Any,
) -> Row:
    """Take a job from the state it was read in to another; state, reason, times and exit code change together.

    epoch: the lease epoch of a writer that acts for an attempt.
    """
    before = State(job["state"])
    if not legal(before, to):
        raise InvalidTransition(f"{job['id']} is {before}; it cannot become {to}")
    if epoch is not None and epoch != job["lease_epoch"]:
        raise StaleWriter(f"{job['id']} is at lease epoch {job['lease_epoch']}; the writer's is {epoch}")
    values = {
        "state": to,
        "reason": reason,
        "message": message,
        "exit_code": exit_code,
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


def _times(job: Row, to: State) -> dict[str, Any]:
    now = now_ms()
    if to is State.QUEUED:
        return {"queued_at": now, "rank": _rank(now, job["priority"]), "finished_at": None}
    if to is State.RUNNING:
        return {"started_at": job["started_at"] or now}
    if to in TERMINAL:
        return {"finished_at": now, "stop_mode": None, "stop_at": None, "eta_seconds": None}
    if to is State.PAUSED:
        return {"stop_mode": None, "stop_at": None, "eta_seconds": None}
    return {}


def _announce_state(connection: Connection, job: Row) -> None:
    journal.append(connection, job["id"], "job.state", _state_data(job))


def _state_data(job: Row) -> dict[str, Any]:
    return {
        "state": job["state"],
        "terminal": job["state"] in TERMINAL,
        "reason": job["reason"],
        "message": job["message"],
        "exit_code": job["exit_code"],
        "attempt": job["attempts"],
        "revision": job["revision"],
    }


# What users ask for.


def cancel(connection: Connection, job: Row, mode: StopMode = "graceful") -> Row:
    """Cancel: at once where nothing runs, else as soon as the attempt has ended. Asking again may only be harsher."""
    state = State(job["state"])
    if state is State.CANCELLING:
        return _harsher(connection, job, mode)
    if state in LIVE and live_attempt(connection, job["id"]):
        return move(connection, job, State.CANCELLING, reason=Reason.USER, stop_mode=mode, stop_at=now_ms())
    return move(connection, job, State.CANCELLED, reason=Reason.USER)


def cancel_many(connection: Connection, jobs: Sequence[Row], mode: StopMode = "graceful") -> list[str]:
    """Cancel whichever of `jobs` have not ended, and return their ids. Thousands that wait cost a few statements."""
    open_ids = {job["id"] for job in jobs if job["state"] not in TERMINAL}
    idle = _cancel_idle(connection, [job["id"] for job in jobs if job["state"] in (State.QUEUED, State.PAUSED)])
    for job in jobs:
        if job["id"] in open_ids - idle:
            cancel(connection, job, mode)
    return [job["id"] for job in jobs if job["id"] in open_ids]


def _cancel_idle(connection: Connection, job_ids: Sequence[str]) -> set[str]:
    """Cancel the jobs that are queued or paused, which no process has to be asked about."""
    values = {
        "state": State.CANCELLED,
        "reason": Reason.USER,
        "message": None,
        "exit_code": None,
        "finished_at": now_ms(),
        "eta_seconds": None,
        "revision": _jobs.c.revision + 1,
    }
    idle = (_jobs.c.id.in_(job_ids), _jobs.c.state.in_((State.QUEUED, State.PAUSED)))
    changed = connection.execute(update(_jobs).where(*idle).values(values).returning(_jobs))
    moved = [dict(row) for row in changed.mappings()]
    journal.append_each(connection, "job.state", {job["id"]: _state_data(job) for job in moved})
    return {job["id"] for job in moved}


def pause(
    connection: Connection,
    job: Row,
    mode: StopMode = "graceful",
    *,
    reason: Reason = Reason.USER,
    message: str | None = None,
) -> Row:
    """Pause: the attempt saves its state and gives its slot back."""
    state = State(job["state"])
    if state is State.PAUSING:
        return _harsher(connection, job, mode)
    if state in LIVE and live_attempt(connection, job["id"]):
        return move(connection, job, State.PAUSING, reason=reason, message=message, stop_mode=mode, stop_at=now_ms())
    return move(connection, job, State.PAUSED, reason=reason, message=message)


def _harsher(connection: Connection, job: Row, mode: StopMode) -> Row:
    if mode == "now" and job["stop_mode"] != "now":
        changes = {"stop_mode": mode, "revision": _jobs.c.revision + 1}
        connection.execute(update(_jobs).where(_jobs.c.id == job["id"]).values(changes))
    return get(connection, job["id"])


def resume(connection: Connection, job: Row) -> Row:
    """Put a paused job back into the queue."""
    if job["state"] != State.PAUSED:
        raise InvalidTransition(f"{job['id']} is {job['state']}; only a paused job can be resumed")
    return move(connection, job, State.QUEUED, not_before=None)


def retry(connection: Connection, job: Row) -> Row:
    """Put a failed job back into the queue, with budgets and time full again; it goes on from its last checkpoint."""
    if job["state"] != State.FAILED:
        raise InvalidTransition(f"{job['id']} is {job['state']}; only a failed job can be retried")
    fresh: dict[str, Any] = {"infrastructure_used": 0, "program_used": 0, "wall_seconds_used": 0.0}
    return move(connection, job, State.QUEUED, not_before=None, result=None, **fresh)


def change(connection: Connection, job: Row, changes: Mapping[str, Any], *, revision: int | None = None) -> Row:
    """Set `name`, `labels`, `priority`. RevisionMismatch when `revision` is given and not the job's."""
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


def remove(connection: Connection, job: Row) -> None:
    """Forget a job that has ended and all rows about it. Its files are the caller's to delete."""
    if State(job["state"]) not in TERMINAL:
        raise InvalidTransition(f"{job['id']} is {job['state']}; only a job that has ended can be deleted")
    if live_attempt(connection, job["id"]):
        raise InvalidTransition(f"{job['id']} still has a process; it can be deleted once that is gone")
    connection.execute(delete(_jobs).where(_jobs.c.id == job["id"]))


# What the scheduler asks for.


def live_attempt(connection: Connection, job_id: str) -> Row | None:
    """The attempt of a job of which something may still run."""
    return _one(connection, select(_attempts).where(_attempts.c.job_id == job_id, _attempts.c.live))


def live_attempts(connection: Connection) -> Sequence[tuple[Row, Row]]:
    """Every attempt of which something may still run, with its job."""
    ids = connection.execute(select(_attempts.c.id).where(_attempts.c.live).order_by(_attempts.c.created_at)).scalars()
    found = [attempt(connection, attempt_id) for attempt_id in ids.all()]
    return [(row, get(connection, row["job_id"])) for row in found]


def attempt(connection: Connection, attempt_id: str) -> Row:
    """One attempt. NotFound when there is none."""
    row = _one(connection, select(_attempts).where(_attempts.c.id == attempt_id))
    if row is None:
        raise NotFound(f"there is no {attempt_id!r}")
    return row


def overdue(connection: Connection) -> Sequence[Row]:
    """Jobs that should have started by now and never have."""
    late = (_jobs.c.state == State.QUEUED, _jobs.c.started_at.is_(None), _jobs.c.start_deadline <= now_ms())
    return [dict(row) for row in connection.execute(select(_jobs).where(*late)).mappings()]


def any_due(connection: Connection) -> bool:
    """Whether any job waits that may start now."""
    query = select(_jobs.c.seq).where(_jobs.c.state == State.QUEUED, _is_due()).limit(1)
    return connection.execute(query).first() is not None


def wanted(connection: Connection, slots: Sequence[Slot]) -> list[Slot]:
    """Those of the slots for which a job waits."""
    return [slot for slot in slots if connection.execute(_first_waiting(slot)).first() is not None]


def claim(connection: Connection, slots: Sequence[Slot], executor: str) -> list[tuple[Row, Row, Slot]]:
    """Give each free slot the waiting job that fits it and comes first; the job is `starting` with a new epoch."""
    claimed = []
    for slot in slots:
        job = _one(connection, _first_waiting(slot))
        if job is None:
            continue
        number = job["attempts"] + 1
        epoch = job["lease_epoch"] + 1
        job = move(connection, job, State.STARTING, lease_epoch=epoch, attempts=number, not_before=None)
        attempt_id = new_id("att")
        values = {
            "id": attempt_id,
            "job_id": job["id"],
            "number": number,
            "epoch": epoch,
            "executor": executor,
            "slot": slot.name,
            "live": True,
            "created_at": now_ms(),
        }
        connection.execute(_attempts.insert().values(values))
        claimed.append((job, attempt(connection, attempt_id), slot))
    return claimed


def launched(connection: Connection, attempt_id: str, handle: Handle) -> None:
    """Keep how the executor knows the attempt that it has started."""
    values = {"handle": dict(handle), "started_at": now_ms()}
    connection.execute(update(_attempts).where(_attempts.c.id == attempt_id).values(values))


def requeue(connection: Connection, job: Row, *, delay_seconds: float, **changes: Any) -> Row:
    """Put a job that lost its attempt back into the queue, at its old place; it starts after the delay."""
    place = {"rank": job["rank"], "queued_at": job["queued_at"]}
    quiet = {"stop_mode": None, "stop_at": None, "eta_seconds": None}
    not_before = now_ms() + round(1000 * delay_seconds)
    return move(connection, job, State.QUEUED, not_before=not_before, **place, **quiet, **changes)


def _first_waiting(slot: Slot) -> Select[Any]:
    device = "cuda" if slot.device.startswith("cuda") else "cpu"
    fits = _jobs.c.kind == TRAIN if slot.purpose == "train" else _jobs.c.kind != TRAIN
    free_choice = ("auto", device)
    query = select(_jobs).where(_jobs.c.state == State.QUEUED, fits, _jobs.c.device.in_(free_choice), _is_due())
    return query.order_by(_jobs.c.rank, _jobs.c.seq).limit(1)


def _is_due() -> ColumnElement[bool]:
    return or_(_jobs.c.not_before.is_(None), _jobs.c.not_before <= now_ms())
