"""The supervisor of an attempt: however the trainer ends, no process is left and a record says how it ended."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from server.executors import supervisor
from server.executors.processes import Identity, processes_of
from server.executors.supervisor import Console, process_stat

GRACEFUL = """
import os, signal, sys, time
asked = []
def hear(number, frame):
    if asked: sys.exit(3)
    asked.append(number)
    print("asked", flush=True)
signal.signal(signal.SIGTERM, hear)
os.write(1, b"ready\\n")
"""
STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.write(1, b"ready\\n")
time.sleep(60)
"""
FROZEN = """
import os, signal
os.write(1, b"ready\\n")
os.kill(os.getpid(), signal.SIGSTOP)
"""
AUTOGROUP = Path("/proc/sys/kernel/sched_autogroup_enabled")


class Attempt:
    """A directory with a spec, and the supervisor over it."""

    def __init__(self, directory: Path, script: str, *, pass_fds: Sequence[int] = (), **changes: Any) -> None:
        self.id = f"att_{uuid.uuid4().hex}"
        self.directory = directory
        self.console = directory / "console.log"
        self.spec = {
            "protocol": 1,
            "attempt_id": self.id,
            "job_id": "job_1",
            "number": 1,
            "epoch": 4,
            "command": [sys.executable, "-S", "-c", script],
            "environment": {supervisor.MARKER: self.id},
            "console": str(self.console),
            "grace_seconds": 30,
            "lease_ttl_seconds": 15,
            "wall_seconds": None,
            "console_limit_bytes": 10_000_000,
            "niceness": 0,
        } | changes
        directory.mkdir(exist_ok=True)
        (directory / "spec.json").write_text(json.dumps(self.spec))
        self.process = self.supervise(pass_fds=pass_fds)

    def supervise(self, path: str = supervisor.__file__, **options: Any) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-I", "-S", path, str(self.directory / "spec.json")]
        environment = {**os.environ, supervisor.MARKER: self.id}
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment, **options)

    def read(self, name: str) -> dict[str, Any]:
        """A JSON file of the attempt, once it exists."""
        eventually((self.directory / name).exists)
        document: dict[str, Any] = json.loads((self.directory / name).read_text())
        return document

    def trainer(self) -> int:
        eventually(lambda: self.read("supervisor.json")["trainer"] is not None)
        return int(self.read("supervisor.json")["trainer"]["pid"])

    def wait_for_output(self, text: str) -> None:
        """Wait until the trainer has printed this text, which it writes in one call."""
        eventually(lambda: self.console.exists() and text in self.console.read_text())

    def record(self) -> dict[str, Any]:
        """The exit record; asserts that the supervisor has ended and no process of the attempt is left."""
        record = self.read("exit.json")
        assert self.process.wait(10) == 0
        assert list(processes_of(self.id)) == []
        return record


Start = Callable[..., Attempt]


