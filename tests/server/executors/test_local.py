"""Attempts as processes of this machine: their fate is known whichever process dies."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from server.executors import local
from server.executors.base import Handle, LaunchError, LaunchSpec, Observation, Slot
from server.executors.devices import Device
from server.executors.local import LocalExecutor
from server.executors.processes import Identity, processes_of
from tests.server.executors.conftest import CPU, Specify
from tests.support.paths import FAKE_WORKER

SLEEP = "import os, time; os.write(1, b'ready\\n'); time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"


class Devices:
    """A machine with the given GPUs."""

    def __init__(self, *devices: Device) -> None:
        self.listed = devices

    def devices(self) -> Sequence[Device]:
        return self.listed


def executor(script: str | Sequence[str] = SLEEP, devices: Sequence[Device] = (), **options: Any) -> LocalExecutor:
    """An executor whose workers run a Python script or a command."""
    command = (sys.executable, "-S", "-c", script) if isinstance(script, str) else script
    return LocalExecutor(cpu_slots=2, threads_per_slot=3, devices=Devices(*devices), worker_command=command, **options)


def eventually(condition: Callable[[], object], seconds: float = 10) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "timed out"
        time.sleep(0.01)


def ended(engine: LocalExecutor, handle: Handle, seconds: float = 10) -> Observation:
    """The observation once the attempt has ended and no process of it is left."""
    eventually(lambda: engine.observe(handle).status == "exited", seconds)
    eventually(lambda: not any(processes_of(handle["attempt_id"])))
    return engine.observe(handle)


def supervisor(handle: Handle) -> Identity:
    return Identity(handle["pid"], handle["start_time"], handle["boot_id"])


def trainer(handle: Handle) -> Identity:
    path = Path(handle["directory"]) / "supervisor.json"
    eventually(lambda: json.loads(path.read_text())["trainer"])
    found = json.loads(path.read_text())["trainer"]
    return Identity(found["pid"], found["start_time"], handle["boot_id"])


def ready(spec: LaunchSpec) -> None:
    """Wait until the worker of this attempt has printed "ready"."""
    eventually(lambda: spec.console.exists() and "ready\n" in spec.console.read_text())


# --- launching


def test_a_launched_attempt_is_running_and_its_handle_is_plain_json(specify: Specify) -> None:
    engine, spec = executor(), specify()
    handle = engine.launch(spec)
    assert json.loads(json.dumps(handle)) == handle
    assert set(handle) == {"directory", "attempt_id", "pid", "start_time", "boot_id"}
    ready(spec)
    seen = engine.observe(handle)
    assert (seen.attempt_id, seen.status, seen.record) == (spec.attempt_id, "running", None)
    assert seen.lease_age_seconds is not None and 0 <= seen.lease_age_seconds < 5


def test_launching_twice_starts_one_process(specify: Specify) -> None:
    engine, spec = executor(), specify()
    first = engine.launch(spec)
    assert engine.launch(spec) == first
    assert executor().launch(spec) == first
    ready(spec)
    assert len(list(processes_of(spec.attempt_id))) == 2


def test_launching_from_many_threads_at_once_starts_one_process(specify: Specify) -> None:
    engine, spec, handles = executor(), specify(), []
    threads = [threading.Thread(target=lambda: handles.append(engine.launch(spec))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(handles) == 6
    assert len({handle["pid"] for handle in handles}) == 1
    eventually(lambda: len(list(processes_of(spec.attempt_id))) == 2)
    assert spec.console.read_text().count("ready") <= 1


def test_launching_an_ended_attempt_again_does_not_run_it_again(specify: Specify) -> None:
    engine, spec = executor("print('ran')"), specify()
    handle = engine.launch(spec)
    ended(engine, handle)
    assert engine.launch(spec) == handle
    assert engine.observe(handle).status == "exited"
    assert spec.console.read_text() == "ran\n"


def test_an_attempt_outlives_the_thread_that_launched_it(specify: Specify) -> None:
    engine, spec, handles = executor(), specify(), []
    thread = threading.Thread(target=lambda: handles.append(engine.launch(spec)))
    thread.start()
    thread.join()
    ready(spec)
    time.sleep(0.2)
    assert engine.observe(handles[0]).status == "running"
    assert trainer(handles[0]).alive()


def test_a_killed_server_leaves_its_attempt_running_for_the_next_one_to_adopt(specify: Specify, tmp_path: Path) -> None:
    spec = specify()
    server = subprocess.Popen([sys.executable, "-c", SERVER, spec.attempt_id, tmp_path], stdout=subprocess.PIPE)
    assert server.stdout is not None
    handle = json.loads(server.stdout.readline())
    ready(spec)
    server.kill()
    server.wait()
    server.stdout.close()
    next_engine = executor()
    assert next_engine.find(spec.directory) == handle
    assert next_engine.observe(handle).status == "running"
    assert trainer(handle).alive()
    next_engine.signal(handle, "checkpoint_stop")
    record = ended(next_engine, handle).record
    assert record is not None
    assert (record.signal, record.cause) == (signal.SIGTERM, "stop")


SERVER = f"""
import json, sys, time
from pathlib import Path
from server.executors.base import LaunchSpec, Slot
from server.executors.devices import NvidiaSmi
from server.executors.local import LocalExecutor
root = Path(sys.argv[2])
engine = LocalExecutor(cpu_slots=1, threads_per_slot=1, devices=NvidiaSmi("no-such-tool"),
                       worker_command=(sys.executable, "-S", "-c", {SLEEP!r}))
