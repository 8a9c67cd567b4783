"""Applies a run's events to the rows of its job: one chunk of the run's journal in one transaction.

A job's row has the position up to which its journal was read, in bytes and in lines. The transaction that applies a
chunk also moves the position, so that a killed process loses no event and applies none twice.
"""

import math
import struct
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, select, update

from gan_mhe import json_text
from gan_mhe.files import canonical_json, sha256_bytes
from gan_mhe.records.events import (
    CheckpointRejected,
    CheckpointSaved,
    Evaluated,
    Event,
    Finished,
    Notice,
    Progress,
    SampleGrid,
    Scalars,
    Started,
    decode,
    encode,
    encode_number,
)
from server.clock import LATEST_MS, now_ms
from server.errors import NotFound
from server.queue import queue
from server.queue.public_text import public_text
from server.queue.states import State
from server.settings import Settings
from server.store import artifacts, journal, metric_points, tables
from server.store.rows import (
    AttemptRow,
    EvaluationRow,
    FileRow,
    JobChanges,
    JobRow,
    NewCheckpointRow,
    SampleRow,
    fetch_one,
)

MAX_GRID_BYTES = 64 * 2**20
MAX_GRID_PIXELS = 2**26
"""Most pixels of a grid: as many as `server.images.render` decodes."""
_MAX_MESSAGE = 10_000  # characters
_MAX_STEP = 2**53
_LISTED_PROBLEMS = 3
_PNG_HEADER = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_PNG_FIRST_CHUNK_BYTES = 33

_attempts, _jobs = tables.attempts, tables.jobs


class _Grid(NamedTuple):
    """A grid's file: its hash, its width and height in pixels, and its size."""

    sha256: str
    width: int
    height: int
    size_bytes: int


class JournalLine(NamedTuple):
    """One line of a run's journal."""

    seq: int
    time: int
    event: Event


def parse(line: bytes | None) -> JournalLine:
    """Parse a line of a run's journal; None is a line that is too long. Raises ValueError, which names the problem."""
    if line is None:
        raise ValueError("it is too long")
    document = json_text.parse(line)
    if not isinstance(document, dict):
        raise ValueError(f"expected an object, got {type(document).__name__}")
    seq = document.get("seq")
    if type(seq) is not int or not 0 <= seq < _MAX_STEP:
        raise ValueError(f"expected a sequence number, got {str(seq)[:40]!r}")
    return JournalLine(seq, _milliseconds(document.get("time")), decode(document))


def parse_each(lines: Sequence[bytes | None]) -> list[JournalLine | ValueError]:
    """Parse lines, or keep why one cannot be read: before the transaction, so that others can write meanwhile."""
    return [_parsed(line) for line in lines]


def _parsed(line: bytes | None) -> JournalLine | ValueError:
    try:
        return parse(line)
    except ValueError as error:
        return error


def _milliseconds(time: Any) -> int:
    """Convert RFC 3339 to milliseconds. An invalid time becomes the present, because no decision depends on it."""
    try:
        found = round(datetime.fromisoformat(time).timestamp() * 1000)
    except (TypeError, ValueError, OverflowError, OSError):
        return now_ms()
    return found if 0 <= found < LATEST_MS else now_ms()


