"""What the scheduler asks of an engine that runs attempts.

Three rules hold for every engine. `observe` may answer "unknown", and only an expired lease moves a job then.
`signal` promises nothing: a job changes state when `observe` shows it. `launch` twice with one attempt id starts one
process.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

Signal = Literal["checkpoint_stop", "stop", "kill"]
SlotPurpose = Literal["train", "task"]

Handle = Mapping[str, Any]  # plain JSON, kept in the store, so that another server process can adopt the attempt


@dataclass(frozen=True)
class Slot:
    """Room for one attempt.

    name: stable, such as `cpu0` or `cuda1/0`. purpose: `train`, or `task` for the short work of sampling and scoring.
    memory_bytes: what an attempt may use of the device (None: not limited). available: whether a new attempt may be
    put there now; `note` says why not.
    """

    name: str
    device: str
    purpose: SlotPurpose
    memory_bytes: int | None = None
    free_bytes: int | None = None
    threads: int | None = None
    available: bool = True
    note: str | None = None


@dataclass(frozen=True)
class LaunchSpec:
    """One attempt, completely.

    request: what the worker reads. wall_seconds: what is left of the job's limit (None: no limit).
    """

    attempt_id: str
    job_id: str
    number: int
    epoch: int
    slot: Slot
    request: Mapping[str, Any]
    directory: Path
    console: Path
    grace_seconds: float
    lease_ttl_seconds: float
    wall_seconds: float | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ExitRecord:
    """The supervisor's last word on an attempt.

    cause: `exit` (ended by itself), `stop` (asked to, or killed after the grace), `timeout` (wall time), `fenced` (the
    lease could not be renewed), `launch_failed`. outcome: what the worker itself wrote, None when it could not.
    """

    exit_code: int | None
    signal: int | None
    cause: Literal["exit", "stop", "timeout", "fenced", "launch_failed"]
    message: str = ""
    outcome: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Observation:
    """How an attempt is. `exited` without a record: supervisor and worker are gone and said nothing.

    lease_age_seconds: since the supervisor last renewed the lease, on a clock that wall-clock jumps do not touch.
    """

    attempt_id: str
    status: Literal["running", "exited", "unknown"]
    record: ExitRecord | None = None
    lease_age_seconds: float | None = None


class Executor(Protocol):
    """An engine. All methods may be called again with the same arguments without harm."""

    name: str

    def inventory(self) -> Sequence[Slot]:
        """All slots, in a stable order."""

    def launch(self, spec: LaunchSpec) -> Handle:
        """Start the attempt unless it was started; LaunchError when it cannot be started."""

    def observe(self, handle: Handle) -> Observation:
        """How the attempt is now. Never raises for a lost attempt."""

    def signal(self, handle: Handle, what: Signal) -> None:
        """Ask the attempt to save and stop, to stop without saving, or kill all its processes."""

    def find(self, directory: Path) -> Handle | None:
        """The handle of the attempt launched in `directory`, or None when none was: for launches cut short."""


class LaunchError(Exception):
    """The engine cannot start this attempt; the message says why."""
