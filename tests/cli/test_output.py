"""A command whose output is lost: runs go on to their end, and commands that only print fail."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gan_mhe.config.run_config import RunConfig
from gan_mhe.records.events import Finished
from gan_mhe.records.run_dir import RunDir
from gan_mhe.run.loop import execute
from server.cli.app import main
from tests.support.forked import Start

Configure = Callable[..., RunConfig]
BEFORE = {
    "full": "import os; full = os.open('/dev/full', os.O_WRONLY); os.dup2(full, 1)",
    "without reader": "import os; reader, writer = os.pipe(); os.close(reader); os.dup2(writer, 1)",
    "closed": "import os, sys; [os.close(number) for number in (0, 1, 2)]; sys.stdout = sys.stderr = None",
    "in another encoding": "import sys; sys.stdout = open(1, 'w', encoding='ascii', closefd=False)",
}


def overrides(*keys: str) -> list[str]:
    return [part for key in keys for part in ("--set", key)]


@pytest.mark.parametrize("how", BEFORE)
def test_a_run_whose_output_is_lost_completes(
    start_command: Start, tiny_keys: tuple[str, ...], tmp_path: Path, how: str
) -> None:
    keys = (*tiny_keys, "training.steps=2")
    process = start_command("train", "debug_cpu", "--run-dir", "r\u00e4", *overrides(*keys), before=BEFORE[how])
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    *_, last = RunDir(tmp_path / "r\u00e4").read_events()
    assert isinstance(last, Finished) and last.reason == "completed"
    assert how != "in another encoding" or output.endswith("run directory: r\\xe4\n")


@pytest.mark.parametrize("jobs", ["1", pytest.param("2", marks=pytest.mark.soak)])
def test_a_sweep_whose_output_is_lost_completes(
    start_command: Start, tiny_keys: tuple[str, ...], tmp_path: Path, jobs: str
) -> None:
    keys = (*tiny_keys, "training.steps=2")
    arguments = ["sweep", "debug_cpu", "--variants", "none,mhe", "--out", "sweep", "--jobs", jobs]
    process = start_command(*arguments, *overrides(*keys), before=BEFORE["without reader"])
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    for variant in ("none", "mhe"):
        result = RunDir(tmp_path / "sweep" / variant / "seed_0").read_result()
        assert result is not None and result["status"] == "completed"


@pytest.fixture
def run(tmp_path: Path, tiny: Configure) -> Path:
    """A run in `run`."""
    execute(tiny("training.steps=1"), tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("full", "error: cannot write to standard output: No space left on device\n"),
        ("without reader", ""),  # head and less end so, on purpose
    ],
)
def test_a_command_that_only_prints_fails_if_its_output_is_lost(
    start_command: Start, run: Path, how: str, message: str
) -> None:
    process = start_command("info", str(run), before=BEFORE[how])
    assert process.communicate(timeout=60) == ("", message)
    assert process.returncode == 1


def test_outside_a_terminal_info_prints_every_value_whole(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setattr("sys.argv", ["gan-mhe", "info", str(run)])
    with pytest.raises(SystemExit, match="0"):
        main()
    digest = RunDir(run).read_config().digest()
    assert f"digest       {digest}\n" in capsys.readouterr().out


def test_outside_a_terminal_no_cell_of_a_table_is_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["gan-mhe", "variants"])
    with pytest.raises(SystemExit, match="0"):
        main()
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines())) > 80 and "\u2026" not in output


TERMINAL = """
import fcntl, os, termios
def hold_terminal():
    os.setsid()
    fcntl.ioctl(os.open(os.environ["TERMINAL"], os.O_RDWR), termios.TIOCSCTTY, 0)
    for number in (0, 1, 2):
        os.dup2(os.open(os.environ["TERMINAL"], os.O_RDWR), number)
hold_terminal()
"""
NOHUP = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"


def wait_for(path: Path) -> None:
    limit = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < limit, f"{path} was never written"
        time.sleep(0.02)


def test_a_terminal_that_closes_saves_the_run(
    start_command: Start, tiny_keys: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal, inside = os.openpty()
    monkeypatch.setenv("TERMINAL", os.ttyname(inside))
    keys = (*tiny_keys, "training.steps=100000")
    process = start_command("train", "debug_cpu", "--run-dir", "run", *overrides(*keys), before=TERMINAL)
    wait_for(RunDir(tmp_path / "run").sample(4))
    os.close(inside)
    os.close(terminal)
    assert process.wait(timeout=60) == 130
    result = RunDir(tmp_path / "run").read_result()
    assert result is not None and result["status"] == "stopped"
    assert RunDir(tmp_path / "run").checkpoint_steps()[-1] == result["step"]


@pytest.mark.soak
def test_a_hangup_saves_and_ends_all_runs_of_a_sweep(
    start_command: Start, tiny_keys: tuple[str, ...], tmp_path: Path
) -> None:
    keys = (*tiny_keys, "training.steps=100000")
    arguments = ["sweep", "debug_cpu", "--variants", "none,mhe", "--out", "sweep", "--jobs", "2"]
    process = start_command(*arguments, *overrides(*keys))
    run_dirs = [RunDir(tmp_path / "sweep" / variant / "seed_0") for variant in ("none", "mhe")]
    for run_dir in run_dirs:
        wait_for(run_dir.sample(4))
    process.send_signal(signal.SIGHUP)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "")
    assert output.endswith("stopped; run the same command to continue\n")
    for run_dir in run_dirs:
        *_, last = run_dir.read_events()
        assert isinstance(last, Finished) and last.reason == "stopped"
        assert run_dir.checkpoint_steps()[-1] == last.step


def test_after_nohup_a_hangup_does_not_stop_a_run(
    start_command: Start, tiny_keys: tuple[str, ...], tmp_path: Path
) -> None:
    keys = (*tiny_keys, "training.steps=200")
    process = start_command("train", "debug_cpu", "--run-dir", "run", *overrides(*keys), before=NOHUP)
    wait_for(RunDir(tmp_path / "run").sample(4))
    process.send_signal(signal.SIGHUP)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    result = RunDir(tmp_path / "run").read_result()
    assert result is not None and result["status"] == "completed"