class Ingest:
    """Applies one chunk of a job's journal: `read` for the lines, then `finish`, which moves the job's position."""

    def __init__(self, connection: Connection, settings: Settings, job: JobRow) -> None:
        self._connection = connection
        self._settings = settings
        self._job = job
        self._attempt = _newest_attempt(connection, job)
        self._run = artifacts.run_dir(settings, job["id"])
        self._seq: int = job["events_seq"]
        self._changes: JobChanges = {}
        self._points: list[tuple[int, dict[str, float]]] = []
        self._progress: Progress | None = None
        self._problems: list[str] = []
        self._grids: dict[Path, _Grid | None] = {}

    @property
    def _number(self) -> int:
        """The number of the attempt that wrote the lines. Attempts of imported runs have no row and are counted."""
        return self._attempt["number"] if self._attempt else self._job["attempts"]

    def problem(self, message: str) -> None:
        """Add a problem with the run's files; `finish` reports them in one notice."""
        self._problems.append(message)

    def read(self, lines: Sequence[JournalLine | ValueError]) -> None:
        """Apply lines that follow those read before."""
        for entry in lines:
            expected = self._seq
            self._seq += 1
            if isinstance(entry, ValueError):
                why = " ".join(str(entry).split())[:200]
                self.problem(f"line {expected} of the run's journal cannot be read: {why}")
                continue
            if entry.seq > expected:
                self.problem(f"lines {expected} to {entry.seq - 1} of the run's journal are missing")
            elif entry.seq < expected:
                self.problem(f"the run's journal goes back from line {expected} to {entry.seq}")
            self._seq = entry.seq + 1
            self._apply(entry._replace(time=self._own_time(entry.time)))

    def finish(self, next_offset: int) -> None:
        """Write the chunk's points, progress and problems, and the new position. next_offset: in bytes."""
        self._write_points()
        if self._progress:
            self._append("job.progress", _fields(self._progress))
        if self._problems:
            more = len(self._problems) - _LISTED_PROBLEMS
            listed = self._problems[:_LISTED_PROBLEMS] + ([f"and {more} more problems"] if more > 0 else [])
            step = self._changes.get("step", self._job["step"])
            self._append("job.notice", {"step": step, "message": "; ".join(listed)})
        artifacts.mark_pruned_checkpoints(self._connection, self._settings, self._job["id"])
        self._change_job({**self._changes, "events_offset": next_offset, "events_seq": self._seq})

    def _apply(self, entry: JournalLine) -> None:
        match entry.event:
            case Started() as event:
                self._started(event, entry.time)
            case Progress() as event:
                self._progress = event
                self._changes.update(_progress_columns(event))
            case Scalars(step=step, values=values):
                self._points.append((step, dict(values)))
            case SampleGrid() as event:
                self._sample(event, entry.time)
            case CheckpointSaved() as event:
                self._checkpoint(event, entry.time)
            case CheckpointRejected(checkpoint_step=step, message=message):
                artifacts.reject_checkpoint(self._connection, self._job["id"], step)
                self._append("checkpoint.rejected", {"step": step, "message": self._public(message)})
            case Evaluated() as event:
                self._evaluated(event)
            case Notice(step=step, message=message):
                self._append("job.notice", {"step": step, "message": self._public(message)})
            case Finished(step=step):  # 0 if it was refused before it could resume
                self._changes["step"] = max(step, self._changes.get("step", self._job["step"]))

    def _own_time(self, time: int) -> int:
        """Return an event's time by the clock of this server: that of the worker may have been set meanwhile."""
        return time if self._attempt is None else min(max(time, self._attempt["created_at"]), now_ms())

    def _public(self, message: str) -> str:
        cut = message if len(message) <= _MAX_MESSAGE else f"{message[:_MAX_MESSAGE]} (cut)"
        return public_text(cut, self._settings)

    def _started(self, event: Started, time: int) -> None:
        self._write_points()
        self._progress = None
        last_step = event.step if event.resumed else -1
        metric_points.supersede_after(self._connection, self._job, last_step)
        artifacts.discard_after(self._connection, self._job["id"], last_step)
        self._changes.update({"step": event.step, "total_steps": event.total_steps})
        if self._attempt:
            times = {"started_at": time, "resumed_from_step": event.step if event.resumed else None}
            same = _attempts.c.id == self._attempt["id"]
            self._connection.execute(update(_attempts).where(same).values(times))
            self._set_running(self._attempt)
        else:
            attempts = self._job["attempts"] + 1
            self._change_job({"attempts": attempts})
            self._job = {**self._job, "attempts": attempts}
        self._append("job.started", {**_fields(event), "attempt": self._number})

    def _set_running(self, attempt: AttemptRow) -> None:
        """Move the job to `running` if it is waiting for this attempt to start."""
        current = attempt["live"] and attempt["epoch"] == self._job["lease_epoch"]
        if current and self._job["state"] == State.STARTING:
            self._job = queue.move(self._connection, self._job, State.RUNNING, epoch=attempt["epoch"])

    def _sample(self, event: SampleGrid, time: int) -> None:
        path = self._run.sample(event.step)
        grid = self._grid(path)
        if grid is None or grid.sha256 != event.sha256:
            self.problem(f"the sample grid of step {event.step} is not the PNG file that the run's event describes")
            return
        sizes = {"width": grid.width, "height": grid.height, "size_bytes": grid.size_bytes}
        row: SampleRow = {
            "job_id": self._job["id"],
            "step": event.step,
            "attempt": self._number,
            "sha256": event.sha256,
            "path": self._own_path(path),
            "width": grid.width,
            "height": grid.height,
            "size_bytes": grid.size_bytes,
            "created_at": time,
            "pruned_at": None,
        }
        artifacts.add_sample(self._connection, row)
        url = f"/v1/blobs/{event.sha256}"
        self._append("sample.created", {"step": event.step, "sha256": event.sha256, **sizes, "url": url})

    def _grid(self, path: Path) -> _Grid | None:
        """Return a grid's file; None if it is missing, outside the job's directory, too large, or no PNG.

        Each file is read once per chunk, however many lines name it.
        """
        if path not in self._grids:
            self._grids[path] = _grid_of(self._grid_bytes(path))
        return self._grids[path]

    def _grid_bytes(self, path: Path) -> bytes:
        row: FileRow = {"job_id": self._job["id"], "path": self._own_path(path)}
        try:
            found = artifacts.blob_path(self._settings, row)
        except NotFound:
            return b""
        return found.read_bytes() if found.stat().st_size <= MAX_GRID_BYTES else b""

    def _checkpoint(self, event: CheckpointSaved, time: int) -> None:
        directory = self._run.checkpoint(event.step)
        files = [directory / name for name in artifacts.CHECKPOINT_FILES]
        exists = all(file.is_file() for file in files)
        size_bytes = sum(file.stat().st_size for file in files) if exists else 0
        row: NewCheckpointRow = {
            "job_id": self._job["id"],
            "step": event.step,
            "attempt": self._number,
            "sha256": event.sha256,
            "path": self._own_path(directory),
            "size_bytes": size_bytes,
            "status": artifacts.AVAILABLE if exists else artifacts.PRUNED,
            "created_at": time,
        }
        checkpoint_id = artifacts.add_checkpoint(self._connection, row)
        if exists:
            data = {"id": checkpoint_id, "step": event.step, "sha256": event.sha256, "size_bytes": size_bytes}
            self._append("checkpoint.created", data)

    def _evaluated(self, event: Evaluated) -> None:
        document = _fields(event)
        row: EvaluationRow = {
            "job_id": self._job["id"],
            "step": event.step,
            "purpose": event.purpose,
            "attempt": self._number,
            "scores": document["scores"],
            "protocol": event.protocol,
            # One hash of all fingerprints: equal rows have equal ones for every score.
            "fingerprint": sha256_bytes(canonical_json(document["fingerprints"])),
            "seconds": document["seconds"],
        }
        artifacts.add_evaluation(self._connection, row)
        # A rescored best generator is of a step that has a score already: the history keeps the first one.
        if event.purpose != "best_rescored":
            self._points.append((event.step, dict(event.scores)))
        self._append("evaluation.completed", document)

    def _write_points(self) -> None:
        if not self._points:
            return
        admitted, full = metric_points.admit(self._connection, self._job, self._points)
        self._points = []
        if full:
            self.problem(f"the run reports {metric_points.MAX_NAMES} metrics; further names are left out")
        if not admitted:
            return
        metric_points.add(self._connection, self._job, self._number, admitted)
        points = [
            {"step": step, "values": {name: encode_number(number) for name, number in values.items()}}
            for step, values in admitted
        ]
        self._append("metric.batch", {"points": points})

    def _own_path(self, path: Path) -> str:
        return path.relative_to(self._settings.job_dir(self._job["id"])).as_posix()

    def _append(self, type_: str, data: dict[str, Any]) -> None:
        journal.append(self._connection, self._job["id"], type_, data)

    def _change_job(self, changes: JobChanges) -> None:
        self._connection.execute(update(_jobs).where(_jobs.c.id == self._job["id"]).values(dict(changes)))


