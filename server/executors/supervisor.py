"""The supervisor of one attempt: starts the trainer, outlives the server, and records how the attempt ended.

Run by path: `python -I -S supervisor.py SPEC`. This file uses the standard library alone and imports all of it at the
start, so that upgrading the package does not affect a running attempt. Files in the directory of SPEC:

    spec.json        written by the executor: the command and its limits
    supervisor.json  process ids and start times of the supervisor and the trainer
    lease.json       renewed every third of its lifetime
    exit.json        how the attempt ended; always the last file written

SIGTERM asks the trainer to save and stop, SIGINT to stop without saving; SIGQUIT kills it. Each directory is
supervised once: a second supervisor exits without changing anything.
"""

import ctypes
import fcntl
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

PROTOCOL = 1
MARKER = "GAN_MHE_ATTEMPT"  # environment variable that identifies every process of an attempt
SPEC, SUPERVISOR, LEASE, EXIT = "spec.json", "supervisor.json", "lease.json", "exit.json"

Cause = Literal["exit", "stop", "timeout", "fenced", "launch_failed"]

LINE_LIMIT = 64 * 1024
_CHUNK = 32 * 1024  # less than LINE_LIMIT, so that a chunk contains at most one line to cut
_RESERVE_BYTES = 64 * 1024
_STOP_NOW_SECONDS = 5.0
_FIRST_REPEAT_SECONDS = 0.2  # the kernel merges two signals sent at the same time
_REPEAT_SECONDS = 1.0
_ORPHAN_SECONDS = 10.0
_RECORD_SECONDS = 30.0
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_NEVER = float("inf")


def boot_id() -> str:
    """The kernel's id of the current boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def process_stat(pid: int) -> tuple[str, int, int]:
    """State letter, parent pid, and start time in clock ticks after boot. Raises OSError if there is none."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return fields[0].decode(), int(fields[1]), int(fields[19])


class Trainer(Protocol):
    """The process that trains."""

    pid: int
    returncode: int | None

    def wait(self) -> int:
        """Reap it once it has ended; returns its exit code, or minus the signal that ended it."""


Start = Callable[[dict[str, Any], int, Callable[[], None]], Trainer]
"""Starts the trainer of a spec, with this descriptor as its output, after a call in the new process."""


def execute(spec: dict[str, Any], output: int, prepare: Callable[[], None]) -> Trainer:
    """Start the trainer by the command of the spec."""
    return subprocess.Popen(
        spec["command"],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env={**os.environ, **spec["environment"]},
        process_group=0,
        preexec_fn=prepare,
    )