def eventually(condition: Callable[[], object], seconds: float = 10) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "timed out"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        return process_stat(pid)[0] in "ZX"
    except OSError:
        return True


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts attempts that run a Python script; kills what is left of them at the end."""
    started: list[Attempt] = []

    def begin(script: str = GRACEFUL + "time.sleep(60)", **changes: Any) -> Attempt:
        started.append(Attempt(tmp_path / f"attempt{len(started)}", script, **changes))
        return started[-1]

    yield begin
    for attempt in started:
        for process in processes_of(attempt.id):
            process.send(signal.SIGKILL)
        attempt.process.kill()
        attempt.process.wait()


# --- how a trainer ends


def test_the_record_of_an_ended_trainer_has_its_exit_code_and_resource_use(start: Start) -> None:
    attempt = start("x = bytearray(50_000_000)\nfor i in range(3_000_000): pass\nraise SystemExit(7)")
    record = attempt.record()
    assert (record["exit_code"], record["signal"], record["cause"]) == (7, None, "exit")
    assert record["message"] == "ended with exit code 7"
    assert (record["attempt_id"], record["epoch"]) == (attempt.id, 4)
    assert record["started_at"] < record["ended_at"]
    assert 0.02 < record["cpu_seconds"] < 5
    assert 50_000_000 < record["max_rss_bytes"] < 200_000_000


def test_the_record_has_the_seconds_that_the_attempt_ran_on_a_monotonic_clock(start: Start) -> None:
    began = time.monotonic()
    record = start("import time; time.sleep(0.5)").record()
    assert 0.5 <= record["seconds"] <= time.monotonic() - began


def test_a_killed_trainer_is_recorded_within_two_seconds(start: Start) -> None:
    attempt = start()
    os.kill(attempt.trainer(), signal.SIGKILL)
    began = time.monotonic()
    record = attempt.record()
    assert time.monotonic() - began < 2
    assert (record["exit_code"], record["signal"], record["cause"]) == (None, 9, "exit")


def test_a_killed_supervisor_takes_the_trainer_with_it_and_leaves_no_record(start: Start) -> None:
    attempt = start(STUBBORN)
    attempt.wait_for_output("ready")
    attempt.process.kill()
    eventually(lambda: gone(attempt.trainer()), 2)
    assert not (attempt.directory / "exit.json").exists()


def test_a_trainers_detached_children_are_not_left_behind(start: Start) -> None:
    detached = (
        "import os, sys, time\nif os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0: time.sleep(60)\n  os._exit(0)"
    )
    attempt = start(f"{detached}\nos.wait()\nos.write(1, b'ready\\n')\ntime.sleep(0.1)")
    attempt.wait_for_output("ready")
    assert len(list(processes_of(attempt.id))) == 3
    assert attempt.record()["exit_code"] == 0


def test_orphans_that_end_while_the_trainer_goes_on_do_not_stay_as_zombies(start: Start) -> None:
    orphan = "import os, time\nif os.fork() == 0:\n  if os.fork() == 0: time.sleep(0.1)\n  os._exit(0)\nos.wait()"
    attempt = start(f"{orphan}\nos.write(1, b'ready\\n')\ntime.sleep(60)")
    attempt.wait_for_output("ready")
    eventually(lambda: list(children(attempt.process.pid)) == [attempt.trainer()])


def children(parent: int) -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if process_stat(int(name))[1] == parent:
                    yield int(name)
            except OSError:
                pass


# --- being asked to stop


def test_a_stop_request_is_passed_on_once_and_leaves_time_to_save(start: Start) -> None:
    attempt = start(GRACEFUL + "while not asked: time.sleep(0.01)\ntime.sleep(0.3)\nsys.exit(75)")
    attempt.wait_for_output("ready")
    for _ in range(3):
        attempt.process.terminate()
        time.sleep(0.05)
    record = attempt.record()
    assert (record["exit_code"], record["signal"], record["cause"]) == (75, None, "stop")
    assert record["message"] == "asked to stop; ended with exit code 75"


def test_an_immediate_stop_repeats_the_request(start: Start) -> None:
    attempt = start()
    attempt.wait_for_output("ready")
    began = time.monotonic()
    attempt.process.send_signal(signal.SIGINT)
    record = attempt.record()
    assert (record["exit_code"], record["cause"]) == (3, "stop")
    assert time.monotonic() - began < 3


def test_a_graceful_stop_can_become_an_immediate_one(start: Start) -> None:
    attempt = start()
    attempt.wait_for_output("ready")
    attempt.process.terminate()
    attempt.wait_for_output("asked")
    attempt.process.send_signal(signal.SIGINT)
    assert attempt.record()["exit_code"] == 3


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("script", "state"), [(STUBBORN, "S"), (FROZEN, "T")])
def test_a_trainer_that_does_not_react_is_killed_after_the_grace(
    start: Start, script: str, state: str, asked: signal.Signals
) -> None:
    attempt = start(script, grace_seconds=0.4)
    attempt.wait_for_output("ready")
    eventually(lambda: process_stat(attempt.trainer())[0] == state)
    began = time.monotonic()
    attempt.process.send_signal(asked)
    record = attempt.record()
    assert 0.4 <= time.monotonic() - began < 2.5
    assert (record["signal"], record["cause"]) == (9, "stop")
    assert record["message"] == "asked to stop; killed after 0.4 s"


def test_repeated_requests_do_not_extend_the_grace(start: Start) -> None:
    attempt = start(STUBBORN, grace_seconds=0.5)
    attempt.wait_for_output("ready")
    began = time.monotonic()
    while attempt.process.poll() is None:
        attempt.process.send_signal(signal.SIGINT)
        assert time.monotonic() - began < 3
        time.sleep(0.1)
    assert attempt.record()["signal"] == 9


def test_a_kill_neither_waits_nor_asks_first(start: Start) -> None:
    attempt = start()
    attempt.wait_for_output("ready")
    attempt.process.send_signal(signal.SIGQUIT)
    record = attempt.record()
    assert (record["signal"], record["cause"], record["message"]) == (9, "stop", "asked to stop; killed immediately")
    assert "asked" not in attempt.console.read_text()


def test_a_stop_request_right_after_the_start_is_not_lost(start: Start) -> None:
    attempt = start(GRACEFUL + "while not asked: time.sleep(0.01)", grace_seconds=60)
    eventually((attempt.directory / "supervisor.json").exists)
    attempt.process.terminate()
    assert attempt.record()["cause"] == "stop"


def test_reaching_the_wall_time_limit_is_a_stop_with_time_to_save(start: Start) -> None:
    attempt = start(GRACEFUL + "while not asked: time.sleep(0.01)\nsys.exit(75)", wall_seconds=2.5)  # time to start
    record = attempt.record()
    assert (record["exit_code"], record["cause"]) == (75, "timeout")
    assert record["message"] == "the wall-time limit of 2.5 s was reached; ended with exit code 75"


def test_a_trainer_that_ends_within_its_wall_time_has_not_timed_out(start: Start) -> None:
    assert start("", wall_seconds=30).record()["cause"] == "exit"


# --- the lease


def test_the_lease_is_renewed_with_its_epoch_on_a_monotonic_clock(start: Start) -> None:
    attempt = start(lease_ttl_seconds=0.3)
    first = attempt.read("lease.json")
    assert (first["epoch"], first["boot_id"]) == (4, supervisor.boot_id())
    assert abs(time.clock_gettime(time.CLOCK_BOOTTIME) - first["boottime"]) < 5
    eventually(lambda: attempt.read("lease.json")["boottime"] >= first["boottime"] + 0.3)


def test_a_supervisor_that_cannot_renew_its_lease_stops_the_trainer(start: Start) -> None:
    attempt = start(GRACEFUL + "while not asked: time.sleep(0.01)\nsys.exit(75)", lease_ttl_seconds=0.6)
    attempt.wait_for_output("ready")
    deny(attempt.directory / "lease.json")
    denied = time.monotonic()
    record = attempt.record()
    assert (record["exit_code"], record["cause"]) == (75, "fenced")
    assert record["message"].startswith("the lease could not be renewed for 0.6 s")
    assert 0.3 < time.monotonic() - denied < 5


def test_a_lease_renewal_that_fails_briefly_stops_nothing(start: Start) -> None:
    attempt = start(lease_ttl_seconds=1.2)
    attempt.read("lease.json")
    deny(attempt.directory / "lease.json")
    time.sleep(0.6)
    (attempt.directory / "lease.json").rmdir()
    eventually((attempt.directory / "lease.json").is_file, 2)
    assert not (attempt.directory / "exit.json").exists()


def deny(path: Path) -> None:
    """Put a directory in the file's path, so that writing the file fails for any user."""
    while not path.is_dir():
        path.unlink(missing_ok=True)
        try:
            path.mkdir()
        except FileExistsError:
            pass


