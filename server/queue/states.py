"""The states of a job and the legal moves between them, as data."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class State(StrEnum):
    """The state of a job."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    RECOVERING = "recovering"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Reason(StrEnum):
    """Why a job is in its state, for programs. The message beside it is for people."""

    USER = "user"
    DEADLINE_BEFORE_START = "deadline_before_start"
    ERROR = "error"
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out_of_memory"
    CHECKPOINT_CORRUPT = "checkpoint_corrupt"
    TIMEOUT = "timeout"
    RETRIES_EXHAUSTED = "retries_exhausted"
    DISK_FULL = "disk_full"
    WORKER_LOST = "worker_lost"
    WORKER_KILLED = "worker_killed"
    LAUNCH_FAILED = "launch_failed"


_S = State

# Only a retry leaves a terminal state, and only `failed`.
MOVES: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        _S.QUEUED: frozenset({_S.STARTING, _S.CANCELLED, _S.PAUSED, _S.FAILED}),
        _S.STARTING: frozenset(
            {_S.RUNNING, _S.SUCCEEDED, _S.FAILED, _S.PAUSING, _S.PAUSED, _S.RECOVERING, _S.CANCELLING}
        ),
        _S.RUNNING: frozenset({_S.SUCCEEDED, _S.FAILED, _S.PAUSING, _S.PAUSED, _S.RECOVERING, _S.CANCELLING}),
        _S.PAUSING: frozenset({_S.PAUSED, _S.SUCCEEDED, _S.FAILED, _S.RECOVERING, _S.CANCELLING}),
        _S.PAUSED: frozenset({_S.QUEUED, _S.CANCELLED}),
        # Succeeded, if an abandoned attempt turns out to have finished its work.
        _S.RECOVERING: frozenset(
            {_S.QUEUED, _S.SUCCEEDED, _S.FAILED, _S.PAUSING, _S.PAUSED, _S.CANCELLING, _S.CANCELLED}
        ),
        _S.CANCELLING: frozenset({_S.CANCELLED, _S.SUCCEEDED, _S.FAILED}),
        _S.SUCCEEDED: frozenset(),
        _S.FAILED: frozenset({_S.QUEUED}),
        _S.CANCELLED: frozenset(),
    }
)

TERMINAL = frozenset({_S.SUCCEEDED, _S.FAILED, _S.CANCELLED})

# All others. Queries name these, because an index finds states that are named, not those that are not.
OPEN = frozenset(State) - TERMINAL

# States in which an attempt may still have processes.
LIVE = frozenset({_S.STARTING, _S.RUNNING, _S.PAUSING, _S.RECOVERING, _S.CANCELLING})


def legal(before: State, after: State) -> bool:
    """Return whether a job may move from one state to the other."""
    return after in MOVES[before]