def main(spec_path: Path, start: Start = execute) -> None:
    """Supervise the attempt that the file at `spec_path` describes, unless it has a supervisor already."""
    close_inherited_files()
    lock = os.open(spec_path.with_name("supervisor.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    if not spec_path.with_name(SUPERVISOR).exists():
        if os.getsid(0) != os.getpid():
            os.setsid()
        Supervisor(json.loads(spec_path.read_text()), spec_path.parent, start).run()


class Supervisor:
    """One attempt from start to exit record.

    Everything runs in the main thread: the kernel kills the trainer when the thread that started it ends.
    """

    def __init__(self, spec: dict[str, Any], directory: Path, start: Start) -> None:
        self._spec = spec
        self._directory = directory
        self._start_trainer = start
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._started = _now()
        self._began = time.monotonic()
        self._cause: Cause = "exit"
        self._allowed_seconds = 0.0  # from the request to stop to the kill
        self._killed = False
        self._blocked = False  # the newest attempt to write failed
        self._received: list[int] = []
        self._wake, self._console_end = -1, -1
        self._lease_due = self._renewed = time.monotonic()
        self._wall_at = self._repeat_at = self._kill_at = _NEVER

    def run(self) -> None:
        """Start the trainer, supervise it until it ends, and write the exit record."""
        self._catch_signals()
        if self._libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "cannot become the parent of orphaned descendants")
        self._write_identity(None)
        try:
            self._start()
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self._cause = "launch_failed"
            self._write_record(None, None, f"cannot start {self._spec['command']}: {error}")
            return
        while not self._has_ended():
            self._handle_signals()
            self._renew_lease()
            self._enforce_limits()
            self._wait(min(self._lease_due, self._wall_at, self._repeat_at, self._kill_at))
        self._finish()

    def _catch_signals(self) -> None:
        self._wake, written = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(written, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGCHLD):
            signal.signal(number, lambda received, frame: self._received.append(received))
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def _start(self) -> None:
        if self._spec["protocol"] != PROTOCOL:
            raise ValueError(f"protocol: expected {PROTOCOL}, got {self._spec['protocol']}")
        with open(self._directory / "reserve", "wb") as reserve:
            os.posix_fallocate(reserve.fileno(), 0, _RESERVE_BYTES)
        self._console = Console(Path(self._spec["console"]), self._spec["console_limit_bytes"])
        self._console_end, written = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._console_end, False)
        try:
            self._trainer = self._start_trainer(self._spec, written, self._prepare_trainer)
        finally:
            os.close(written)
        if self._spec["wall_seconds"] is not None:
            self._wall_at = time.monotonic() + self._spec["wall_seconds"]
        with suppress(OSError):  # only needed to find the trainer if this process is killed; the marker serves too
            self._write_identity(self._trainer.pid)

    def _prepare_trainer(self) -> None:
        """Runs in the new process before the command: have it die with the supervisor and yield the CPU to others."""
        supervisor = os.getsid(0)  # the supervisor leads the session
        if self._libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "cannot tie the trainer to its supervisor")
        if os.getppid() != supervisor:  # the supervisor died before prctl took effect
            os._exit(1)
        os.nice(self._spec["niceness"])
        # Where the kernel schedules by session, a process's niceness counts only within its own session.
        with suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(self._spec["niceness"]))

    def _write_identity(self, trainer: int | None) -> None:
        document = {
            "protocol": PROTOCOL,
            "attempt_id": self._spec["attempt_id"],
            "pid": os.getpid(),
            "start_time": process_stat(os.getpid())[2],
            "boot_id": boot_id(),
            "trainer": trainer and {"pid": trainer, "start_time": process_stat(trainer)[2]},
        }
        _write_json(self._directory / SUPERVISOR, document)

    def _has_ended(self) -> bool:
        """Whether the trainer has ended; leaves it unreaped, and reaps its orphans."""
        while (child := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if child.si_pid == self._trainer.pid:
                return True
            os.waitpid(child.si_pid, 0)
        return False

    def _handle_signals(self) -> None:
        while self._received:
            number = self._received.pop(0)
            if number == signal.SIGTERM:
                self._request_stop("stop")
            elif number == signal.SIGINT:  # repeat the request until the trainer stops without saving
                self._request_stop("stop")
                self._kill_after(min(_STOP_NOW_SECONDS, self._spec["grace_seconds"]))
                self._repeat_at = min(self._repeat_at, time.monotonic() + _FIRST_REPEAT_SECONDS)
            elif number == signal.SIGQUIT:
                self._cause = "stop" if self._cause == "exit" else self._cause
                self._kill_after(0.0)

    def _request_stop(self, cause: Cause) -> None:
        """Ask the trainer once to save and stop; the first request determines the cause."""
        if self._cause != "exit" or self._trainer.returncode is not None:
            return
        self._cause = cause
        self._kill_after(self._spec["grace_seconds"])
        os.kill(self._trainer.pid, signal.SIGTERM)

    def _kill_after(self, seconds: float) -> None:
        """Shorten the remaining time; a later request never extends it."""
        kill_at = time.monotonic() + seconds
        if kill_at < self._kill_at:
            self._kill_at, self._allowed_seconds = kill_at, seconds

    def _renew_lease(self) -> None:
        """Renew the lease if it is due; stop the trainer if renewal has failed for the lease's whole lifetime."""
        now, ttl = time.monotonic(), self._spec["lease_ttl_seconds"]
        if now < self._lease_due:
            return
        self._lease_due = now + ttl / 3
        boottime = time.clock_gettime(time.CLOCK_BOOTTIME)
        lease = {"epoch": self._spec["epoch"], "boottime": boottime, "boot_id": boot_id()}
        try:
            _write_json(self._directory / LEASE, lease, durable=False)
            self._renewed, self._blocked = now, False
        except OSError:
            self._blocked = True
            if now - self._renewed >= ttl:
                self._request_stop("fenced")

    def _enforce_limits(self) -> None:
        now = time.monotonic()
        if now >= self._wall_at:
            self._wall_at = _NEVER
            self._request_stop("timeout")
        if now >= self._repeat_at:
            self._repeat_at = now + _REPEAT_SECONDS
            os.kill(self._trainer.pid, signal.SIGTERM)
        if now >= self._kill_at:
            self._kill_at = self._repeat_at = _NEVER
            self._killed = True
            self._kill_group()

    def _kill_group(self) -> None:
        """Kill the trainer and its group. Only before the trainer is reaped: later its pid may mean another process."""
        os.kill(self._trainer.pid, signal.SIGKILL)
        with suppress(ProcessLookupError):  # it may have left its group
            os.killpg(self._trainer.pid, signal.SIGKILL)

    def _wait(self, until: float) -> None:
        """Wait for output, a signal, or a time on the monotonic clock."""
        ends = [self._wake] if self._console_end < 0 else [self._wake, self._console_end]
        ready, _, _ = select.select(ends, [], [], max(0.0, until - time.monotonic()))
        if self._wake in ready:
            os.read(self._wake, 4096)
        if self._console_end in ready:
            self._copy_output()

    def _copy_output(self) -> bool:
        """Copy a chunk from the pipe to the console; False if there was none."""
        try:
            chunk = os.read(self._console_end, _CHUNK)
        except BlockingIOError:
            return False
        if chunk:
            self._console.write(chunk)
        else:
            os.close(self._console_end)
            self._console_end = -1
        return bool(chunk)

    def _finish(self) -> None:
        self._kill_group()
        status = self._trainer.wait()
        left = self._kill_orphans()
        while self._console_end >= 0 and self._copy_output():
            pass
        self._console.close()
        code, number = (status, None) if status >= 0 else (None, -status)
        self._write_record(code, number, self._describe(code, number, left))

    def _kill_orphans(self) -> int:
        """Kill all descendants that the trainer left, in any group or session; returns how many could not be killed."""
        limit = time.monotonic() + _ORPHAN_SECONDS
        while time.monotonic() < limit:
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return 0
            for pid in _children():
                with suppress(PermissionError):
                    os.kill(pid, signal.SIGKILL)
            self._renew_lease()
            time.sleep(0.005)
        return len(_children())

    def _describe(self, code: int | None, number: int | None, left: int) -> str:
        reason = {
            "stop": "asked to stop",
            "timeout": f"the wall-time limit of {self._spec['wall_seconds']} s was reached",
            "fenced": f"the lease could not be renewed for {self._spec['lease_ttl_seconds']} s",
        }.get(self._cause)
        end = f"ended with exit code {code}" if number is None else f"ended by signal {number}"
        if self._killed:
            end = f"killed after {self._allowed_seconds:g} s" if self._allowed_seconds else "killed immediately"
        return "; ".join(part for part in (reason, end, left and f"{left} of its processes cannot be killed") if part)

    def _write_record(self, code: int | None, number: int | None, message: str) -> None:
        """Write exit.json into the space reserved at the start; if that fails, retry for some time."""
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # no process is left to stop
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        record = {
            "attempt_id": self._spec["attempt_id"],
            "epoch": self._spec["epoch"],
            "exit_code": code,
            "signal": number,
            "cause": self._cause,
            "message": message,
            "started_at": self._started,
            "ended_at": _now(),
            "seconds": round(time.monotonic() - self._began, 3),
            "cpu_seconds": used.ru_utime + used.ru_stime,
            "max_rss_bytes": used.ru_maxrss * 1024,
        }
        limit = time.monotonic() + _RECORD_SECONDS
        while True:
            # Where the supervisor cannot write, the trainer could not either: its end says nothing of the job.
            if self._blocked and record["cause"] == "exit":
                record |= {"cause": "fenced", "message": f"{message}; its files could not be written"}
            try:
                (self._directory / "reserve").unlink(missing_ok=True)
                _write_json(self._directory / EXIT, record)
                return
            except OSError:
                if time.monotonic() >= limit:
                    raise
                self._blocked = True
            self._renew_lease()
            time.sleep(0.1)


class Console:
    """The job's console file, opened for appending: at most `limit` bytes and a mark; lines are cut at 64 KiB."""

    def __init__(self, path: Path, limit: int) -> None:
        self._file = open(path, "a+b", buffering=0)
        self._limit = limit
        size = self._file.seek(0, os.SEEK_END)
        self._left = limit - size  # negative once the mark is written
        self._line = 0  # bytes of the current line so far, dropped ones included
        if size and os.pread(self._file.fileno(), 1, size - 1) != b"\n":
            self.write(b"\n")

    def write(self, chunk: bytes) -> None:
        """Append up to 32 KiB of output. Output that a full disk rejects is lost; it never blocks the trainer."""
        if self._left < 0:
            return
        text = self._cut_long_line(chunk)
        if len(text) > self._left:
            mark = f"\n[... output limit of {self._limit} bytes reached; the rest is dropped]\n"
            text, self._left = text[: self._left] + mark.encode(), -1
        else:
            self._left -= len(text)
        with suppress(OSError):
            self._file.write(text)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _cut_long_line(self, chunk: bytes) -> bytes:
        """The chunk with its first line cut at the limit; no other line of a chunk can exceed it."""
        head, newline, tail = chunk.partition(b"\n")
        room = LINE_LIMIT - self._line
        self._line += len(head)
        if len(head) > room:
            head = head[:room] + b" [... line cut]" if room >= 0 else b""
        if newline:
            self._line = len(tail) - (tail.rfind(b"\n") + 1)
        return head + newline + tail


def _children() -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                if process_stat(int(name))[1] == os.getpid():
                    found.append(int(name))
    return found


def _write_json(path: Path, document: dict[str, Any], *, durable: bool = True) -> None:
    """Write a file atomically; a `durable` one also survives a power failure."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w") as file:
        json.dump(document, file)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    os.replace(temporary, path)


def close_inherited_files() -> None:
    """Close all files but the standard three."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            with suppress(OSError):  # the descriptor of listdir itself is closed already
                os.close(int(name))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