# --- the record and the trainer's surroundings


def test_a_record_that_cannot_be_written_is_retried_in_reserved_space(start: Start) -> None:
    attempt = start()
    attempt.wait_for_output("ready")
    assert (attempt.directory / "reserve").stat().st_blocks * 512 >= 64 * 1024
    (attempt.directory / "exit.json").mkdir()
    attempt.process.send_signal(signal.SIGQUIT)
    eventually(lambda: gone(attempt.trainer()))
    time.sleep(0.3)
    assert attempt.process.poll() is None
    assert not (attempt.directory / "reserve").exists()
    (attempt.directory / "exit.json").rmdir()
    assert attempt.record()["signal"] == 9


def test_a_trainer_that_ends_while_nothing_can_be_written_was_fenced(start: Start) -> None:
    attempt = start(GRACEFUL + "while not asked: time.sleep(0.01)\nsys.exit(1)")
    attempt.wait_for_output("ready")
    (attempt.directory / "exit.json").mkdir()
    os.kill(attempt.trainer(), signal.SIGTERM)
    eventually(lambda: not (attempt.directory / "reserve").exists())
    time.sleep(0.1)
    (attempt.directory / "exit.json").rmdir()
    record = attempt.record()
    assert (record["exit_code"], record["cause"]) == (1, "fenced")
    assert record["message"] == "ended with exit code 1; its files could not be written"


