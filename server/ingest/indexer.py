"""Reads what runs write into their directories, while they write it, into the store."""

import math
import time
from collections.abc import Callable
from functools import partial

from sqlalchemy import Connection, select, update

from server.ingest.run_events import Ingest
from server.ingest.tail import Text, count_lines, newest_text, whole_lines
from server.queue import queue
from server.settings import Settings
from server.store import artifacts, journal, tables
from server.store.rows import Row
from server.store.store import Store

# After text that did not fit into one row a console is left alone for so long: a flood becomes one row a second.
FLOOD_SECONDS = 1.0

_jobs, _attempts = tables.jobs, tables.attempts


class Indexer:
    """Follows the run journals and consoles of jobs. `poll` is for one thread; `drain` is too, for each job."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._flooded: dict[str, float] = {}  # monotonic time of the last row that had to leave text out, by job
        self._unreadable: set[str] = set()

    def poll(self) -> None:
        """Read what is new of every job that has an attempt, of each at most one chunk."""
        for job in self._store.read(_followed):
            self._read(job, self._read_events)
            self._read(job, self._read_console)
        self._flooded = {key: at for key, at in self._flooded.items() if time.monotonic() - at < FLOOD_SECONDS}

    def drain(self, job_id: str) -> None:
        """Read a job's files to their ends. NotFound when there is no such job."""
        job = self._store.read(lambda connection: queue.get(connection, job_id))
        while self._read(job, self._read_events):
            job = self._store.read(lambda connection: queue.get(connection, job_id))
        self._read(job, partial(self._read_console, to_the_end=True))

        def note_pruned(connection: Connection) -> None:
            artifacts.note_pruned_checkpoints(connection, self._settings, job_id)

        self._store.write(note_pruned, name="ingest", durable=False)

    def _read(self, job: Row, reader: Callable[[Row], bool]) -> bool:
        """Whether there was anything to read. Files that cannot be read are spoken of once."""
        try:
            return reader(job)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            if job["id"] not in self._unreadable:
                self._unreadable.add(job["id"])
                self._notice(job, f"the run's files cannot be read: {error.strerror}")
            return False

    def _notice(self, job: Row, message: str) -> None:
        data = {"step": job["step"], "message": message}
        self._store.write(lambda connection: journal.append(connection, job["id"], "job.notice", data), name="ingest")

    def _read_events(self, job: Row) -> bool:
        path = artifacts.run_dir(self._settings, job["id"]).events
        if path.stat().st_size < job["events_offset"]:
            self._go_back(job, *count_lines(path))
            return True
        found = whole_lines(path, job["events_offset"])
        if not found.lines:
            return False

        def apply(connection: Connection) -> None:
            current = queue.get(connection, job["id"])
            if current["events_offset"] == job["events_offset"]:  # else somebody else has just read it
                reading = Ingest(connection, self._settings, current)
                reading.read(found.lines)
                reading.finish(found.next_offset)

        self._store.write(apply, name="ingest", durable=False)
        return True

    def _go_back(self, job: Row, lines: int, size: int) -> None:
        """The journal is shorter than what was read of it: its end was lost with the machine. Go on at its new end."""
        message = "the end of the run's journal was lost after it was read; what it said stands until it is said again"

        def change(connection: Connection) -> None:
            values = {"events_offset": size, "events_seq": lines}
            connection.execute(update(_jobs).where(_jobs.c.id == job["id"]).values(values))
            journal.append(connection, job["id"], "job.notice", {"step": job["step"], "message": message})

        self._store.write(change, name="ingest", durable=False)

    def _read_console(self, job: Row, *, to_the_end: bool = False) -> bool:
        job_id, offset = job["id"], job["console_offset"]
        if not to_the_end and time.monotonic() - self._flooded.get(job_id, -math.inf) < FLOOD_SECONDS:
            return False
        found = newest_text(self._settings.job_dir(job_id) / "console.log", offset, to_the_end=to_the_end)
        if found is None:
            return False
        skipped = max(0, found.offset - offset)
        if skipped:
            self._flooded[job_id] = time.monotonic()
        self._store.write(
            lambda connection: _add_text(connection, job_id, found, skipped), name="ingest", durable=False
        )
        return True


def _followed(connection: Connection) -> list[Row]:
    live = select(_attempts.c.job_id).where(_attempts.c.live)
    query = select(_jobs).where(_jobs.c.id.in_(live)).order_by(_jobs.c.seq)
    return [dict(row) for row in connection.execute(query).mappings()]


def _add_text(connection: Connection, job_id: str, found: Text, skipped: int) -> None:
    data = {"offset": found.offset, "next_offset": found.next_offset, "text": found.text, "skipped": skipped}
    journal.append(connection, job_id, "log.lines", data)
    values = {"console_offset": found.next_offset}
    connection.execute(update(_jobs).where(_jobs.c.id == job_id).values(values))
