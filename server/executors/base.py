"""The protocol between the scheduler and an executor, which runs attempts.

Three rules hold for every executor. `observe` may return "unknown"; then only an expired lease moves the job.
`signal` guarantees nothing: a job changes state only after `observe` shows the effect. Calling `launch` twice with one
attempt id starts one process.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

Signal = Literal["checkpoint_stop", "stop", "kill"]
SlotPurpose = Literal["train", "task"]

Handle = Mapping[str, Any]  # plain JSON, stored in the database so that another server process can adopt the attempt


@dataclass(frozen=True)
class Slot:
    """Capacity for one attempt.

    name: stable, such as `cpu0` or `cuda1/0`. purpose: `train`, or `task` for sampling and scoring. memory_bytes:
    device memory that an attempt may use (None: unlimited). available: whether a new attempt may start here now;
    `note` gives the reason if not.
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
    """Everything needed to launch one attempt."""

    attempt_id: str
    """Unique; launching it twice starts one process."""
    job_id: str
    """Job that the attempt works on."""
    number: int
    """Number of the attempt within its job, from 1."""
    epoch: int
    """Lease epoch of the attempt; a writer with an older epoch is rejected."""
    slot: Slot
    """Where to run it."""
    request: Mapping[str, Any]
    """The request that the worker reads."""
    directory: Path
    """Directory of the attempt's files."""
    console: Path
    """File that the worker's output is appended to."""
    grace_seconds: float
    """Time from the request to stop to the kill."""
    lease_ttl_seconds: float
    """Time after which a lease that was not renewed has expired."""
    wall_seconds: float | None = None
    """Remainder of the job's wall-time limit (None: no limit)."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables in addition to those of the slot."""


@dataclass(frozen=True)
class ExitRecord:
    """How an attempt ended, as its supervisor recorded it.

    cause: `exit` (ended by itself), `stop` (on request, or killed after the grace), `timeout` (wall-time limit),
    `fenced` (its files could not be written), `launch_failed`, `unwritable` (the scheduler's word for an attempt that
    ended where no record can be written). outcome: the worker's result file, None if missing. seconds: how long the
    attempt ran, on a monotonic clock.
    """

    exit_code: int | None
    signal: int | None
    cause: Literal["exit", "stop", "timeout", "fenced", "launch_failed", "unwritable"]
    message: str = ""
    outcome: Mapping[str, Any] | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Observation:
    """The state of an attempt. `exited` without a record: supervisor and worker disappeared without an exit record.

    lease_age_seconds: time since the supervisor last renewed the lease, on a clock unaffected by wall-clock changes.
    seconds: without a record, how long the attempt is known to have run, from its start to its last lease.
    """

    attempt_id: str
    status: Literal["running", "exited", "unknown"]
    record: ExitRecord | None = None
    lease_age_seconds: float | None = None
    seconds: float = 0.0


class Executor(Protocol):
    """Runs attempts. Every method may be called repeatedly with the same arguments."""

    name: str

    def start(self) -> None:
        """Prepare for launches, without waiting; called once. Launches before or without it are slower at most."""

    def stop(self) -> None:
        """Release what `start` made. Attempts go on."""

    def inventory(self) -> Sequence[Slot]:
        """All slots, in a stable order."""

    def launch(self, spec: LaunchSpec) -> Handle:
        """Start the attempt unless it was started before. Raises LaunchError if it cannot be started."""

    def observe(self, handle: Handle) -> Observation:
        """The attempt's current state. Does not raise if the attempt is lost."""

    def signal(self, handle: Handle, what: Signal) -> None:
        """Ask the attempt to save and stop, ask it to stop without saving, or kill all its processes."""

    def find(self, directory: Path) -> Handle | None:
        """The handle of the attempt launched in `directory`, or None; used after an interrupted launch."""

    def problem(self) -> str | None:
        """Why no attempt at all can be started, None if nothing is known to speak against it."""


class LaunchError(Exception):
    """The executor cannot start this attempt; the message gives the reason."""
