"""Attempts forked from a process that has loaded their modules: they are what executed ones are, only sooner."""

import fcntl
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from gan_mhe.config import compose, documents
from gan_mhe.files import sha256_file
from server.executors import warm_start
from server.executors.base import Handle, Slot
from server.executors.devices import Device
from server.executors.local import LocalExecutor
from server.executors.processes import attempt_of, processes_of
from server.service import local_executor
from server.settings import Settings
from tests.server.executors.conftest import Specify
from tests.server.executors.test_local import ended, eventually, ready, supervisor, trainer

WORKER = """
import os, signal, sys, time
LOADED = os.getpid()

def main():
    sys.stdout.write(f"{LOADED} {os.getpid()} {os.getppid()}\\\\n")
    sys.stdout.flush()
    {script}
"""
SLEEP = "os.write(1, b'ready\\n'); time.sleep(60)"
Engine = Callable[..., LocalExecutor]


class NoDevices:
    def devices(self) -> Sequence[Device]:
        return ()


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """Makes an executor whose workers run a statement, and whose fork server is ready."""
    made: list[LocalExecutor] = []
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))

    def make(script: str = SLEEP, **options: Any) -> LocalExecutor:
        name = f"worker_{len(made)}"
        (tmp_path / f"{name}.py").write_text(WORKER.replace("{script}", script).replace("\\\\n", "\\n"))
        command = (sys.executable, "-m", name)
        values: dict[str, Any] = {"cpu_slots": 2, "threads_per_slot": 3, "devices": NoDevices(), "preload": (name,)}
        made.append(LocalExecutor(worker_command=command, **values | options))
        made[-1].start()
        is_ready(made[-1])
        return made[-1]

    yield make
    for executor in made:
        executor.stop()


def is_ready(executor: LocalExecutor) -> None:
    """Wait until the fork server has loaded its modules."""
    eventually(lambda: server_of(executor).is_ready())


def server_of(executor: LocalExecutor) -> Any:
    return executor._warm._server  # type: ignore[union-attr]


def loaded_by(handle: Handle, console: Path) -> tuple[int, int, int]:
    """The process that loaded the worker's module, the trainer, and its parent, as the trainer prints them."""
    eventually(lambda: console.exists() and "\n" in console.read_text())
    loaded, pid, parent = console.read_text().splitlines()[0].split()
    return int(loaded), int(pid), int(parent)


def test_a_forked_attempt_finds_its_modules_loaded(engine: Engine, specify: Specify) -> None:
    executor, spec = engine(), specify()
    handle = executor.launch(spec)
    ready(spec)
    loaded, pid, parent = loaded_by(handle, spec.console)
    assert loaded == server_of(executor)._process.pid
    assert pid == trainer(handle).pid and parent == supervisor(handle).pid


def test_its_processes_are_found_by_their_environment_and_have_names(engine: Engine, specify: Specify) -> None:
    executor, spec = engine(), specify()
    handle = executor.launch(spec)
    ready(spec)
    assert {each.pid for each in processes_of(spec.attempt_id)} == {supervisor(handle).pid, trainer(handle).pid}
    assert attempt_of(server_of(executor)._process.pid) != spec.attempt_id
    for identity, word in ((supervisor(handle), "supervisor"), (trainer(handle), "worker_0")):
        shown = Path(f"/proc/{identity.pid}/cmdline").read_bytes().rstrip(b"\0").decode().split("\0")
        assert shown[:2] == ["gan-mhe", word] and shown[2].startswith(str(spec.directory.resolve()))


def test_its_end_has_the_exit_code_the_outcome_and_its_output(engine: Engine, specify: Specify) -> None:
    executor = engine(
        "open(sys.argv[1].replace('request', 'outcome'), 'w').write('{\"outcome\": \"x\"}'); sys.exit(75)"
    )
    spec = specify()
    record = ended(executor, executor.launch(spec)).record
    assert record is not None and (record.exit_code, record.cause, record.outcome) == (75, "exit", {"outcome": "x"})


def test_an_exception_is_printed_and_is_exit_code_1(engine: Engine, specify: Specify) -> None:
    executor, spec = engine("raise ValueError('of this worker')"), specify()
    record = ended(executor, executor.launch(spec)).record
    assert record is not None and record.exit_code == 1
    assert "ValueError: of this worker" in spec.console.read_text()