def test_a_second_supervisor_for_the_same_attempt_exits_and_changes_nothing(start: Start) -> None:
    attempt = start()
    attempt.wait_for_output("ready")
    before = attempt.read("supervisor.json")
    assert attempt.supervise().wait(5) == 0
    assert attempt.read("supervisor.json") == before
    assert len(list(processes_of(attempt.id))) == 2


def test_an_attempt_locked_by_another_supervisor_is_not_started(start: Start, tmp_path: Path) -> None:
    (tmp_path / "attempt0").mkdir()
    with open(tmp_path / "attempt0" / "supervisor.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        attempt = start()
        assert attempt.process.wait(5) == 0
    assert sorted(path.name for path in attempt.directory.iterdir()) == ["spec.json", "supervisor.lock"]


def test_an_attempt_is_never_started_a_second_time(start: Start) -> None:
    attempt = start()
    attempt.wait_for_output("ready")
    attempt.process.kill()
    eventually(lambda: gone(attempt.trainer()))
    assert attempt.supervise().wait(5) == 0
    assert list(processes_of(attempt.id)) == []
    assert attempt.console.read_text() == "ready\n"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"command": ["/no/such/program"]}, "No such file or directory"),
        ({"command": ["a\0b"]}, "null byte"),
        ({"protocol": 2}, "protocol: expected 1, got 2"),
        ({"console": "/proc/nowhere/console.log"}, "No such file or directory"),
    ],
)
def test_a_command_that_cannot_be_started_is_recorded_as_a_failed_launch(
    start: Start, changes: dict[str, Any], message: str
) -> None:
    attempt = start(**changes)
    record = attempt.record()
    assert (record["exit_code"], record["signal"], record["cause"]) == (None, None, "launch_failed")
    assert message in record["message"]
    assert attempt.read("supervisor.json")["trainer"] is None


def test_the_trainer_gets_the_environment_no_input_and_a_group_of_its_own(start: Start) -> None:
    script = """
import json, os, sys
print(json.dumps({
    "given": os.environ["GIVEN"], "path": os.environ["PATH"], "input": sys.stdin.read(),
    "group": os.getpgrp() == os.getpid(), "session": os.getsid(0),
    "files": sorted(f for f in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + f)),
}))"""
    attempt = start(script, environment={supervisor.MARKER: "x", "GIVEN": "thing"})
    attempt.record()
    found = json.loads(attempt.console.read_text())
    assert found == {
        "given": "thing",
        "path": os.environ["PATH"],
        "input": "",
        "group": True,
        "session": attempt.process.pid,
        "files": ["0", "1", "2"],
    }


