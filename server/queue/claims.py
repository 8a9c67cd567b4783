"""Waiting jobs claimed for free slots.

Every function works in the caller's transaction.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, or_, select, union_all, update

from server.clock import now_ms
from server.executors.base import Handle, Slot
from server.ids import new_id
from server.queue import queue, tasks
from server.queue.states import State
from server.store import tables
from server.store.rows import AttemptRow, JobRow, fetch_one

_jobs, _attempts = tables.jobs, tables.attempts


def any_queued(connection: Connection, *, due: bool = False) -> bool:
    """Return whether any job is queued. due: only those count that may start now."""
    query = select(_jobs.c.seq).where(_jobs.c.state == State.QUEUED, *([_is_due()] if due else [])).limit(1)
    return connection.execute(query).first() is not None


def wanted(connection: Connection, slots: Sequence[Slot]) -> list[Slot]:
    """Return those of the slots for which a job is waiting."""
    return [slot for slot in slots if connection.execute(_first_waiting(slot)).first() is not None]


def claim(connection: Connection, slots: Sequence[Slot], executor: str) -> list[tuple[JobRow, AttemptRow, Slot]]:
    """Give each free slot the first waiting job that fits it. The job becomes `starting`, with a new lease epoch."""
    claimed = []
    for slot in slots:
        job = fetch_one(connection, _first_waiting(slot), JobRow)
        if job is None:
            continue
        number = job["attempts"] + 1
        epoch = job["lease_epoch"] + 1
        job = queue.move(connection, job, State.STARTING, lease_epoch=epoch, attempts=number, not_before=None)
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
        claimed.append((job, queue.attempt(connection, attempt_id), slot))
    return claimed


def launched(connection: Connection, attempt_id: str, handle: Handle) -> None:
    """Store the handle by which the executor identifies an attempt that it has started."""
    values = {"handle": dict(handle), "started_at": now_ms()}
    connection.execute(update(_attempts).where(_attempts.c.id == attempt_id).values(values))


def _first_waiting(slot: Slot) -> Select[Any]:
    """The first of those that come first for each kind and device, each of which an index finds at once."""
    device = "cuda" if slot.device.startswith("cuda") else "cpu"
    kinds = (queue.TRAIN,) if slot.purpose == "train" else tasks.KINDS
    firsts = [_first_of(kind, wanted) for kind in kinds for wanted in ("auto", device)]
    each = union_all(*firsts).subquery()
    first = select(each.c.seq).order_by(each.c.rank, each.c.seq).limit(1).scalar_subquery()
    return select(_jobs).where(_jobs.c.seq == first)


def _first_of(kind: str, device: str) -> Select[Any]:
    fits = (_jobs.c.state == State.QUEUED, _jobs.c.kind == kind, _jobs.c.device == device, _is_due())
    first = select(_jobs.c.seq, _jobs.c.rank).where(*fits).order_by(_jobs.c.rank, _jobs.c.seq).limit(1).subquery()
    return select(first.c.seq, first.c.rank)


def _is_due() -> ColumnElement[bool]:
    now, at = now_ms(), _jobs.c.not_before
    return or_(at.is_(None), at <= now, at > now + round(1000 * queue.LONGEST_DELAY_SECONDS))
