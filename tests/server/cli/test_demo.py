"""The demonstration with a fake worker, from start to end; no process is left when it is stopped."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from server.store import tables
from server.store.store import Store
from tests.support.paths import FAKE_WORKER

MAIN = "from server.cli.app import main; main()"
WORKER_COMMAND = [sys.executable, str(FAKE_WORKER)]
QUICK = (
    "training.steps=20",
    "training.report_every_steps=5",
    "sampling.every_steps=10",
    "evaluation.every_steps=10",
    "checkpoint.every_steps=5",
)
MARKER = "OF_THE_DEMONSTRATION_IN"
VARIANTS = ["none", "spectral_norm", "mhe", "mhe_sn"]
LIMIT_SECONDS = 40.0

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start the demonstration in `tmp_path/shown`, in its own session, with the fake worker."""
    started: list[subprocess.Popen[str]] = []

    def begin(*keys: str, step_seconds: float = 0.005, **fakes: str) -> "subprocess.Popen[str]":
        environment = {key: value for key, value in os.environ.items() if not key.startswith("GAN_MHE_")}
        environment |= {
            "GAN_MHE_WORKER_COMMAND": json.dumps(WORKER_COMMAND),
            "FAKE_WORKER_STEP_SECONDS": str(step_seconds),
            "GAN_MHE_DISK_RESERVE_BYTES": "0",
            "GAN_MHE_KEY": "gk_of_another_service",
            MARKER: str(tmp_path),
            **{f"FAKE_WORKER_{name.upper()}": value for name, value in fakes.items()},
        }
        overrides = [part for key in (*QUICK, *keys) for part in ("--set", key)]
        process = subprocess.Popen(
            [sys.executable, "-c", MAIN, "demo", "--out", "shown", *overrides],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def wait_for(process: "subprocess.Popen[str]", pattern: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if re.search(pattern, line):
            return
    pytest.fail(f"{pattern!r} was never printed: {process.stderr.read() if process.stderr else ''}")


def left_over(directory: Path) -> set[tuple[int, str]]:
    """Processes of the demonstration in this directory, which all inherit its environment."""
    marker = f"{MARKER}={directory}".encode()
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended in the meantime
            if marker in (entry / "environ").read_bytes().split(b"\0"):
                found.add((int(entry.name), (entry / "cmdline").read_text().replace("\0", " ")))
    return found


def states(root: Path) -> dict[str, str]:
    store = Store(root / "service.sqlite3")
    jobs = tables.jobs
    query = select(jobs.c.variant, jobs.c.state).order_by(jobs.c.seq)
    rows = store.read(lambda connection: connection.execute(query).all())
    store.close()
    return dict(rows)


def test_the_demonstration_trains_compares_and_leaves_no_process_and_can_be_repeated(
    start: Start, tmp_path: Path
) -> None:
    process = start()
    printed, err = process.communicate(timeout=LIMIT_SECONDS)
    assert (process.returncode, err) == (0, "")
    lines = printed.splitlines()
    assert lines[0].startswith("page: http://127.0.0.1:") and lines[0].endswith("/  (Ctrl-C stops everything)")
    assert any(re.match(r"mhe_sn seed 0         step \d+/20  ", line) for line in lines)
    grids = [[variant, f"shown/grids/{variant}.png"] for variant in VARIANTS]
    table = lines.index(next(line for line in lines if line.startswith("variant ")))
    assert [line.split() for line in lines[table - 4 : table]] == grids
    assert [line.split()[0] for line in lines[table + 1 : table + 6]] == ["real", *reversed(VARIANTS)]
    assert lines[-1] == "to explore the results, run gan-mhe serve --data-dir shown and open its address"
    for variant in VARIANTS:
        assert (tmp_path / "shown" / "grids" / f"{variant}.png").read_bytes().startswith(b"\x89PNG")
    assert left_over(tmp_path) == set()
    again = start()
    assert again.communicate(timeout=LIMIT_SECONDS)[0].splitlines()[1:] == lines[1:]
    assert len(list((tmp_path / "shown" / "jobs").iterdir())) == 4


def test_ctrl_c_pauses_the_jobs_and_the_same_command_resumes_them(start: Start, tmp_path: Path) -> None:
    long = ("training.steps=400", "checkpoint.every_steps=400")  # the only checkpoint is the one saved at the stop
    process = start(*long, step_seconds=0.02)
    wait_for(process, r"step \d+/400")
    assert len(left_over(tmp_path)) == 6  # itself, the service, two supervisors, two workers
    process.send_signal(signal.SIGINT)
    printed, err = process.communicate(timeout=LIMIT_SECONDS)
    assert (process.returncode, err) == (130, "")
    assert printed.splitlines()[-2:] == [
        "stopping: the jobs save their state; press Ctrl-C again to quit immediately",
        "stopped; run the same command to continue",
    ]
    assert left_over(tmp_path) == set()
    assert states(tmp_path / "shown") == dict.fromkeys(VARIANTS, "paused")
    again = start(*long, step_seconds=0.0)
    printed, err = again.communicate(timeout=LIMIT_SECONDS)
    assert (again.returncode, err) == (0, "")
    assert "none seed 0           resumed at step " in printed
    assert states(tmp_path / "shown") == dict.fromkeys(VARIANTS, "succeeded")


def test_a_signal_while_the_service_starts_leaves_no_process(start: Start, tmp_path: Path) -> None:
    process = start()
    limit = time.monotonic() + LIMIT_SECONDS
    while not (tmp_path / "shown" / "server.log").exists():
        assert time.monotonic() < limit
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _printed, _ = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 130
    assert left_over(tmp_path) == set()


def test_it_leaves_another_server_alone_and_repeated_signals_stop_even_unresponsive_workers(
    start: Start, tmp_path: Path
) -> None:
    first = start("training.steps=1000000", ignore_sigterm="1")
    wait_for(first, r"step \d+/1000000")
    running = left_over(tmp_path)
    second = start("training.steps=1000000")
    printed, err = second.communicate(timeout=LIMIT_SECONDS)
    assert (second.returncode, printed) == (1, "")
    assert "the data directory shown is in use by another server" in err
    assert left_over(tmp_path) == running
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        first.send_signal(number)
        time.sleep(0.3)
    _, err = first.communicate(timeout=LIMIT_SECONDS)
    assert (first.returncode, err) == (130, "")
    assert left_over(tmp_path) == set()


def test_the_error_for_a_killed_service_quotes_its_log(start: Start, tmp_path: Path) -> None:
    process = start("training.steps=1000000")
    wait_for(process, r"step \d+/1000000")
    os.kill(json.loads((tmp_path / "shown" / "server.json").read_text())["pid"], signal.SIGKILL)
    _printed, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert err.startswith("error: the service is not running; the last line of shown/server.log: ")
    assert left_over(tmp_path) == set()


def test_an_invalid_override_is_rejected_before_anything_starts(start: Start, tmp_path: Path) -> None:
    process = start("training.stepz=3")
    printed, err = process.communicate(timeout=LIMIT_SECONDS)
    assert (process.returncode, printed) == (2, "")
    assert err.startswith("error: training.stepz: unknown key; did you mean 'steps'?")
    assert not (tmp_path / "shown").exists()
