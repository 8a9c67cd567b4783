"""The campaign of `make soak`: a whole round of it, and that its auditor sees what it is there to see."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.campaign.__main__ import main
from benchmarks.campaign.ledger import Ledger
from benchmarks.campaign.shifted_clock import VARIABLE
from benchmarks.campaign.twins import Arm
from gan_mhe.files import sha256_bytes
from tests.support.paths import ROOT

JOB = "job_1"


def write_checkpoint(data_dir: Path, tensors: bytes) -> Path:
    place = data_dir / "jobs" / JOB / "run" / "checkpoints" / "step_00000020"
    place.mkdir(parents=True)
    (place / "tensors.safetensors").write_bytes(tensors)
    (place / "manifest.json").write_text(json.dumps({"tensors_sha256": sha256_bytes(tensors)}))
    return place


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """It knows one job, and has seen its checkpoint."""
    write_checkpoint(tmp_path, b"tensors")
    made = Ledger(tmp_path, {JOB: Arm("none", 0, 40)})
    made.look()
    return made


@pytest.mark.slow
def test_a_round_with_a_killed_server_finds_nothing_wrong(tmp_path: Path) -> None:
    out = tmp_path / "out"
    small = ["--jobs", "1", "--variants", "none", "--seeds", "1", "--steps", "40"]
    assert main(["--out", str(out), "--rounds", "1", "--seed", "2", "--harms", "kill server", *small]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["rounds"], summary["kills"], summary["twins_compared"]) == (1, 1, 1)
    assert summary["checkpoints_audited"] == 2 and summary["failures"] == []
    assert not (out / "data").exists()


def test_an_untouched_checkpoint_is_found_whole(ledger: Ledger) -> None:
    assert ledger.trained() == [JOB]
    assert ledger.damage(JOB, 20) is None


@pytest.mark.parametrize("file", ["manifest.json", "tensors.safetensors"])
def test_a_changed_byte_of_a_checkpoint_is_reported(ledger: Ledger, file: str) -> None:
    path = ledger.data_dir / "jobs" / JOB / "run" / "checkpoints" / "step_00000020" / file
    path.write_bytes(path.read_bytes() + b" ")
    assert "no longer what it was" in str(ledger.damage(JOB, 20))


def test_a_vanished_checkpoint_is_reported(ledger: Ledger) -> None:
    place = ledger.data_dir / "jobs" / JOB / "run" / "checkpoints" / "step_00000020"
    place.rename(place.with_name("elsewhere"))
    assert "cannot be read" in str(ledger.damage(JOB, 20))


def test_a_program_under_a_shifted_clock_reads_the_shifted_time(tmp_path: Path) -> None:
    (tmp_path / "clock").write_text("-86400")
    (tmp_path / "reader.py").write_text("import sys, time; print(time.time(), time.time_ns(), sys.argv[1])")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.campaign.shifted_clock", "reader", "argument"],
        env={VARIABLE: str(tmp_path / "clock"), "PYTHONPATH": f"{ROOT}:{tmp_path}"},
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, nanoseconds, argument = done.stdout.split()
    assert argument == "argument"
    for read in (float(seconds), int(nanoseconds) / 1e9):
        assert abs(read - (time.time() - 86400)) < 3600
