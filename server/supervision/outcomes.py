"""The consequences of an ended attempt for its job: a pure function, without clock, files or database.

The worker's own outcome has precedence over how the process ended. Infrastructure faults and program faults have
separate retry limits; a fault that says nothing of the job uses neither, unless the caller says so. A job that a user
wants stopped is stopped instead of retried.
"""

import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from server.executors.base import ExitRecord
from server.queue.queue import LONGEST_DELAY_SECONDS, TRAIN
from server.queue.states import Reason, State
from server.store.rows import JobRow

_MOST_DOUBLINGS = 30

# Codes of gan_mhe.errors after which a retry would fail in the same way.
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
# Codes of infrastructure faults; the first says that the machine, and not the job, is at fault.
_STORAGE = "storage_failed"
_INFRASTRUCTURE = frozenset({_STORAGE, "run_dir_invalid"})
_MACHINE_CAUSES = frozenset({"launch_failed", "fenced", "unwritable"})

_STOPPED_AS: Mapping[State, State] = MappingProxyType({State.PAUSING: State.PAUSED, State.CANCELLING: State.CANCELLED})


@dataclass(frozen=True)
class Limits:
    """Retries of a job after each kind of fault, and the delay before the first retry in seconds."""

    infrastructure: int
    program: int
    backoff_seconds: float


@dataclass(frozen=True)
class Decision:
    """The job's next state and the facts stored with it."""

    state: State
    """The next state; `recovering` means that the job is queued again."""
    infrastructure_used: int
    """Retries after infrastructure faults, this one included."""
    program_used: int
    """Retries after program faults, this one included."""
    reason: Reason | None = None
    """The reason, for programs."""
    message: str | None = None
    """The reason, for people."""
    exit_code: int | None = None
    """Exit code of the worker, None if it was killed."""
    delay_seconds: float = 0.0
    """Minimum delay before a retry."""
    result: Mapping[str, Any] | None = None
    """Result of completed work."""


def machine_fault(job: JobRow, record: ExitRecord | None) -> str | None:
    """The message of an end that says nothing of the job, but that this machine cannot run attempts; None otherwise."""
    if record is None:
        return None
    outcome = record.outcome or {}
    if outcome.get("outcome") in ("completed", "failed"):
        return str(outcome.get("message")) if outcome.get("code") == _STORAGE else None
    return (record.message or record.cause) if record.cause in _MACHINE_CAUSES or _never_began(job, record) else None


def _never_began(job: JobRow, record: ExitRecord) -> bool:
    """Whether the worker ended before its own code ran, which reports every error: its installation is incomplete."""
    silent = record.cause == "exit" and bool(record.exit_code) and not (record.outcome or {}).get("outcome")
    return silent and (job["state"] == State.STARTING or (job["kind"] != TRAIN and job["state"] == State.RUNNING))


def decide(job: JobRow, record: ExitRecord | None, limits: Limits, *, charged: bool = True) -> Decision:
    """The decision for `job` after its attempt ended with `record`, or without any exit record (None).

    charged: False for a fault of the machine that uses no retry of the job.
    """
    if charged:
        return _decide(job, record, limits)
    decision = _decide(job, record, replace(limits, infrastructure=job["infrastructure_used"] + 1))
    return replace(decision, infrastructure_used=job["infrastructure_used"])


