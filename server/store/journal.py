"""The durable history of jobs, which event streams replay, oldest first."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Select, func, select, update

from server.clock import now_ms
from server.store import tables
from server.store.rows import JournalRow, NewJournalRow, fetch_all
from server.store.sqlite import Prepared, inserted_key
from server.store.store import announce

_journal, _jobs = tables.journal, tables.jobs


def append(connection: Connection, job_id: str, type_: str, data: Mapping[str, Any]) -> JournalRow:
    """Add one row to a job's history. Listeners get it after the commit."""
    job_seq: int = connection.execute(
        update(_jobs)
        .where(_jobs.c.id == job_id)
        .values(journal_seq=_jobs.c.journal_seq + 1)
        .returning(_jobs.c.journal_seq)
    ).scalar_one()
    new: NewJournalRow = {
        "job_id": job_id,
        "job_seq": job_seq,
        "type": type_,
        "time": now_ms(),
        "data": dict(data),
    }
    row: JournalRow = {**new, "seq": inserted_key(connection.execute(_journal.insert().values(dict(new))))}
    announce(connection, row)
    return row


def append_each(connection: Connection, type_: str, data: Mapping[str, Mapping[str, Any]]) -> None:
    """Add one row to the history of each of many jobs, with a few statements. data: by job id."""
    if not data:
        return
    counted = connection.execute(
        update(_jobs)
        .where(_jobs.c.id.in_(list(data)))
        .values(journal_seq=_jobs.c.journal_seq + 1)
        .returning(_jobs.c.id, _jobs.c.journal_seq)
    )
    numbers: dict[str, int] = dict(counted.all())
    last = connection.execute(select(func.max(_journal.c.seq))).scalar() or 0
    rows: list[NewJournalRow] = [
        {"job_id": job_id, "job_seq": numbers[job_id], "type": type_, "time": now_ms(), "data": dict(document)}
        for job_id, document in data.items()
    ]
    connection.execute(_journal.insert(), rows)
    query = select(_journal).where(_journal.c.seq > last).order_by(_journal.c.seq)
    for row in fetch_all(connection, query, JournalRow):
        announce(connection, row)


class FirstRows:
    """The first row of the history of each of many new jobs, made before the transaction that inserts them.

    data: by job id. The rows of the jobs have 1 as their `journal_seq`.
    """

    def __init__(self, type_: str, data: Mapping[str, Mapping[str, Any]]) -> None:
        now = now_ms()
        self._rows: list[NewJournalRow] = [
            {"job_id": job_id, "job_seq": 1, "type": type_, "time": now, "data": dict(document)}
            for job_id, document in data.items()
        ]
        self._prepared = Prepared(_journal, self._rows)

    def append(self, connection: Connection) -> None:
        """Add the rows. Listeners get them after the commit."""
        for row, seq in zip(self._rows, self._prepared.insert_numbered(connection, _journal.c.seq), strict=True):
            announce(connection, {**row, "seq": seq})


def of_job(connection: Connection, job_id: str, *, after: int, limit: int) -> list[JournalRow]:
    """Return a job's rows with job_seq > after, oldest first."""
    query = select(_journal).where(_journal.c.job_id == job_id, _journal.c.job_seq > after)
    return fetch_all(connection, query.order_by(_journal.c.job_seq).limit(limit), JournalRow)


def of_jobs(connection: Connection, job_ids: Sequence[str], *, after: int, limit: int) -> list[JournalRow]:
    """Return several jobs' rows with seq > after, oldest first."""
    numbers = select(_journal.c.seq).where(_journal.c.job_id.in_(job_ids), _journal.c.seq > after)
    return _numbered(connection, numbers.order_by(_journal.c.seq).limit(limit))


def tail(connection: Connection, job_ids: Sequence[str], *, limit: int, before: int | None = None) -> list[JournalRow]:
    """Return the newest rows of several jobs, oldest first. before: the `seq` that all are below; None: any."""
    numbers = select(_journal.c.seq).where(_journal.c.job_id.in_(job_ids))
    if before is not None:
        numbers = numbers.where(_journal.c.seq < before)
    return _numbered(connection, numbers.order_by(_journal.c.seq.desc()).limit(limit))


def _numbered(connection: Connection, numbers: Select[Any]) -> list[JournalRow]:
    """Return the rows of these numbers, oldest first: the numbers of several jobs are sorted without their rows."""
    query = select(_journal).where(_journal.c.seq.in_(numbers)).order_by(_journal.c.seq)
    return fetch_all(connection, query, JournalRow)