def test_a_supervisor_does_not_hold_the_servers_files_open(start: Start) -> None:
    end, inherited = os.pipe()
    attempt = start(pass_fds=[inherited])
    os.close(inherited)
    attempt.wait_for_output("ready")
    os.set_blocking(end, False)
    assert os.read(end, 1) == b""  # blocks while another process has the write end open
    os.close(end)


def test_supervisor_and_trainer_are_identified_beyond_their_pids(start: Start) -> None:
    attempt = start()
    trainer = attempt.trainer()
    found = attempt.read("supervisor.json")
    assert (found["protocol"], found["attempt_id"], found["pid"]) == (1, attempt.id, attempt.process.pid)
    assert Identity(found["pid"], found["start_time"], found["boot_id"]).alive()
    assert Identity(trainer, found["trainer"]["start_time"], found["boot_id"]).alive()
    assert not Identity(trainer, found["trainer"]["start_time"] - 1, found["boot_id"]).alive()
    assert not Identity(trainer, found["trainer"]["start_time"], "another boot").alive()


def test_a_running_supervisor_needs_neither_the_package_nor_its_own_file(start: Start, tmp_path: Path) -> None:
    attempt = start()
    attempt.wait_for_output("ready")
    moved = Attempt.__new__(Attempt)
    moved.__dict__ |= attempt.__dict__ | {"directory": tmp_path / "moved"}
    moved.directory.mkdir()
    console = {"console": str(tmp_path / "moved" / "console.log"), "command": [sys.executable, "-c", STUBBORN]}
    (moved.directory / "spec.json").write_text(json.dumps(moved.spec | console))
    copy = Path(shutil.copy(supervisor.__file__, tmp_path / "old_supervisor.py"))
    (tmp_path / "json.py").write_text("raise SystemExit('a file beside it was imported')")
    process = moved.supervise(str(copy), cwd=tmp_path)
    eventually((moved.directory / "lease.json").exists)
    copy.unlink()
    process.send_signal(signal.SIGQUIT)
    assert moved.read("exit.json")["signal"] == 9
    assert process.wait(5) == 0


def test_a_trainer_has_a_higher_niceness_than_its_supervisor(start: Start) -> None:
    attempt = start("import os, time; print(os.nice(0), flush=True); time.sleep(60)", niceness=3)
    attempt.wait_for_output("\n")
    assert int(attempt.console.read_text()) == os.nice(0) + 3
    assert os.getpriority(os.PRIO_PROCESS, attempt.process.pid) == os.nice(0)


@pytest.mark.skipif(not AUTOGROUP.exists() or AUTOGROUP.read_text() != "1\n", reason="cores are not shared by session")
def test_a_trainer_yields_to_other_sessions_too(start: Start) -> None:
    attempt = start("print(open('/proc/self/autogroup').read())", niceness=3)
    attempt.record()
    assert attempt.console.read_text().split()[1:] == ["nice", "3"]


# --- the console


def test_output_and_errors_reach_the_console_immediately(start: Start) -> None:
    script = (
        "import sys, time\nprint('out', flush=True)\nsys.stderr.write('err\\n')\nsys.stderr.flush()\ntime.sleep(60)"
    )
    attempt = start(script)
    eventually(lambda: attempt.console.exists() and attempt.console.read_bytes() == b"out\nerr\n")


def test_output_right_before_the_end_is_kept(start: Start) -> None:
    attempt = start("import os\nos.write(1, b'x' * 50_000 + b'\\n')\nos.write(2, b'last words')\nos._exit(1)")
    attempt.record()
    assert attempt.console.read_bytes() == b"x" * 50_000 + b"\nlast words"