@pytest.mark.parametrize(
    ("number", "cause"), [(signal.SIGKILL, "exit"), (signal.SIGSEGV, "exit")], ids=["killed", "crashed"]
)
def test_the_signal_that_ended_it_is_recorded(
    engine: Engine, specify: Specify, number: signal.Signals, cause: str
) -> None:
    executor, spec = engine(), specify()
    handle = executor.launch(spec)
    ready(spec)
    trainer(handle).send(number)
    record = ended(executor, handle).record
    assert record is not None and (record.signal, record.cause) == (number, cause)


def test_a_request_to_stop_reaches_it(engine: Engine, specify: Specify) -> None:
    executor = engine(f"signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); {SLEEP}")
    spec = specify()
    handle = executor.launch(spec)
    ready(spec)
    executor.signal(handle, "checkpoint_stop")
    record = ended(executor, handle).record
    assert record is not None and (record.exit_code, record.cause) == (75, "stop")


def test_a_request_to_stop_right_after_the_start_is_not_lost(engine: Engine, specify: Specify) -> None:
    executor, spec = engine(), specify()
    handle = executor.launch(spec)
    trainer(handle)
    executor.signal(handle, "checkpoint_stop")
    record = ended(executor, handle).record
    assert record is not None and record.cause == "stop"


def test_a_killed_supervisor_takes_it_along(engine: Engine, specify: Specify) -> None:
    executor, spec = engine(), specify()
    handle = executor.launch(spec)
    ready(spec)
    supervisor(handle).send(signal.SIGKILL)
    assert ended(executor, handle).record is None


def test_it_has_its_own_group_session_niceness_environment_and_no_other_files(engine: Engine, specify: Specify) -> None:
    script = (
        "import json; fds = [os.readlink(f'/proc/self/fd/{each}') for each in (0, 1, 2)]; "
        "sys.stdout.write(json.dumps([os.getpgid(0) == os.getpid(), os.getsid(0) == os.getppid(), os.nice(0), "
        "os.environ['OMP_NUM_THREADS'], os.environ['OWN'], fds[0], fds[1] == fds[2], "
        "len(os.listdir('/proc/self/fd'))]))"
    )
    executor, spec = engine(script, worker_niceness=3), specify(environment={"OWN": "value"})
    ended(executor, executor.launch(spec))
    before = os.nice(0)
    assert json.loads(spec.console.read_text().splitlines()[1]) == (
        [True, True, before + 3, "3", "value", "/dev/null", True, 4]  # the fourth is that of listdir itself
    )


def test_two_forked_attempts_draw_different_random_numbers(engine: Engine, specify: Specify, tmp_path: Path) -> None:
    executor = engine("import random; print(random.random())")
    drawn = set()
    for name in ("first", "second"):
        spec = specify(console=tmp_path / name)
        ended(executor, executor.launch(spec))
        drawn.add(spec.console.read_text().splitlines()[1])
    assert len(drawn) == 2


def test_attempts_outlive_the_fork_server(engine: Engine, specify: Specify) -> None:
    executor, spec = engine(), specify()
    handle = executor.launch(spec)
    ready(spec)
    executor.stop()
    assert executor.observe(handle).status == "running"
    assert trainer(handle).alive()


def test_without_a_fork_server_an_attempt_is_executed(engine: Engine, specify: Specify) -> None:
    executor, spec = engine("print('done')"), specify()
    server = server_of(executor)._process
    server.kill()
    server.wait()
    handle = executor.launch(spec)
    assert ended(executor, handle).status == "exited"
    # Executed as a file by its interpreter, the module has another name, and nothing calls its main.
    assert spec.console.read_text() == ""


def test_a_fork_server_that_ended_is_replaced(
    engine: Engine, specify: Specify, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_start, "_RESTART_SECONDS", 0.0)
    executor = engine()
    first = server_of(executor)._process
    first.kill()
    first.wait()
    executor.launch(specify())
    executor.launch(specify())
    is_ready(executor)
    assert server_of(executor)._process.pid != first.pid


def test_a_fork_server_ends_with_the_process_that_started_it(engine: Engine) -> None:
    server = server_of(engine())
    server._socket.close()  # as the kernel does when that process is killed
    assert server._process.wait(10) == 0


def test_a_fork_server_that_still_loads_is_ended_without_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    monkeypatch.setattr(warm_start, "_STOP_SECONDS", 60.0)
    (tmp_path / "slow.py").write_text("import time; time.sleep(10)")
    warm = warm_start.WarmStart(("slow",), {})
    warm.start()
    assert warm._server is not None
    process = warm._server._process
    warm.stop()
    assert process.returncode == -signal.SIGKILL


