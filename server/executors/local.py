"""Attempts as processes of this machine, each with its own supervisor, which outlives this server.

All state of an attempt is in its directory (`server.executors.supervisor`), so that a restarted server can adopt
attempts that an earlier one launched.
"""

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from gan_mhe.errors import StorageError
from gan_mhe.files import write_json
from server.executors import supervisor
from server.executors.base import ExitRecord, Handle, LaunchError, LaunchSpec, Observation, Signal, Slot
from server.executors.devices import DeviceProbe
from server.executors.processes import Identity, processes_of
from server.executors.slots import Slots
from server.executors.warm_start import WarmStart

_log = structlog.get_logger()

REQUEST, OUTCOME, SUPERVISOR_LOG = "request.json", "outcome.json", "supervisor.log"

_LAUNCH_SECONDS = 10.0
_POLL_SECONDS = 0.01
_REACTION_SECONDS = 2.0
_ON_CPU = Slot("cpu", "cpu", "train")
_SIGNALS = {"checkpoint_stop": signal.SIGTERM, "stop": signal.SIGINT, "kill": signal.SIGQUIT}


class LocalExecutor:
    """The executor that needs no other service. Thread-safe.

    cpu_slots, task_slots: concurrent attempts. threads_per_slot: CPU threads of each. cuda_memory_bytes_per_slot: None
    divides a device equally. worker_command: the command of an attempt; the request file's path is appended.
    worker_niceness: 0 to 19. python: interpreter of the supervisor. console_limit_bytes: size limit of a job's console
    file. preload: modules that a fork server imports once for all attempts on the CPU, the worker's among them; without
    any, and as long as they are not loaded, each attempt imports what it needs.
    """

    name = "local"

    def __init__(
        self,
        *,
        cpu_slots: int,
        threads_per_slot: int,
        task_slots: int = 1,
        cuda_slots_per_device: int = 1,
        cuda_memory_bytes_per_slot: int | None = None,
        devices: DeviceProbe,
        worker_command: Sequence[str] = (sys.executable, "-m", "gan_mhe.worker"),
        worker_niceness: int = 5,
        python: str = sys.executable,
        console_limit_bytes: int = 64 * 2**20,
        preload: Sequence[str] = (),
    ) -> None:
        self._slots = Slots(
            devices,
            cpu_slots=cpu_slots,
            task_slots=task_slots,
            threads_per_slot=threads_per_slot,
            cuda_slots_per_device=cuda_slots_per_device,
            cuda_memory_bytes_per_slot=cuda_memory_bytes_per_slot,
        )
        self._worker_command = tuple(worker_command)
        self._worker_niceness = worker_niceness
        self._python = python
        self._console_limit_bytes = console_limit_bytes
        self._warm = WarmStart(preload, self._slots.environment(_ON_CPU)) if preload else None
        self._children: set[int] = set()
        self._registered: set[str] = set()

    def start(self) -> None:
        if self._warm is not None:
            self._warm.start()

    def stop(self) -> None:
        if self._warm is not None:
            self._warm.stop()

    def inventory(self) -> Sequence[Slot]:
        return self._slots.inventory()

    def launch(self, spec: LaunchSpec) -> Handle:
        directory = spec.directory.resolve()
        handle = self.find(directory)
        if handle is None:
            try:
                self._write_spec(spec, directory)
                handle = self._fork(spec, directory) or self._execute(spec, directory)
            except (OSError, StorageError) as error:
                raise LaunchError(f"cannot start {spec.attempt_id}: {error}") from error
        self._register(directory, handle)
        return handle

    def observe(self, handle: Handle) -> Observation:
        self._reap_all()
        directory, attempt_id = Path(handle["directory"]), handle["attempt_id"]
        if not (directory / supervisor.EXIT).exists() and _supervisor(handle).alive():
            self._register(directory, handle)
            return Observation(attempt_id, "running", lease_age_seconds=_lease_age(directory))
        # Read after the supervisor was seen to have ended: the record is the last file it writes.
        record = _exit_record(directory)
        if record is None and any(self._survivors(handle)):
            return Observation(attempt_id, "unknown", lease_age_seconds=_lease_age(directory))
        self._registered.discard(attempt_id)
        return Observation(attempt_id, "exited", record, seconds=_seconds_to_last_lease(directory))

    def signal(self, handle: Handle, what: Signal) -> None:
        leader = _supervisor(handle)
        if leader.alive():
            leader.send(_SIGNALS[what])
            if what == "kill":
                leader.send(signal.SIGCONT)  # so that a stopped supervisor can write its record
                if not leader.wait(_REACTION_SECONDS):
                    leader.send(signal.SIGKILL)
                    leader.wait(_REACTION_SECONDS)
        if not leader.alive():
            for process in self._survivors(handle):
                process.send(signal.SIGKILL if what == "kill" else signal.SIGTERM)

    def find(self, directory: Path) -> Handle | None:
        directory = directory.resolve()
        handle = _handle(directory)
        spec = _read_json(directory / supervisor.SPEC)
        if handle is not None or spec is None:
            return handle
        limit = time.monotonic() + _LAUNCH_SECONDS
        while handle is None and any(processes_of(spec["attempt_id"])) and time.monotonic() < limit:
            time.sleep(_POLL_SECONDS)
            handle = _handle(directory)
        return handle or _handle(directory)

    def problem(self) -> str | None:
        for program in (self._python, self._worker_command[0]):
            if shutil.which(program) is None:
                return f"the program {program!r} is missing or not executable"
        return None

    def _write_spec(self, spec: LaunchSpec, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        spec.console.parent.mkdir(parents=True, exist_ok=True)
        request = dict(spec.request)
        if request.get("kind") == "train" and request.get("memory_fraction") is None:
            request["memory_fraction"] = self._slots.memory_fraction(spec.slot)
        write_json(directory / REQUEST, request)
        document = {
            "protocol": supervisor.PROTOCOL,
            "attempt_id": spec.attempt_id,
            "job_id": spec.job_id,
            "number": spec.number,
            "epoch": spec.epoch,
            "slot": spec.slot.name,
            "command": [*self._worker_command, str(directory / REQUEST)],
            "environment": self._environment(spec),
            "niceness": self._worker_niceness,
            "console": str(spec.console.resolve()),
            "grace_seconds": spec.grace_seconds,
            "lease_ttl_seconds": spec.lease_ttl_seconds,
            "wall_seconds": spec.wall_seconds,
            "console_limit_bytes": self._console_limit_bytes,
        }
        write_json(directory / supervisor.SPEC, document)

    def _environment(self, spec: LaunchSpec) -> dict[str, str]:
        return {**self._slots.environment(spec.slot), **spec.environment, supervisor.MARKER: spec.attempt_id}

    def _fork(self, spec: LaunchSpec, directory: Path) -> Handle | None:
        """The handle of the attempt, forked; None if it has to be executed."""
        if self._warm is None or spec.slot.device != _ON_CPU.device:
            return None
        pid = self._warm.fork(directory / supervisor.SPEC, spec.attempt_id, directory / SUPERVISOR_LOG)
        if pid is None:
            return None
        try:
            return self._await_supervisor(pid, spec.attempt_id, directory)
        except _EndedAtOnce as end:
            _log.warning("fork_failed", attempt=spec.attempt_id, consequence="it is executed", error=str(end))
            return None

    def _execute(self, spec: LaunchSpec, directory: Path) -> Handle:
        """The handle of the attempt. Its supervisor depends neither on this process nor on its thread."""
        log = directory / SUPERVISOR_LOG
        pid = os.posix_spawn(
            self._python,
            [self._python, "-I", "-S", supervisor.__file__, str(directory / supervisor.SPEC)],
            {**os.environ, supervisor.MARKER: spec.attempt_id},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
        self._children.add(pid)
        return self._await_supervisor(pid, spec.attempt_id, directory)

    def _await_supervisor(self, pid: int, attempt_id: str, directory: Path) -> Handle:
        """The handle of the attempt, once its supervisor has written its identity.

        Raises LaunchError if it does not; then no process of the attempt is left, since the next attempt may start. The
        supervisor may be another one than this process: of several, all but the first end at once.
        """
        limit, end = time.monotonic() + _LAUNCH_SECONDS, None
        while (handle := _handle(directory)) is None:
            end = self._end_of(pid) if end is None else end
            if end is not None and not any(processes_of(attempt_id)) and _handle(directory) is None:
                raise _EndedAtOnce(f"the supervisor ended{end}: {_printed(directory)}")
            if time.monotonic() >= limit:
                if end is None:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                for process in processes_of(attempt_id):
                    process.send(signal.SIGKILL)
                    process.wait(_REACTION_SECONDS)
                raise LaunchError(f"the supervisor did not start within {_LAUNCH_SECONDS:.0f} s")
            time.sleep(_POLL_SECONDS)
        return handle

    def _register(self, directory: Path, handle: Handle) -> None:
        """Record the slot's occupant once the supervisor has identified its trainer."""
        if handle["attempt_id"] in self._registered:
            return
        spec, identity = _read_json(directory / supervisor.SPEC), _read_json(directory / supervisor.SUPERVISOR)
        if spec is None or identity is None:
            return
        trainer = identity["trainer"]
        self._slots.occupy(spec["slot"], handle["attempt_id"], _supervisor(handle), trainer["pid"] if trainer else None)
        if trainer:
            self._registered.add(handle["attempt_id"])

    def _survivors(self, handle: Handle) -> list[Identity]:
        """Live processes of the attempt except its supervisor."""
        leader = _supervisor(handle)
        if leader.boot_id != supervisor.boot_id():
            return []
        found = {process for process in processes_of(handle["attempt_id"]) if process != leader}
        identity = _read_json(Path(handle["directory"]) / supervisor.SUPERVISOR)
        if identity and identity["trainer"]:
            trainer = Identity(identity["trainer"]["pid"], identity["trainer"]["start_time"], identity["boot_id"])
            found |= {trainer} if trainer.alive() else set()
        return sorted(found, key=lambda process: process.pid)

    def _reap_all(self) -> None:
        """Reap supervisors that have ended: they would stay zombies of this process."""
        for pid in tuple(self._children):
            self._reap(pid)

    def _end_of(self, pid: int) -> str | None:
        """How a supervisor ended, None while it runs or if it was reaped elsewhere. A forked one is no child."""
        if pid in self._children:
            status = self._reap(pid)
            return f" with {os.waitstatus_to_exitcode(status)}" if status else None
        return None if Path(f"/proc/{pid}").exists() else ""

    def _reap(self, pid: int) -> int:
        """The wait status of a supervisor that this process started, 0 while it runs."""
        try:
            ended, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:  # another thread reaped it
            ended, status = pid, 0
        if ended:
            self._children.discard(pid)
        return status


class _EndedAtOnce(LaunchError):
    """The supervisor ended before it supervised anything."""


def _printed(directory: Path) -> str:
    """The end of what the supervisor printed; empty if it could not even make its file."""
    try:
        return (directory / SUPERVISOR_LOG).read_text(errors="replace").strip()[-500:]
    except OSError:
        return ""


def _supervisor(handle: Handle) -> Identity:
    return Identity(handle["pid"], handle["start_time"], handle["boot_id"])


def _handle(directory: Path) -> Handle | None:
    identity = _read_json(directory / supervisor.SUPERVISOR)
    if identity is None:
        return None
    return {"directory": str(directory)} | {
        key: identity[key] for key in ("attempt_id", "pid", "start_time", "boot_id")
    }


def _lease_age(directory: Path) -> float | None:
    """Seconds since the lease was renewed; includes time that the machine was asleep."""
    lease = _read_json(directory / supervisor.LEASE)
    return None if lease is None else max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - lease["boottime"])


def _seconds_to_last_lease(directory: Path) -> float:
    """How long an attempt is known to have run: from the supervisor's start to the last lease, on the boot's clock."""
    identity, lease = _read_json(directory / supervisor.SUPERVISOR), _read_json(directory / supervisor.LEASE)
    if identity is None or lease is None or identity["boot_id"] != lease["boot_id"]:
        return 0.0
    seconds: float = lease["boottime"] - identity["start_time"] / os.sysconf("SC_CLK_TCK")
    return max(0.0, seconds)


def _exit_record(directory: Path) -> ExitRecord | None:
    record = _read_json(directory / supervisor.EXIT)
    if record is None:
        return None
    outcome = _read_json(directory / OUTCOME)
    seconds = record.get("seconds", _seconds_to_last_lease(directory))  # supervisors of earlier versions record none
    return ExitRecord(record["exit_code"], record["signal"], record["cause"], record["message"], outcome, seconds)


def _read_json(path: Path) -> Mapping[str, Any] | None:
    """A JSON object, or None if the file is missing or incomplete."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None