def _decide(job: JobRow, record: ExitRecord | None, limits: Limits) -> Decision:
    outcome = (record.outcome if record else None) or {}
    if outcome.get("outcome") == "completed":
        return _to(job, State.SUCCEEDED, record, result=outcome.get("result"))
    if record is None:
        message = "the supervisor and the worker disappeared without an exit record"
        return _infrastructure_fault(job, record, limits, Reason.WORKER_LOST, message)
    if record.cause == "timeout":
        return _to(job, State.FAILED, record, Reason.TIMEOUT, record.message or "the wall-time limit was reached")
    if outcome.get("outcome") == "failed":
        return _failed(job, record, limits, str(outcome.get("code")), str(outcome.get("message", "")))
    if outcome.get("outcome") == "stopped" or record.cause in ("stop", "fenced"):
        return _stopped(job, record, limits)
    if record.cause == "launch_failed":
        message = record.message or "the attempt could not be started"
        return _infrastructure_fault(job, record, limits, Reason.LAUNCH_FAILED, message)
    if record.cause == "unwritable":
        return _infrastructure_fault(job, record, limits, Reason.WORKER_LOST, record.message)
    if record.signal is not None:
        return _infrastructure_fault(job, record, limits, Reason.WORKER_KILLED, _signal_message(record.signal))
    silent = f"the worker ended with exit code {record.exit_code} and no outcome"
    if _never_began(job, record):
        return _infrastructure_fault(job, record, limits, Reason.LAUNCH_FAILED, silent)
    return _program_fault(job, record, limits, silent)


def _failed(job: JobRow, record: ExitRecord, limits: Limits, code: str, message: str) -> Decision:
    if code in _FINAL:
        advice = "; a retry from the start sets the checkpoints aside" if code == "checkpoint_invalid" else ""
        return _to(job, State.FAILED, record, _FINAL[code], f"{message or code}{advice}")
    if code == "disk_full" and job["state"] != State.CANCELLING:
        return _to(job, State.PAUSED, record, Reason.DISK_FULL, message or code)
    if code in _INFRASTRUCTURE:
        return _infrastructure_fault(job, record, limits, Reason.WORKER_LOST, message or code)
    return _program_fault(job, record, limits, message or code)


def _stopped(job: JobRow, record: ExitRecord, limits: Limits) -> Decision:
    """The attempt was asked to stop, by the service or from outside, or could not renew its lease."""
    state = State(job["state"])
    if state in _STOPPED_AS:
        unsaved = f"the worker did not save ({record.message}); its earlier checkpoints remain"
        message = job["message"] if record.outcome else unsaved
        return _to(job, _STOPPED_AS[state], record, _reason(job), message)
    if record.cause == "fenced":
        message = record.message or "the lease could not be renewed"
        return _infrastructure_fault(job, record, limits, Reason.WORKER_LOST, message)
    return _infrastructure_fault(job, record, limits, Reason.WORKER_KILLED, "the worker was stopped from outside")


def _infrastructure_fault(
    job: JobRow, record: ExitRecord | None, limits: Limits, reason: Reason, message: str | None
) -> Decision:
    """A fault of the machine: retried up to the infrastructure limit."""
    state, used = State(job["state"]), job["infrastructure_used"]
    if state in _STOPPED_AS:
        return _to(job, _STOPPED_AS[state], record, _reason(job), message)
    if state is State.RECOVERING:  # the reason for abandoning the attempt matters more than how it then ended
        reason, message = _reason(job), job["message"]
    if used >= limits.infrastructure:
        exhausted = f"retried {used} times; the last attempt failed with {reason}: {message}"
        return _to(job, State.FAILED, record, Reason.RETRIES_EXHAUSTED, exhausted)
    return _retry(job, record, limits, reason, message, infrastructure_used=used + 1)


def _program_fault(job: JobRow, record: ExitRecord, limits: Limits, message: str) -> Decision:
    """A fault of the program, which may be random: retried up to the program limit."""
    used = job["program_used"]
    if job["state"] in (*_STOPPED_AS, State.RECOVERING):
        return _infrastructure_fault(job, record, limits, Reason.WORKER_KILLED, message)
    if used >= limits.program:
        return _to(job, State.FAILED, record, Reason.ERROR, message)
    return _retry(job, record, limits, Reason.ERROR, message, program_used=used + 1)


def _retry(
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


def _signal_message(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = str(number)
    hint = "; the usual cause is the machine's out-of-memory killer" if number == signal.SIGKILL else ""
    return f"the worker was killed by signal {name}{hint}"
