"""Recording the end of an attempt: the attempt, its job, and the job's output, in one transaction."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection, update

from server.clock import now_ms
from server.executors.base import ExitRecord
from server.queue import queue, worker_request
from server.queue.states import State
from server.queue.tasks import SAMPLE
from server.settings import Settings
from server.store import artifacts, tables
from server.store.rows import AttemptRow, JobRow
from server.supervision import outcomes
from server.supervision.outcomes import Limits

_attempts = tables.attempts


def end(
    connection: Connection,
    attempt_id: str,
    record: ExitRecord | None,
    limits: Limits,
    *,
    seconds: float,
    charged: bool = True,
    least_delay_seconds: float = 0.0,
) -> JobRow:
    """End an attempt that no longer runs; returns the job as it is then.

    All events of its run must have been read before. record: None if the attempt left no exit record. seconds: how long
    it ran. charged: as for `outcomes.decide`. least_delay_seconds: minimum delay before another try.
    """
    attempt = queue.attempt(connection, attempt_id)
    job = queue.get(connection, attempt["job_id"])
    decision = outcomes.decide(job, record, limits, charged=charged)
    cause = {"reason": decision.reason, "message": decision.message}
    ended_at = max(now_ms(), attempt["started_at"] or 0)
    _update_attempt(connection, attempt, record, ended_at=ended_at, **cause)
    changes: dict[str, Any] = {
        **cause,
        "exit_code": decision.exit_code,
        "infrastructure_used": decision.infrastructure_used,
        "program_used": decision.program_used,
        "wall_seconds_used": job["wall_seconds_used"] + seconds,
        "epoch": attempt["epoch"],
    }
    if decision.state is State.RECOVERING:
        if job["state"] != State.RECOVERING:
            job = queue.move(connection, job, State.RECOVERING, **changes)
        delay_seconds = max(decision.delay_seconds, least_delay_seconds)
        return queue.requeue(connection, job, delay_seconds=delay_seconds, **changes)
    job = queue.move(connection, job, decision.state, result=decision.result, **changes)
    if decision.state is State.SUCCEEDED and job["kind"] == SAMPLE:
        _add_output_blob(connection, job, decision.result or {})
    return job


def _update_attempt(connection: Connection, attempt: AttemptRow, record: ExitRecord | None, **values: Any) -> None:
    values["live"] = False
    if record is not None:
        values |= {"exit_code": record.exit_code, "signal": record.signal, "cause": record.cause}
    connection.execute(update(_attempts).where(_attempts.c.id == attempt["id"]).values(values))


def _add_output_blob(connection: Connection, job: JobRow, result: Mapping[str, Any]) -> None:
    path, media_type = worker_request.output_path(job), result["media_type"]
    artifacts.add_blob(connection, job["id"], result["sha256"], path, media_type, result["size_bytes"])


def remove_partial(settings: Settings, attempt: AttemptRow) -> None:
    """Delete what an attempt that no longer runs has drawn of images, if it was killed before it did so itself."""
    with suppress(OSError):  # the deletion of the task removes it
        worker_request.partial_output(settings, attempt).unlink(missing_ok=True)
