"""The supervisor of one attempt: it starts the trainer, outlives the server, and has the last word.

Run by path, `python -I -S shim.py SPEC`. It needs the standard library alone and imports all of it at the start, so
that an upgrade of the package under a running attempt changes nothing. Beside SPEC lie

    spec.json   from the executor: what to run, and within which limits
    shim.json   who supervises and who trains, as process number and start time
    lease.json  renewed every third of its time to live
    exit.json   how it ended; the last thing written

SIGTERM asks the trainer to save and stop, SIGINT to stop at once, SIGQUIT kills it. A directory is supervised once: a
second supervisor for it leaves without a trace.
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
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

PROTOCOL = 1
MARKER = "GAN_MHE_ATTEMPT"  # environment variable by which every process of an attempt is known
SPEC, SHIM, LEASE, EXIT = "spec.json", "shim.json", "lease.json", "exit.json"

Cause = Literal["exit", "stop", "timeout", "fenced", "launch_failed"]

LINE_LIMIT = 64 * 1024
_CHUNK = 32 * 1024  # shorter than a line may be, so that one chunk cuts one line at most
_RESERVE_BYTES = 64 * 1024
_STOP_NOW_SECONDS = 5.0
_FIRST_REPEAT_SECONDS = 0.2  # two signals at once would be taken for one
_REPEAT_SECONDS = 1.0
_ORPHAN_SECONDS = 10.0
_RECORD_SECONDS = 30.0
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_NEVER = float("inf")


def boot_id() -> str:
    """Changes with every start of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def process_stat(pid: int) -> tuple[str, int, int]:
    """State letter, parent, and start time in clock ticks after boot. OSError when there is no such process."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return fields[0].decode(), int(fields[1]), int(fields[19])


def main(arguments: list[str]) -> int:
    """Supervise the attempt that the one argument describes."""
    spec_path = Path(arguments[0]).resolve()
    _close_inherited_files()
    lock = os.open(spec_path.with_name("shim.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    if spec_path.with_name(SHIM).exists():
        return 0
    if os.getsid(0) != os.getpid():
        os.setsid()
    Supervisor(json.loads(spec_path.read_text()), spec_path.parent).run()
    return 0


class Supervisor:
    """One attempt from start to record.

    All of it happens in the main thread: the kernel ends the trainer when the thread that started it ends.
    """

    def __init__(self, spec: dict[str, Any], directory: Path) -> None:
        self._spec = spec
        self._directory = directory
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._started = _now()
        self._cause: Cause = "exit"
        self._allowed_seconds = 0.0  # between being asked to stop and being killed
        self._killed = False
        self._received: list[int] = []
        self._wake, self._console_end = -1, -1
        self._lease_due = self._renewed = time.monotonic()
        self._wall_at = self._repeat_at = self._kill_at = _NEVER

    def run(self) -> None:
        """Start the trainer, see it through, and write down how it ended."""
        self._catch_signals()
        _check(self._libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
        self._write_identity(None)
        try:
            self._start()
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self._cause = "launch_failed"
            self._record(None, None, f"cannot start {self._spec['command']}: {error}")
            return
        while not self._has_ended():
            self._obey()
            self._keep_lease()
            self._enforce()
            self._listen(max(0.0, self._next_deadline() - time.monotonic()))
        self._conclude()

    # --- start

    def _catch_signals(self) -> None:
        self._wake, written = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(written, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGCHLD):
            signal.signal(number, lambda received, frame: self._received.append(received))
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def _start(self) -> None:
        if self._spec["protocol"] != PROTOCOL:
            raise ValueError(f"the spec has protocol {self._spec['protocol']}, expected {PROTOCOL}")
        with open(self._directory / "reserve", "wb") as reserve:
            os.posix_fallocate(reserve.fileno(), 0, _RESERVE_BYTES)
        self._console = Console(Path(self._spec["console"]), self._spec["console_limit_bytes"])
        self._console_end, written = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._console_end, False)
        try:
            self._trainer = subprocess.Popen(
                self._spec["command"],
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=written,
                env={**os.environ, **self._spec["environment"]},
                process_group=0,
                preexec_fn=self._prepare_trainer,
            )
        finally:
            os.close(written)
        if self._spec["wall_seconds"] is not None:
            self._wall_at = time.monotonic() + self._spec["wall_seconds"]
        with suppress(OSError):  # only says whom to look for if this process is killed; the marker says so too
            self._write_identity(self._trainer.pid)

    def _prepare_trainer(self) -> None:
        """In the trainer's process, before it becomes the trainer."""
        self._die_with_supervisor()
        _yield_to_others(self._spec.get("niceness", 0))  # an older server, still running, writes none

    def _die_with_supervisor(self) -> None:
        supervisor = os.getsid(0)  # the supervisor leads the session
        _check(self._libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0))
        if os.getppid() != supervisor:  # it died before it could be asked for
            os._exit(1)

    def _write_identity(self, trainer: int | None) -> None:
        document = {
            "protocol": PROTOCOL,
            "attempt_id": self._spec["attempt_id"],
            "pid": os.getpid(),
            "start_time": process_stat(os.getpid())[2],
            "boot_id": boot_id(),
            "trainer": trainer and {"pid": trainer, "start_time": process_stat(trainer)[2]},
        }
        _write_json(self._directory / SHIM, document)

    # --- while it runs

    def _has_ended(self) -> bool:
        """Whether the trainer has; it is left unreaped. Reaps the orphans it made on the way."""
        while (child := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if child.si_pid == self._trainer.pid:
                return True
            os.waitpid(child.si_pid, 0)
        return False

    def _obey(self) -> None:
        while self._received:
            number = self._received.pop(0)
            if number == signal.SIGTERM:
                self._ask_to_stop("stop")
            elif number == signal.SIGINT:
                self._stop_now()
            elif number == signal.SIGQUIT:
                self._cause = "stop" if self._cause == "exit" else self._cause
                self._kill_within(0.0)

    def _ask_to_stop(self, cause: Cause) -> None:
        """Ask once; who asks first gives the cause."""
        if self._cause != "exit" or self._trainer.returncode is not None:
            return
        self._cause = cause
        self._kill_within(self._spec["grace_seconds"])
        os.kill(self._trainer.pid, signal.SIGTERM)

    def _stop_now(self) -> None:
        """Ask until the trainer leaves without saving."""
        self._ask_to_stop("stop")
        self._kill_within(min(_STOP_NOW_SECONDS, self._spec["grace_seconds"]))
        self._repeat_at = min(self._repeat_at, time.monotonic() + _FIRST_REPEAT_SECONDS)

    def _kill_within(self, seconds: float) -> None:
        """Shorten the time that is left; what was said earlier is never prolonged."""
        kill_at = time.monotonic() + seconds
        if kill_at < self._kill_at:
            self._kill_at, self._allowed_seconds = kill_at, seconds

    def _keep_lease(self) -> None:
        """Renew the lease when it is time; stop the trainer when that failed for the lease's whole life."""
        now, ttl = time.monotonic(), self._spec["lease_ttl_seconds"]
        if now < self._lease_due:
            return
        self._lease_due = now + ttl / 3
        lease = {
            "epoch": self._spec["epoch"],
            "boottime": time.clock_gettime(time.CLOCK_BOOTTIME),
            "boot_id": boot_id(),
        }
        try:
            _write_json(self._directory / LEASE, lease, durable=False)
            self._renewed = now
        except OSError:
            if now - self._renewed >= ttl:
                self._ask_to_stop("fenced")

    def _enforce(self) -> None:
        now = time.monotonic()
        if now >= self._wall_at:
            self._wall_at = _NEVER
            self._ask_to_stop("timeout")
        if now >= self._repeat_at:
            self._repeat_at = now + _REPEAT_SECONDS
            os.kill(self._trainer.pid, signal.SIGTERM)
        if now >= self._kill_at:
            self._kill_at = self._repeat_at = _NEVER
            self._killed = True
            self._kill_group()

    def _kill_group(self) -> None:
        """Only while the trainer is not reaped, so that its number can mean no other group."""
        os.kill(self._trainer.pid, signal.SIGKILL)
        with suppress(ProcessLookupError):  # it may have left its group
            os.killpg(self._trainer.pid, signal.SIGKILL)

    def _next_deadline(self) -> float:
        return min(self._lease_due, self._wall_at, self._repeat_at, self._kill_at)

    def _listen(self, seconds: float) -> None:
        """Wait for output, a signal or the time to pass."""
        ends = [self._wake] if self._console_end < 0 else [self._wake, self._console_end]
        ready, _, _ = select.select(ends, [], [], seconds)
        if self._wake in ready:
            os.read(self._wake, 4096)
        if self._console_end in ready:
            self._take_output()

    def _take_output(self) -> bool:
        """Move a chunk from the pipe to the console; whether there was one."""
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

    # --- the end

    def _conclude(self) -> None:
        self._kill_group()
        status = self._trainer.wait()
        left = self._end_orphans()
        while self._console_end >= 0 and self._take_output():
            pass
        self._console.close()
        code, number = (status, None) if status >= 0 else (None, -status)
        self._record(code, number, self._describe(code, number, left))

    def _end_orphans(self) -> int:
        """Kill what the trainer left behind, in whatever group or session; how many would not go."""
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
            self._keep_lease()
            time.sleep(0.005)
        return len(_children())

    def _describe(self, code: int | None, number: int | None, left: int) -> str:
        spec = self._spec
        asked = {
            "stop": "asked to stop",
            "timeout": f"the wall time of {spec['wall_seconds']} s is used up",
            "fenced": f"the lease could not be renewed for {spec['lease_ttl_seconds']} s",
        }.get(self._cause)
        ended = f"ended with exit code {code}" if number is None else f"ended by signal {number}"
        if self._killed:
            ended = f"killed after {self._allowed_seconds:g} s" if self._allowed_seconds else "killed at once"
        said = [part for part in (asked, ended, left and f"{left} of its processes cannot be killed") if part]
        return "; ".join(said)

    def _record(self, code: int | None, number: int | None, message: str) -> None:
        """Write exit.json. The room it takes was set aside at the start; a disk that refuses is asked again."""
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # nothing is left that could be asked to stop
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
            "cpu_seconds": used.ru_utime + used.ru_stime,
            "max_rss_bytes": used.ru_maxrss * 1024,
        }
        limit = time.monotonic() + _RECORD_SECONDS
        while True:
            try:
                (self._directory / "reserve").unlink(missing_ok=True)
                _write_json(self._directory / EXIT, record)
                return
            except OSError:
                if time.monotonic() >= limit:
                    raise
            self._keep_lease()
            time.sleep(0.1)


