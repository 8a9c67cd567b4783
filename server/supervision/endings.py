"""The end of an attempt, written down: the attempt, where its job goes, and what it has made, in one transaction."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, update

from server.clock import now_ms
from server.executors.base import ExitRecord
from server.queue import queue, worker_request
from server.queue.states import State
from server.queue.tasks import SAMPLE
from server.store import artifacts, tables
from server.store.rows import AttemptRow, JobRow
from server.supervision import outcomes
from server.supervision.outcomes import Limits

_attempts = tables.attempts


def end(connection: Connection, attempt_id: str, record: ExitRecord | None, limits: Limits) -> JobRow:
    """End an attempt of which nothing runs any more; the job as it is then. All its run has said must be read by now.

    record: None when nobody was left to say anything.
    """
    attempt = queue.attempt(connection, attempt_id)
    job = queue.get(connection, attempt["job_id"])
    decision = outcomes.decide(job, record, limits)
    why = {"reason": decision.reason, "message": decision.message}
    ended_at = now_ms()
    _end_row(connection, attempt, record, ended_at=ended_at, **why)
    changes: dict[str, Any] = {
        **why,
        "exit_code": decision.exit_code,
        "infrastructure_used": decision.infrastructure_used,
        "program_used": decision.program_used,
        "wall_seconds_used": job["wall_seconds_used"] + _seconds(attempt, ended_at),
        "epoch": attempt["epoch"],
    }
    if decision.state is State.RECOVERING:
        if job["state"] != State.RECOVERING:
            job = queue.move(connection, job, State.RECOVERING, **changes)
        return queue.requeue(connection, job, delay_seconds=decision.delay_seconds, **changes)
    job = queue.move(connection, job, decision.state, result=decision.result, **changes)
    if decision.state is State.SUCCEEDED and job["kind"] == SAMPLE:
        _add_output(connection, job, decision.result or {})
    return job


def _end_row(connection: Connection, attempt: AttemptRow, record: ExitRecord | None, **values: Any) -> None:
    values["live"] = False
    if record is not None:
        values |= {"exit_code": record.exit_code, "signal": record.signal, "cause": record.cause}
    connection.execute(update(_attempts).where(_attempts.c.id == attempt["id"]).values(values))


def _seconds(attempt: AttemptRow, ended_at: int) -> float:
    """How long it ran by the wall clock, which may have been set back meanwhile."""
    if attempt["started_at"] is None:
        return 0.0
    return float(max(0, ended_at - attempt["started_at"])) / 1000


def _add_output(connection: Connection, job: JobRow, result: Mapping[str, Any]) -> None:
    path, media_type = worker_request.output_path(job), result["media_type"]
    artifacts.add_blob(connection, job["id"], result["sha256"], path, media_type, result["size_bytes"])