def test_a_request_that_was_given_up_is_not_forked_later(engine: Engine, specify: Specify) -> None:
    executor, spec = engine(), specify()
    server, log = server_of(executor), spec.directory / "late.log"
    spec.directory.mkdir(parents=True)
    request = {"spec": str(spec.directory / "spec.json"), "attempt_id": spec.attempt_id, "log": str(log)}
    os.kill(server._process.pid, signal.SIGSTOP)
    server._socket.send(json.dumps(request).encode())
    server._socket.close()  # as the kernel does when the service is killed
    os.kill(server._process.pid, signal.SIGCONT)
    assert server._process.wait(10) == 0
    assert not log.exists()


def test_it_forks_for_a_service_with_many_open_files(engine: Engine, specify: Specify) -> None:
    executor, spec = engine(), specify()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(2048, before[1]), before[1]))
    try:
        server = server_of(executor)
        with server._socket as low:
            server._socket = socket.socket(fileno=fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 1024))
        assert loaded_by(executor.launch(spec), spec.console)[0] == server._process.pid
        assert server_of(executor) is server
    finally:
        executor.stop()
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_an_attempt_whose_fork_fails_is_executed(engine: Engine, specify: Specify, tmp_path: Path) -> None:
    (tmp_path / "breaks.py").write_text("import __main__; __main__._overwrite = None")
    executor, spec = engine("print('forked')", preload=("worker_0", "breaks")), specify()
    record = ended(executor, executor.launch(spec)).record
    assert record is not None and record.exit_code == 0
    assert spec.console.read_text() == ""  # as above
    assert "TypeError" in (spec.directory / "supervisor.log").read_text()


def test_what_modules_print_while_they_are_loaded_is_in_no_console(
    engine: Engine, specify: Specify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    (tmp_path / "noisy.py").write_text("print('loading')")
    executor, spec = engine("print('done')", preload=("worker_0", "noisy")), specify()
    ended(executor, executor.launch(spec))
    assert "done" in spec.console.read_text() and "loading" not in spec.console.read_text()


def test_forks_can_print_when_the_service_was_started_with_closed_streams(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    pid = server_of(engine())._process.pid
    assert {os.readlink(f"/proc/{pid}/fd/{number}") for number in (1, 2)} == {os.devnull}


def test_a_module_that_cannot_be_loaded_leaves_attempts_that_are_executed(engine: Engine, specify: Specify) -> None:
    executor = LocalExecutor(
        cpu_slots=1,
        threads_per_slot=1,
        devices=NoDevices(),
        worker_command=(sys.executable, "-S", "-c", "print('executed')"),
        preload=("no_such_module",),
    )
    executor.start()
    server_of(executor)._process.wait(30)
    spec = specify()
    assert ended(executor, executor.launch(spec)).record is not None
    assert spec.console.read_text() == "executed\n"
    executor.stop()


def test_an_attempt_on_a_gpu_is_not_forked(engine: Engine, specify: Specify) -> None:
    executor = engine("pass")
    spec = specify(slot=Slot("cuda0/0", "cuda:0", "train", threads=1))
    ended(executor, executor.launch(spec))
    assert spec.console.read_text() == ""


def test_a_forked_run_computes_the_bits_of_an_executed_one(specify: Specify, tmp_path: Path) -> None:
    warm, cold = (
        local_executor(Settings(data_dir=tmp_path / "data", cpu_slots=1, warm_start=warm)) for warm in (True, False)
    )
    warm.start()
    config = compose.compose(
        documents.load_document(documents.PRESETS / "debug_cpu.toml"),
        variant="mhe_sn",
        overrides={"training": {"steps": 20}},
    )
    hashes = []
    for name, executor in (("cold", cold), ("warm", warm)):
        run, outcome = tmp_path / name, tmp_path / f"{name}.json"
        request = {"kind": "train", "config": config.document(), "run_dir": str(run), "outcome": str(outcome)}
        if name == "warm":
            eventually(lambda: server_of(warm).is_ready(), 120)
        record = ended(executor, executor.launch(specify(request=request)), 120).record
        assert record is not None and record.exit_code == 0
        hashes.append(sha256_file(run / "checkpoints" / "step_00000020" / "tensors.safetensors"))
    warm.stop()
    assert hashes[0] == hashes[1]