class Console:
    """The job's console file: appended to, never longer than `limit` bytes and a mark, no line longer than 64 KiB."""

    def __init__(self, path: Path, limit: int) -> None:
        self._file = open(path, "a+b", buffering=0)
        self._limit = limit
        size = self._file.seek(0, os.SEEK_END)
        self._left = limit - size  # negative once the mark is there
        self._line = 0  # bytes of the present line so far, those left out included
        if size and os.pread(self._file.fileno(), 1, size - 1) != b"\n":
            self.write(b"\n")

    def write(self, chunk: bytes) -> None:
        """Append up to 32 KiB of output. What a full disk refuses is lost; the trainer is not held up for it."""
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
        """The chunk without what its first line has beyond the limit; no other line can be too long yet."""
        head, newline, tail = chunk.partition(b"\n")
        room = LINE_LIMIT - self._line
        self._line += len(head)
        if len(head) > room:
            head = head[:room] + b" [... line cut]" if room >= 0 else b""
        if newline:
            self._line = len(tail) - (tail.rfind(b"\n") + 1)
        return head + newline + tail


def _children() -> list[int]:
    """Processes whose parent this process is."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                if process_stat(int(name))[1] == os.getpid():
                    found.append(int(name))
    return found


def _write_json(path: Path, document: dict[str, Any], *, durable: bool = True) -> None:
    """Put a whole file in place. `durable` also survives a power cut."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w") as file:
        json.dump(document, file)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    os.replace(temporary, path)


def _close_inherited_files() -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            with suppress(OSError):  # the listing itself was one of them
                os.close(int(name))


def _yield_to_others(niceness: int) -> None:
    """Let other processes go before this one, by so many steps of niceness."""
    os.nice(niceness)
    # Where the kernel shares the cores among sessions first, the niceness of a process counts within its session only.
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(niceness))


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
