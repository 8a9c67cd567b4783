"""Many jobs queued at once: their rows are made before the transaction that inserts them with a few statements."""

from collections.abc import Sequence
from typing import TypedDict

from sqlalchemy import Connection

from server.clock import now_ms
from server.queue import queue
from server.queue.queue import NewJob
from server.store import journal, tables
from server.store.sqlite import Prepared


class _Label(TypedDict):
    """A row of `job_labels`."""

    job_seq: int
    key: str
    value: str


class NewJobs:
    """Jobs to be queued together, in their order. ids: theirs."""

    def __init__(self, jobs: Sequence[NewJob]) -> None:
        now = now_ms()
        rows = [{**queue.columns(job, now), "id": queue.fresh_id(job), "journal_seq": 1} for job in jobs]
        self.ids: list[str] = [row["id"] for row in rows]
        self._labels = [job.labels for job in jobs]
        self._rows = Prepared(tables.jobs, rows)
        self._history = journal.FirstRows("job.state", {row["id"]: queue.state_data(row) for row in rows})

    def insert(self, connection: Connection) -> None:
        """Queue the jobs."""
        numbers = self._rows.insert_numbered(connection, tables.jobs.c.seq)
        labels: list[_Label] = [
            {"job_seq": seq, "key": key, "value": value}
            for seq, mine in zip(numbers, self._labels, strict=True)
            for key, value in mine.items()
        ]
        Prepared(tables.job_labels, labels).insert(connection)
        self._history.append(connection)