def _newest_attempt(connection: Connection, job: JobRow) -> AttemptRow | None:
    """Return the attempt that wrote the lines not yet read: an attempt starts only after all earlier lines are read."""
    query = select(_attempts).where(_attempts.c.job_id == job["id"]).order_by(_attempts.c.number.desc()).limit(1)
    return fetch_one(connection, query, AttemptRow)


def _fields(event: Event) -> dict[str, Any]:
    """Return an event's fields as JSON values."""
    return {key: value for key, value in encode(event).items() if key != "type"}


def _progress_columns(event: Progress) -> JobChanges:
    return {
        "step": event.step,
        "total_steps": event.total_steps,
        "steps_per_second": _finite(event.steps_per_second),
        "images_per_second": _finite(event.images_per_second),
        "eta_seconds": _finite(event.eta_seconds),
    }


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _grid_of(content: bytes) -> _Grid | None:
    """Return the facts about a PNG, with its size from its first chunk; None for other content and impossible sizes."""
    if len(content) < _PNG_FIRST_CHUNK_BYTES or not content.startswith(_PNG_HEADER):
        return None
    width, height = struct.unpack_from(">II", content, len(_PNG_HEADER))
    if not 0 < width * height <= MAX_GRID_PIXELS:
        return None
    return _Grid(sha256_bytes(content), width, height, len(content))
