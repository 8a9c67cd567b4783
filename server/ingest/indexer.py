"""Reads the journals and consoles of runs into the store while the runs write them."""

import math
import time
from collections.abc import Callable
from functools import partial

import structlog
from sqlalchemy import Connection, select, update
from sqlalchemy.exc import OperationalError

from server.errors import DatabaseDamaged
from server.ingest.run_events import Ingest, parse_each
from server.ingest.tail import Text, count_lines, newest_text, whole_lines
from server.queue import queue
from server.settings import Settings
from server.store import artifacts, journal, tables
from server.store.rows import JobRow, fetch_all
from server.store.store import Store

# After console output that did not fit into one row, the console is not read for so long: at most one row per second.
FLOOD_SECONDS = 1.0

_log = structlog.get_logger("server.ingest")
_jobs, _attempts = tables.jobs, tables.attempts


class Indexer:
    """Follows the journals and consoles of jobs. Only one thread may call `poll`, and only one per job `drain`."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._flooded: dict[str, float] = {}  # by job: monotonic time of the last row that omitted text
        self._unreadable: set[str] = set()

    def poll(self) -> None:
        """Read the new lines and text of every job that has a live attempt, at most one chunk per job.

        An error with one job does not affect the others; all errors are raised together at the end.
        """
        errors = []
        for job in self._store.read(_followed):
            try:
                self._read(job, self._read_events)
                self._read(job, self._read_console)
            except Exception as error:
                error.add_note(f"job {job['id']}")
                errors.append(error)
        self._flooded = {key: at for key, at in self._flooded.items() if time.monotonic() - at < FLOOD_SECONDS}
        if errors:
            raise ExceptionGroup("some jobs could not be read", errors)

    def drain(self, job_id: str) -> None:
        """Read a job's files to their ends. Raises NotFound if there is no such job."""
        job = self._store.read(lambda connection: queue.get(connection, job_id))
        while self._read(job, self._read_events):
            job = self._store.read(lambda connection: queue.get(connection, job_id))
        self._read(job, partial(self._read_console, to_the_end=True))

        def mark_pruned(connection: Connection) -> None:
            artifacts.mark_pruned_checkpoints(connection, self._settings, job_id)

        self._store.write(mark_pruned, name="ingest", durable=False)

    def _read(self, job: JobRow, reader: Callable[[JobRow], bool]) -> bool:
        """Return whether there was anything to read. Files that cannot be read are reported, and left at that."""
        try:
            return reader(job)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            self._report(job, f"the run's files cannot be read: {error.strerror}")
        except (OperationalError, DatabaseDamaged):  # of the database, which concerns all jobs
            raise
        except Exception as error:  # whatever else a file can cause concerns its own job alone
            if self._report(job, "the run's files cannot be read further; the service's log says why"):
                _log.error("run_not_read", job_id=job["id"], exc_info=error)
        return False

    def _report(self, job: JobRow, message: str) -> bool:
        """Report unreadable files once per job; returns whether it did."""
        if job["id"] in self._unreadable:
            return False
        self._unreadable.add(job["id"])
        self._notice(job, message)
        return True

    def _notice(self, job: JobRow, message: str) -> None:
        data = {"step": job["step"], "message": message}
        self._store.write(lambda connection: journal.append(connection, job["id"], "job.notice", data), name="ingest")

    def _read_events(self, job: JobRow) -> bool:
        path = artifacts.run_dir(self._settings, job["id"]).events
        if path.stat().st_size < job["events_offset"]:
            self._reset_position(job, *count_lines(path))
            return True
        found = whole_lines(path, job["events_offset"])
        if not found.lines:
            return False
        lines = parse_each(found.lines)

        def apply(connection: Connection) -> None:
            current = queue.get(connection, job["id"])
            if current["events_offset"] == job["events_offset"]:  # else another reader was faster
                chunk = Ingest(connection, self._settings, current)
                chunk.read(lines)
                chunk.finish(found.next_offset)

        self._store.write(apply, name="ingest", durable=False)
        return True

    def _reset_position(self, job: JobRow, lines: int, size: int) -> None:
        """Continue at the end of a journal that became shorter, because the machine crashed before it was on disk."""
        message = (
            "the end of the run's journal was lost after it was read; the lost events stay until the run repeats them"
        )

        def change(connection: Connection) -> None:
            values = {"events_offset": size, "events_seq": lines}
            connection.execute(update(_jobs).where(_jobs.c.id == job["id"]).values(values))
            journal.append(connection, job["id"], "job.notice", {"step": job["step"], "message": message})

        self._store.write(change, name="ingest", durable=False)

    def _read_console(self, job: JobRow, *, to_the_end: bool = False) -> bool:
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


def _followed(connection: Connection) -> list[JobRow]:
    live = select(_attempts.c.job_id).where(_attempts.c.live)
    query = select(_jobs).where(_jobs.c.id.in_(live)).order_by(_jobs.c.seq)
    return fetch_all(connection, query, JobRow)


def _add_text(connection: Connection, job_id: str, found: Text, skipped: int) -> None:
    data = {"offset": found.offset, "next_offset": found.next_offset, "text": found.text, "skipped": skipped}
    journal.append(connection, job_id, "log.lines", data)
    values = {"console_offset": found.next_offset}
    connection.execute(update(_jobs).where(_jobs.c.id == job_id).values(values))