def test_output_beyond_the_limit_is_dropped_and_never_blocks_the_trainer(start: Start) -> None:
    flood = "import os\nfor i in range(3000): os.write(1, b'y' * 9999 + b'\\n')\nos._exit(5)"
    attempt = start(flood, console_limit_bytes=1_000_000)
    assert attempt.record()["exit_code"] == 5
    content = attempt.console.read_bytes()
    mark = b"\n[... output limit of 1000000 bytes reached; the rest is dropped]\n"
    assert content.endswith(mark)
    assert len(content) == 1_000_000 + len(mark)


def test_a_background_process_that_outlives_the_trainer_is_not_waited_for(start: Start) -> None:
    attempt = start("import os, time\nif os.fork() == 0: time.sleep(60)\nprint('done', flush=True)")
    began = time.monotonic()
    assert attempt.record()["exit_code"] == 0
    assert time.monotonic() - began < 5


def test_supervising_a_trainer_that_closed_its_output_uses_no_cpu(start: Start) -> None:
    attempt = start("import os, time\nos.close(1); os.close(2)\ntime.sleep(0.8)\nos._exit(9)")
    attempt.trainer()
    time.sleep(0.6)
    ticks = Path(f"/proc/{attempt.process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    assert sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK") < 0.2
    assert attempt.record()["exit_code"] == 9


def written(path: Path, limit: int, *chunks: bytes) -> bytes:
    console = Console(path, limit)
    for chunk in chunks:
        console.write(chunk)
    console.close()
    return path.read_bytes()


def test_binary_output_is_kept_byte_for_byte(tmp_path: Path) -> None:
    chunks = [os.urandom(1000), bytes(range(256)), b"\r\x1b[31m\n"]
    assert written(tmp_path / "c", 10_000, *chunks) == b"".join(chunks)


@pytest.mark.parametrize("size", [1, 1000, 32 * 1024])
def test_a_long_line_is_cut_with_a_mark_and_the_next_one_is_whole(tmp_path: Path, size: int) -> None:
    text = b"first\n" + b"z" * 200_000 + b"\nlast\n"
    chunks = [text[i : i + size] for i in range(0, len(text), size)]
    assert written(tmp_path / "c", 10**6, *chunks) == b"first\n" + b"z" * 65536 + b" [... line cut]\nlast\n"


@pytest.mark.parametrize("length", [65535, 65536])
def test_a_line_of_exactly_the_limit_is_whole(tmp_path: Path, length: int) -> None:
    text = b"z" * length + b"\n"
    chunks = [text[i : i + 1000] for i in range(0, len(text), 1000)]
    assert written(tmp_path / "c", 10**6, *chunks) == text


def test_the_limit_holds_for_all_attempts_together_and_is_marked_once(tmp_path: Path) -> None:
    mark = b"\n[... output limit of 10 bytes reached; the rest is dropped]\n"
    assert written(tmp_path / "c", 10, b"12345\n") == b"12345\n"
    assert written(tmp_path / "c", 10, b"6789", b"more", b"and more") == b"12345\n6789" + mark
    assert written(tmp_path / "c", 10, b"later") == b"12345\n6789" + mark


def test_output_of_exactly_the_limit_has_no_mark_until_more_comes(tmp_path: Path) -> None:
    assert written(tmp_path / "c", 6, b"12345\n") == b"12345\n"
    assert written(tmp_path / "c", 6, b"6").startswith(b"12345\n\n[... output limit")


def test_an_attempt_starts_on_a_new_line(tmp_path: Path) -> None:
    written(tmp_path / "c", 100, b"cut sho")
    assert written(tmp_path / "c", 100, b"next\n") == b"cut sho\nnext\n"


def test_a_full_disk_does_not_stop_the_supervisor() -> None:
    full = Console(Path("/dev/full"), 100)
    full.write(b"lost")
    full.close()
