"""What a run says, applied to the rows of its job: one chunk of its journal in one transaction.

A job's row tells how far its journal was read, in bytes and in lines, and moves on in the transaction that applies what
was read. So a process that is killed in between loses nothing and counts nothing twice.
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, get_args

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection, select, update

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
from server.clock import now_ms
from server.errors import NotFound
from server.queue import queue
from server.queue.states import State
from server.settings import Settings
from server.store import artifacts, journal, metric_points, tables
from server.store.rows import Row

MAX_PICTURE_BYTES = 64 * 2**20
_MAX_NAME = 200
_MAX_STEP = 2**53
_LISTED_PROBLEMS = 3
_PNG_HEADER = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_PNG_FIRST_CHUNK_BYTES = 33

_attempts, _jobs = tables.attempts, tables.jobs
_SHAPES = {cls: TypeAdapter[Event](cls) for cls in get_args(Event)}


class JournalLine(NamedTuple):
    """One line of a run's journal."""

    seq: int
    time: int
    event: Event


def parse(line: bytes | None) -> JournalLine:
    """A line read. ValueError says what is wrong with it; None stands for one that is too long."""
    if line is None:
        raise ValueError("it is too long")
    try:
        document = json.loads(line)
        if not isinstance(document, dict):
            raise ValueError(f"expected an object, got {type(document).__name__}")
        seq = document.get("seq")
        if type(seq) is not int or not 0 <= seq < _MAX_STEP:
            raise ValueError(f"expected a sequence number, got {str(seq)[:40]!r}")
        return JournalLine(seq, _milliseconds(document.get("time")), _checked(decode(document)))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where}: {first['msg']}") from None
    except (RecursionError, TypeError) as error:
        raise ValueError(f"it is not an event: {error}") from None


def _milliseconds(time: Any) -> int:
    """RFC 3339 as milliseconds; now where it is not that, because nothing is decided by it."""
    try:
        return round(datetime.fromisoformat(time).timestamp() * 1000)
    except (TypeError, ValueError, OverflowError):
        return now_ms()


def _checked(event: Event) -> Event:
    """The event with every field of its type and within what the tables hold. ValueError names the one that is not."""
    event = _SHAPES[type(event)].validate_python(asdict(event))
    for field, value in asdict(event).items():
        if isinstance(value, int) and not 0 <= value < _MAX_STEP:
            raise ValueError(f"{field}: expected 0 or more and less than 2**53, got {value}")
        for text in _texts(value):
            text.encode()  # JSON can spell half of a character, which no column holds
            if len(text) > _MAX_NAME and field != "message":
                raise ValueError(f"{field}: expected at most {_MAX_NAME} characters, got {len(text)}")
    return event


def _texts(value: Any) -> list[str]:
    """The texts in the value of a field: itself, or the names and values of a table."""
    parts = [*value, *value.values()] if isinstance(value, dict) else [value]
    return [part for part in parts if isinstance(part, str)]


