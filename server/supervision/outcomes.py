"""What an ended attempt means for its job: a table, without a clock, a file or the database.

What the worker says comes first, then who ended it. A fault of the machine and a fault of the program have budgets of
their own. What would be tried again is not while somebody wants the job stopped: it is stopped then.
"""

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from server.executors.base import ExitRecord
from server.queue.states import Reason, State
from server.store.rows import JobRow

LONGEST_DELAY_SECONDS = 60.0
_MOST_DOUBLINGS = 30

# Codes of gan_mhe.errors by which a worker says that doing the same again would end the same.
_FINAL: Mapping[str, Reason] = MappingProxyType(
    {
        "diverged": Reason.DIVERGED,
        "out_of_memory": Reason.OUT_OF_MEMORY,
        "checkpoint_invalid": Reason.CHECKPOINT_CORRUPT,
        "config_invalid": Reason.ERROR,
        "data_invalid": Reason.ERROR,
        "device_unavailable": Reason.ERROR,
        "scorer_unavailable": Reason.ERROR,
        "protocol_mismatch": Reason.ERROR,
    }
)
# Codes by which it says that the machine was at fault.
_MACHINE = frozenset({"storage_failed", "run_dir_invalid"})

_STOPPED_AS: Mapping[State, State] = MappingProxyType({State.PAUSING: State.PAUSED, State.CANCELLING: State.CANCELLED})


@dataclass(frozen=True)
class Limits:
    """Times a job is taken up again after a fault of each kind, and the wait before the first of them in seconds."""

    infrastructure: int
    program: int
    backoff_seconds: float


@dataclass(frozen=True)
class Decision:
    """Where a job goes. delay_seconds: the least wait before it starts again, where the state is `recovering`."""

    state: State
    infrastructure_used: int
    program_used: int
    reason: Reason | None = None
    message: str | None = None
    exit_code: int | None = None
    delay_seconds: float = 0.0
    result: Mapping[str, Any] | None = None


def decide(job: JobRow, record: ExitRecord | None, limits: Limits) -> Decision:
    """Where `job` goes after its attempt ended as `record` says; None when nobody was left to say anything."""
    said = (record.outcome if record else None) or {}
    if said.get("outcome") == "completed":
        return _to(job, State.SUCCEEDED, record, result=said.get("result"))
    if record is None:
        return _machine(job, record, limits, Reason.WORKER_LOST, "supervisor and worker are gone without a word")
    if record.cause == "timeout":
        return _to(job, State.FAILED, record, Reason.TIMEOUT, record.message or "the wall time is used up")
    if said.get("outcome") == "failed":
        return _failed(job, record, limits, str(said.get("code")), str(said.get("message", "")))
    if said.get("outcome") == "stopped" or record.cause in ("stop", "fenced"):
        return _stopped(job, record, limits)
    if record.cause == "launch_failed":
        return _machine(job, record, limits, Reason.LAUNCH_FAILED, record.message or "the attempt could not be started")
    if record.signal is not None:
        return _machine(job, record, limits, Reason.WORKER_KILLED, _killed(record.signal))
    return _program(job, record, limits, f"the worker ended with exit code {record.exit_code} and said nothing")


def _failed(job: JobRow, record: ExitRecord, limits: Limits, code: str, message: str) -> Decision:
    if code in _FINAL:
        return _to(job, State.FAILED, record, _FINAL[code], message or code)
    if code == "disk_full" and job["state"] != State.CANCELLING:
        return _to(job, State.PAUSED, record, Reason.DISK_FULL, message or code)
    if code in _MACHINE:
        return _machine(job, record, limits, Reason.WORKER_LOST, message or code)
    return _program(job, record, limits, message or code)


def _stopped(job: JobRow, record: ExitRecord, limits: Limits) -> Decision:
    """It was asked to stop, by us or from outside, or could not renew its lease."""
    state = State(job["state"])
    if state in _STOPPED_AS:
        unsaved = f"the worker did not save ({record.message}); what it had saved before stands"
        message = job["message"] if record.outcome else unsaved
        return _to(job, _STOPPED_AS[state], record, _reason(job), message)
    if record.cause == "fenced":
        return _machine(job, record, limits, Reason.WORKER_LOST, record.message or "the lease could not be renewed")
    return _machine(job, record, limits, Reason.WORKER_KILLED, "the worker was stopped from outside")


def _machine(job: JobRow, record: ExitRecord | None, limits: Limits, reason: Reason, message: str | None) -> Decision:
    """A fault of the machine: worth another try for some time."""
    state, used = State(job["state"]), job["infrastructure_used"]
    if state in _STOPPED_AS:
        return _to(job, _STOPPED_AS[state], record, _reason(job), message)
    if state is State.RECOVERING:  # given up on before it ended; that says more than how it ended then
        reason, message = _reason(job), job["message"]
    if used >= limits.infrastructure:
        exhausted = f"taken up again {used} times, now {reason}: {message}"
        return _to(job, State.FAILED, record, Reason.RETRIES_EXHAUSTED, exhausted)
    return _again(job, record, limits, reason, message, infrastructure_used=used + 1)


def _program(job: JobRow, record: ExitRecord, limits: Limits, message: str) -> Decision:
    """A fault of the program, which may be one of chance."""
    used = job["program_used"]
    if job["state"] in (*_STOPPED_AS, State.RECOVERING):
        return _machine(job, record, limits, Reason.WORKER_KILLED, message)
    if used >= limits.program:
        return _to(job, State.FAILED, record, Reason.ERROR, message)
    return _again(job, record, limits, Reason.ERROR, message, program_used=used + 1)


def _again(
    job: JobRow, record: ExitRecord | None, limits: Limits, reason: Reason, message: str | None, **used: int
) -> Decision:
    earlier = job["infrastructure_used"] + job["program_used"]
    delay = min(limits.backoff_seconds * 2.0 ** min(earlier, _MOST_DOUBLINGS), LONGEST_DELAY_SECONDS)
    return _to(job, State.RECOVERING, record, reason, message, delay_seconds=delay, **used)


def _reason(job: JobRow) -> Reason:
    """Return the reason of a job that is being stopped or recovered; it always has one."""
    assert job["reason"] is not None
    return Reason(job["reason"])


def _to(
    job: JobRow,
    state: State,
    record: ExitRecord | None,
    reason: Reason | None = None,
    message: str | None = None,
    **more: Any,
) -> Decision:
    used: dict[str, Any] = {
        "infrastructure_used": job["infrastructure_used"],
        "program_used": job["program_used"],
    }
    exit_code = record.exit_code if record else None
    return Decision(state, reason=reason, message=message, exit_code=exit_code, **used | more)


def _killed(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = str(number)
    usual = "; the usual cause is the machine's out-of-memory killer" if number == signal.SIGKILL else ""
    return f"the worker was killed by signal {name}{usual}"