handle = engine.launch(LaunchSpec(sys.argv[1], "job_1", 1, 1, engine.inventory()[0], {{}}, root / "attempts" / "1",
                                  root / "console.log", 20, 15))
print(json.dumps(handle), flush=True)
time.sleep(60)
"""


def test_an_attempt_that_was_never_launched_is_not_found(specify: Specify, tmp_path: Path) -> None:
    assert executor().find(tmp_path / "nowhere") is None
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "spec.json").write_text(json.dumps({"attempt_id": specify().attempt_id}))
    assert executor().find(tmp_path / "cut") is None


def test_an_attempt_whose_supervisor_is_just_starting_is_found(specify: Specify, tmp_path: Path) -> None:
    slow = program(tmp_path / "slow", f'sleep 0.5; exec {sys.executable} "$@"')
    spec, handles = specify(), []
    thread = threading.Thread(target=lambda: handles.append(executor(python=slow).launch(spec)))
    thread.start()
    eventually(lambda: any(processes_of(spec.attempt_id)))
    assert not (spec.directory / "supervisor.json").exists()
    found = executor().find(spec.directory)
    thread.join()
    assert found is not None and found == handles[0]


def program(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_a_supervisor_that_cannot_be_started_is_an_error_with_its_output(specify: Specify, tmp_path: Path) -> None:
    broken = program(tmp_path / "broken", "echo it is broken >&2; exit 4")
    with pytest.raises(LaunchError, match="ended with 4: it is broken"):
        executor(python=broken).launch(specify())
    with pytest.raises(LaunchError, match=r"cannot start att_\w+: .*No such file"):
        executor(python="/no/such/python").launch(specify())
    (tmp_path / "file").touch()
    with pytest.raises(LaunchError, match="Not a directory"):
        executor().launch(specify(directory=tmp_path / "file" / "1"))


def test_a_supervisor_that_does_not_start_in_time_is_killed(
    specify: Specify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_LAUNCH_SECONDS", 0.3)
    hanging, spec = program(tmp_path / "hanging", "exec sleep 60"), specify()
    engine = executor(python=hanging)
    with pytest.raises(LaunchError, match="did not start within"):
        engine.launch(spec)
    eventually(lambda: not any(processes_of(spec.attempt_id)))


def test_a_supervisor_that_leaves_its_attempt_to_another_one_is_no_failed_launch(
    specify: Specify, tmp_path: Path
) -> None:
    other = program(tmp_path / "other", f'(sleep 0.3; exec {sys.executable} "$@") & exit 0')
    engine, spec = executor(python=other), specify()
    handle = engine.launch(spec)
    ready(spec)
    assert engine.observe(handle).status == "running"


def test_no_process_of_an_attempt_is_left_when_its_launch_fails(
    specify: Specify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_LAUNCH_SECONDS", 0.3)
    hanging, spec = program(tmp_path / "hanging", "sleep 60 & exit 0"), specify()
    with pytest.raises(LaunchError, match="did not start within"):
        executor(python=hanging).launch(spec)
    assert not any(processes_of(spec.attempt_id))


def test_a_command_that_cannot_be_started_is_observed_as_a_failed_launch(specify: Specify) -> None:
    engine = executor(("/no/such/worker",))
    record = ended(engine, engine.launch(specify())).record
    assert record is not None
    assert record.cause == "launch_failed"
    assert "/no/such/worker" in record.message


@pytest.mark.parametrize(
    ("slot", "devices"), [(CPU, ""), (Slot("cuda1/0", "cuda:1", "train"), "1"), (Slot("task0", "cpu", "task"), "")]
)
def test_an_attempt_sees_its_slots_device_and_threads_only(specify: Specify, slot: Slot, devices: str) -> None:
    script = "import os; print(*(os.environ[k] for k in ('OMP_NUM_THREADS', 'CUDA_VISIBLE_DEVICES', 'X')), sep='|')"
    spec = specify(slot=slot, environment={"X": "given"})
    ended(engine := executor(script), engine.launch(spec))
    assert spec.console.read_text() == f"3|{devices}|given\n"


def test_the_environment_of_a_launch_overrides_that_of_its_slot(specify: Specify) -> None:
    spec = specify(environment={"OMP_NUM_THREADS": "7"})
    ended(engine := executor("import os; print(os.environ['OMP_NUM_THREADS'])"), engine.launch(spec))
    assert spec.console.read_text() == "7\n"


@pytest.mark.parametrize(("options", "niceness"), [({}, 5), ({"worker_niceness": 0}, 0)])
def test_a_worker_yields_the_cpu_to_the_server(specify: Specify, options: dict[str, int], niceness: int) -> None:
    spec, engine = specify(), executor("import os; print(os.nice(0))", **options)
    ended(engine, engine.launch(spec))
    assert int(spec.console.read_text()) == os.nice(0) + niceness


def test_the_worker_receives_the_request_as_a_file(specify: Specify) -> None:
    spec = specify(request={"kind": "score", "overrides": {"a": [1, None]}})
    ended(engine := executor("import sys; print(open(sys.argv[1]).read())"), engine.launch(spec))
    assert json.loads(spec.console.read_text()) == spec.request


def test_a_training_run_on_a_shared_gpu_receives_its_memory_fraction(specify: Specify) -> None:
    device = Device(0, "GPU-0", total_bytes=1000, free_bytes=1000)
    engine = executor("import sys; print(open(sys.argv[1]).read())", [device], cuda_slots_per_device=2)
    gpu, cpu = specify(request={"kind": "train"}), specify(request={"kind": "train"})
    slot = engine.inventory()[1]
    assert (slot.name, slot.memory_bytes) == ("cuda0/1", 450)
    engine.launch(LaunchSpec(**vars(gpu) | {"slot": slot}))
    engine.launch(cpu)
    assert json.loads((gpu.directory / "request.json").read_text())["memory_fraction"] == 0.45
    assert json.loads((cpu.directory / "request.json").read_text())["memory_fraction"] is None


# --- observing


def test_an_ended_attempt_has_its_exit_code_and_the_workers_outcome(specify: Specify) -> None:
    engine = executor(write_outcome('{"outcome": "failed"}') + "; sys.exit(1)")
    seen = ended(engine, engine.launch(specify()))
    assert seen.record is not None
    assert (seen.record.exit_code, seen.record.signal, seen.record.cause) == (1, None, "exit")
    assert seen.record.outcome == {"outcome": "failed"}


def write_outcome(content: str) -> str:
    """A script of a worker that writes this outcome."""
    return f"import pathlib, sys; pathlib.Path(sys.argv[1]).with_name('outcome.json').write_text({content!r})"


@pytest.mark.parametrize("content", ["", '{"outcome": "fai', "[]"])
def test_an_incomplete_outcome_is_none(specify: Specify, content: str) -> None:
    engine = executor(write_outcome(content))
    record = ended(engine, engine.launch(specify())).record
    assert record is not None and record.outcome is None


def test_a_killed_trainer_is_seen_within_two_seconds(specify: Specify) -> None:
    engine = executor()
    handle = engine.launch(specify())
    trainer(handle).send(signal.SIGKILL)
    began = time.monotonic()
    record = ended(engine, handle).record
    assert time.monotonic() - began < 2
    assert record is not None
    assert (record.exit_code, record.signal, record.cause, record.outcome) == (None, 9, "exit", None)


def test_a_killed_supervisor_takes_the_trainer_with_it_and_leaves_no_record(specify: Specify) -> None:
    engine, spec = executor(STUBBORN), specify()
    handle = engine.launch(spec)
    ready(spec)
    supervisor(handle).send(signal.SIGKILL)
    assert ended(engine, handle).record is None


def test_an_attempt_is_unknown_while_only_part_of_it_lives_and_observing_kills_nothing(specify: Specify) -> None:
    detached = f"import os\nif os.fork() == 0: os.setsid()\n{STUBBORN}"
    engine, spec = executor(detached), specify()
    handle = engine.launch(spec)
    eventually(lambda: spec.console.exists() and spec.console.read_text().count("ready\n") == 2)
    supervisor(handle).send(signal.SIGKILL)
    eventually(lambda: not trainer(handle).alive())
    for _ in range(3):
        assert engine.observe(handle).status == "unknown"
    engine.signal(handle, "checkpoint_stop")  # which it ignores
    assert engine.observe(handle).status == "unknown"
    engine.signal(handle, "kill")
    assert ended(engine, handle).record is None


def test_a_process_with_the_same_pid_is_not_mistaken_for_the_attempt(specify: Specify) -> None:
    engine, spec = executor(), specify()
    handle = dict(engine.launch(spec))
    ready(spec)
    for other in ({"start_time": handle["start_time"] - 1}, {"boot_id": "another boot"}):
        stale = handle | other | {"attempt_id": "att_of_long_ago", "directory": "/nowhere"}
        assert engine.observe(stale) == Observation("att_of_long_ago", "exited")
        engine.signal(stale, "kill")
    assert supervisor(handle).alive() and trainer(handle).alive()
    assert engine.observe(handle).status == "running"


def test_a_restart_of_the_machine_ends_every_attempt(specify: Specify) -> None:
    engine, spec = executor(), specify()
    handle = dict(engine.launch(spec)) | {"boot_id": "the boot before"}
    seen = engine.observe(handle)
    assert (seen.status, seen.record) == ("exited", None)


def test_without_a_record_the_attempt_ran_from_its_start_to_its_last_lease(specify: Specify) -> None:
    engine, spec = executor(), specify()
    handle = engine.launch(spec)
    ready(spec)
    engine.signal(handle, "kill")
    ended(engine, handle)
    (spec.directory / "exit.json").unlink()
    lease = json.loads((spec.directory / "lease.json").read_text())
    started = handle["start_time"] / os.sysconf("SC_CLK_TCK")
    (spec.directory / "lease.json").write_text(json.dumps(lease | {"boottime": started + 7.5}))
    assert engine.observe(handle) == Observation(spec.attempt_id, "exited", seconds=pytest.approx(7.5))
    (spec.directory / "lease.json").write_text(json.dumps(lease | {"boot_id": "the boot before"}))
    assert engine.observe(handle).seconds == 0


def test_a_record_of_an_earlier_version_is_read(specify: Specify) -> None:
    engine, spec = executor(""), specify()
    handle = engine.launch(spec)
    ended(engine, handle)
    record = json.loads((spec.directory / "exit.json").read_text())
    assert record.pop("seconds") == engine.observe(handle).record.seconds  # type: ignore[union-attr]
    (spec.directory / "exit.json").write_text(json.dumps(record))
    read = engine.observe(handle).record
    assert read is not None and (read.exit_code, read.cause) == (0, "exit") and 0 <= read.seconds < 10


@pytest.mark.parametrize("missing", ["python", "worker_command"])
def test_a_program_that_is_missing_or_not_executable_is_a_problem(tmp_path: Path, missing: str) -> None:
    program = tmp_path / "python"
    engine = executor((str(program),)) if missing == "worker_command" else executor(python=str(program))
    for _ in range(2):
        assert engine.problem() == f"the program {str(program)!r} is missing or not executable"
        program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert engine.problem() is None


def test_an_ended_supervisor_does_not_remain_a_zombie(specify: Specify) -> None:
    engine = executor("")
    handle = engine.launch(specify())
    ended(engine, handle)
    eventually(lambda: engine.observe(handle) and not Path(f"/proc/{handle['pid']}").exists())


def test_a_zombie_is_not_alive(specify: Specify) -> None:
    process = subprocess.Popen(["true"])
    eventually(lambda: "Z" in Path(f"/proc/{process.pid}/stat").read_text())
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert not Identity(process.pid, int(fields[19]), boot_id).alive()
    process.wait()


def test_the_lease_age_grows_while_the_supervisor_is_stopped_and_is_unknown_without_a_lease(specify: Specify) -> None:
    engine, spec = executor(), specify(lease_ttl_seconds=0.3)
    handle = engine.launch(spec)
    eventually((spec.directory / "lease.json").exists)
    supervisor(handle).send(signal.SIGSTOP)
    time.sleep(0.5)
    seen = engine.observe(handle)
    assert seen.status == "running"
    assert seen.lease_age_seconds is not None and seen.lease_age_seconds >= 0.5
    (spec.directory / "lease.json").unlink()
    assert engine.observe(handle).lease_age_seconds is None


def test_an_attempt_without_its_files_is_observed_by_its_processes(specify: Specify, tmp_path: Path) -> None:
    engine, spec = executor(), specify()
    handle = engine.launch(spec)
    ready(spec)
    spec.directory.rename(tmp_path / "elsewhere")
    assert engine.observe(handle).status == "running"
    engine.signal(handle, "kill")
    eventually(lambda: not any(processes_of(spec.attempt_id)), 40)
    assert engine.observe(handle) == Observation(spec.attempt_id, "exited")


# --- signalling


@pytest.mark.parametrize("stopped", ["supervisor", "trainer", "both"])
def test_a_kill_ends_what_has_been_stopped(specify: Specify, stopped: str) -> None:
    engine, spec = executor(STUBBORN), specify()
    handle = engine.launch(spec)
    ready(spec)
    for name, process in {"supervisor": supervisor(handle), "trainer": trainer(handle)}.items():
        if stopped in (name, "both"):
            process.send(signal.SIGSTOP)
    engine.signal(handle, "kill")
    record = ended(engine, handle).record
    assert record is not None
    assert (record.signal, record.cause) == (9, "stop")


def test_a_kill_ends_a_supervisor_that_does_not_react(specify: Specify, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_REACTION_SECONDS", 0.2)
    monkeypatch.setitem(local._SIGNALS, "kill", signal.SIGCONT)  # a signal without effect
    engine, spec = executor(STUBBORN), specify()
    handle = engine.launch(spec)
    ready(spec)
    engine.signal(handle, "kill")
    assert ended(engine, handle).record is None


def test_a_stop_saves_and_a_second_attempt_resumes_there(specify: Specify, tmp_path: Path) -> None:
    worker = executor((sys.executable, str(FAKE_WORKER)))
    run = tmp_path / "run"
    first = specify(request=request(run, tmp_path / "attempts" / "1"))
    handle = worker.launch(first)
    eventually(lambda: "step 1/" in (first.console.read_text() if first.console.exists() else ""))
    worker.signal(handle, "checkpoint_stop")
    worker.signal(handle, "checkpoint_stop")
    record = ended(worker, handle).record
    assert record is not None and record.outcome is not None
    assert (record.exit_code, record.cause, record.outcome["outcome"]) == (75, "stop", "stopped")
    stopped_at = record.outcome["step"]
    assert (run / "checkpoints" / f"step_{stopped_at:08d}" / "manifest.json").exists()
    second = specify(request=request(run, tmp_path / "attempts" / "2", steps=stopped_at + 3))
    record = ended(worker, worker.launch(second)).record
    assert record is not None and record.outcome is not None
    assert (record.exit_code, record.outcome["outcome"]) == (0, "completed")
    assert f"resumed at step {stopped_at}" in second.console.read_text()


def request(run: Path, attempt: Path, steps: int = 10_000) -> dict[str, Any]:
    config = {"training": {"steps": steps, "report_every_steps": 1}, "evaluation": {"protocol": "none"}}
    return {"kind": "train", "run_dir": str(run), "outcome": str(attempt / "outcome.json"), "config": config}


@pytest.mark.parametrize("what", ["checkpoint_stop", "stop", "kill"])
def test_signalling_an_attempt_that_has_ended_is_harmless(specify: Specify, what: Any) -> None:
    engine = executor("")
    handle = engine.launch(specify())
    before = ended(engine, handle)
    engine.signal(handle, what)
    assert engine.observe(handle) == before


def test_limits_reach_the_supervisor(specify: Specify) -> None:
    engine = executor(STUBBORN, console_limit_bytes=3)
    spec = specify(wall_seconds=2.5, grace_seconds=0.3)  # time for a worker to start on a busy machine
    record = ended(engine, engine.launch(spec)).record
    assert record is not None
    assert (record.signal, record.cause) == (9, "timeout")
    assert record.message == "the wall-time limit of 2.5 s was reached; killed after 0.3 s"
    assert spec.console.read_text().startswith("rea\n[... output limit of 3 bytes")