class Ingest:
    """One chunk of a job's journal being applied. `offset` and `seq` of the job move on with `finish`."""

    def __init__(self, connection: Connection, settings: Settings, job: Row) -> None:
        self._connection = connection
        self._settings = settings
        self._job = job
        self._attempt = _newest_attempt(connection, job)
        self._run = artifacts.run_dir(settings, job["id"])
        self._seq: int = job["events_seq"]
        self._changes: dict[str, Any] = {}
        self._points: list[tuple[int, dict[str, float]]] = []
        self._progress: Progress | None = None
        self._problems: list[str] = []

    @property
    def _number(self) -> int:
        """Of the attempt that is speaking. Runs that were imported had theirs elsewhere; they are counted here."""
        return int(self._attempt["number"] if self._attempt else self._job["attempts"])

    def problem(self, message: str) -> None:
        """Something a person should know about the files, said once for the chunk."""
        self._problems.append(message)

    def read(self, lines: Sequence[bytes | None]) -> None:
        """Apply lines that follow those read before."""
        for line in lines:
            expected = self._seq
            self._seq += 1
            try:
                said = parse(line)
            except ValueError as error:
                why = " ".join(str(error).split())[:200]
                self.problem(f"line {expected} of the run's journal cannot be read: {why}")
                continue
            if said.seq > expected:
                self.problem(f"lines {expected} to {said.seq - 1} of the run's journal are missing")
            elif said.seq < expected:
                self.problem(f"the run's journal goes back from line {expected} to {said.seq}")
            self._seq = said.seq + 1
            self._apply(said)

    def finish(self, next_offset: int) -> None:
        """Write what was gathered over the chunk, and how far it was read."""
        self._write_points()
        if self._progress:
            self._append("job.progress", _fields(self._progress))
        if self._problems:
            more = len(self._problems) - _LISTED_PROBLEMS
            listed = self._problems[:_LISTED_PROBLEMS] + ([f"and {more} more such problems"] if more > 0 else [])
            step = self._changes.get("step", self._job["step"])
            self._append("job.notice", {"step": step, "message": "; ".join(listed)})
        artifacts.note_pruned_checkpoints(self._connection, self._settings, self._job["id"])
        self._change_job(**self._changes, events_offset=next_offset, events_seq=self._seq)

    def _apply(self, said: JournalLine) -> None:
        match said.event:
            case Started() as event:
                self._started(event, said.time)
            case Progress() as event:
                self._progress = event
                self._changes |= {"step": event.step, "total_steps": event.total_steps} | _rates(event)
            case Scalars(step=step, values=values):
                self._points.append((step, dict(values)))
            case SampleGrid() as event:
                self._sample(event, said.time)
            case CheckpointSaved() as event:
                self._checkpoint(event, said.time)
            case CheckpointRejected(checkpoint_step=step, message=message):
                artifacts.reject_checkpoint(self._connection, self._job["id"], step)
                self._append("checkpoint.rejected", {"step": step, "message": message})
            case Evaluated() as event:
                self._evaluated(event)
            case Notice(step=step, message=message):
                self._append("job.notice", {"step": step, "message": message})
            case Finished(step=step):
                self._changes["step"] = step

    def _started(self, event: Started, time: int) -> None:
        self._write_points()
        self._progress = None
        after_step = event.step if event.resumed else -1
        metric_points.void(self._connection, self._job, after_step)
        artifacts.void(self._connection, self._job["id"], after_step)
        self._changes |= {"step": event.step, "total_steps": event.total_steps}
        if self._attempt:
            times = {"started_at": time, "resumed_from_step": event.step if event.resumed else None}
            same = _attempts.c.id == self._attempt["id"]
            self._connection.execute(update(_attempts).where(same).values(times))
            self._now_running(self._attempt)
        else:
            self._change_job(attempts=self._job["attempts"] + 1)
        self._append("job.started", {**_fields(event), "attempt": self._number})

    def _now_running(self, attempt: Row) -> None:
        """Move the job on, if it still waits for this very attempt to start."""
        current = attempt["live"] and attempt["epoch"] == self._job["lease_epoch"]
        if current and self._job["state"] == State.STARTING:
            self._job = queue.move(self._connection, self._job, State.RUNNING, epoch=attempt["epoch"])

    def _sample(self, event: SampleGrid, time: int) -> None:
        path = self._run.sample(event.step)
        content = self._picture(path)
        sides = _sides(content)
        if sides is None or sha256_bytes(content) != event.sha256:
            self.problem(f"the sample grid of step {event.step} is not the PNG file that the run says it wrote")
            return
        size = {**sides, "size_bytes": len(content)}
        row = {
            "job_id": self._job["id"],
            "step": event.step,
            "attempt": self._number,
            "sha256": event.sha256,
            "path": self._own_path(path),
            **size,
            "created_at": time,
        }
        artifacts.add_sample(self._connection, row)
        url = f"/v1/blobs/{event.sha256}"
        self._append("sample.created", {"step": event.step, "sha256": event.sha256, **size, "url": url})

    def _picture(self, path: Path) -> bytes:
        """A file's bytes; none where there is no file inside the job, or it is too large."""
        try:
            found = artifacts.blob_path(self._settings, {"job_id": self._job["id"], "path": self._own_path(path)})
        except NotFound:
            return b""
        return found.read_bytes() if found.stat().st_size <= MAX_PICTURE_BYTES else b""

    def _checkpoint(self, event: CheckpointSaved, time: int) -> None:
        directory = self._run.checkpoint(event.step)
        files = [directory / name for name in artifacts.CHECKPOINT_FILES]
        there = all(file.is_file() for file in files)
        size_bytes = sum(file.stat().st_size for file in files) if there else 0
        row = {
            "job_id": self._job["id"],
            "step": event.step,
            "attempt": self._number,
            "sha256": event.sha256,
            "path": self._own_path(directory),
            "size_bytes": size_bytes,
            "status": artifacts.AVAILABLE if there else artifacts.PRUNED,
            "created_at": time,
        }
        checkpoint_id = artifacts.add_checkpoint(self._connection, row)
        if there:
            data = {"id": checkpoint_id, "step": event.step, "sha256": event.sha256, "size_bytes": size_bytes}
            self._append("checkpoint.created", data)

    def _evaluated(self, event: Evaluated) -> None:
        said = _fields(event)
        row = {"job_id": self._job["id"], "attempt": self._number, **said}
        # One hash of all fingerprints: equal rows have equal ones for every score.
        row["fingerprint"] = sha256_bytes(canonical_json(row.pop("fingerprints")))
        artifacts.add_evaluation(self._connection, row)
        # The best generator's second score is of a step that has been scored: the history keeps the first.
        if event.purpose != "best_rescored":
            self._points.append((event.step, dict(event.scores)))
        self._append("evaluation.completed", said)

    def _write_points(self) -> None:
        if not self._points:
            return
        metric_points.ingest(self._connection, self._job, self._number, self._points)
        points = [
            {"step": step, "values": {name: encode_number(number) for name, number in values.items()}}
            for step, values in self._points
        ]
        self._append("metric.batch", {"points": points})
        self._points = []

    def _own_path(self, path: Path) -> str:
        return path.relative_to(self._settings.job_dir(self._job["id"])).as_posix()

    def _append(self, type_: str, data: dict[str, Any]) -> None:
        journal.append(self._connection, self._job["id"], type_, data)

    def _change_job(self, **values: Any) -> None:
        self._connection.execute(update(_jobs).where(_jobs.c.id == self._job["id"]).values(values))
        self._job = {**self._job, **values}


def _newest_attempt(connection: Connection, job: Row) -> Row | None:
    """The attempt that the lines not yet read come from: an attempt is launched once those before it are read."""
    query = select(_attempts).where(_attempts.c.job_id == job["id"]).order_by(_attempts.c.number.desc()).limit(1)
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else dict(row)


def _fields(event: Event) -> dict[str, Any]:
    """An event's fields as JSON values."""
    return {key: value for key, value in encode(event).items() if key != "type"}


def _rates(event: Progress) -> dict[str, float | None]:
    """Speeds and the time left; None where they are not finite."""
    said = _fields(event)
    rates = ("steps_per_second", "images_per_second", "eta_seconds")
    return {name: said[name] if isinstance(said[name], float) else None for name in rates}


def _sides(content: bytes) -> dict[str, int] | None:
    """Width and height of a PNG in pixels, which its first chunk begins with; None for anything else."""
    if len(content) < _PNG_FIRST_CHUNK_BYTES or not content.startswith(_PNG_HEADER):
        return None
    width, height = struct.unpack_from(">II", content, len(_PNG_HEADER))
    return {"width": width, "height": height}
