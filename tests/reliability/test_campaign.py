"""The campaign of `make soak`: a whole round of it, and that its auditor sees what it is there to see."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.campaign.__main__ import main
from benchmarks.campaign.ledger import Ledger
from benchmarks.campaign.shifted_clock import VARIABLE
from benchmarks.campaign.twins import Arm, Story
from gan_mhe.files import sha256_bytes
from gan_mhe.records.run_dir import RunDir
from tests.support.paths import ROOT

JOB = "job_1"


CHECKPOINT = f"jobs/{JOB}/run/checkpoints/step_00000020"


def write_checkpoint(place: Path) -> None:
    place.mkdir(parents=True)
    (place / "tensors.safetensors").write_bytes(b"tensors")
    (place / "manifest.json").write_text(json.dumps({"tensors_sha256": sha256_bytes(b"tensors")}))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """It knows one job, and has seen its checkpoint."""
    write_checkpoint(tmp_path / CHECKPOINT)
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
    path = ledger.data_dir / CHECKPOINT / file
    path.write_bytes(path.read_bytes() + b" ")
    assert "no longer what it was" in str(ledger.damage(JOB, 20))


def test_a_vanished_checkpoint_is_reported(ledger: Ledger) -> None:
    place = ledger.data_dir / CHECKPOINT
    place.rename(place.with_name("elsewhere"))
    assert "cannot be read" in str(ledger.damage(JOB, 20))


def write_run(root: Path) -> Path:
    """All that is compared of a run, small."""
    write_checkpoint(root / "checkpoints" / "step_00000020")
    (root / "samples").mkdir()
    (root / "samples" / "step_00000020.png").write_bytes(b"grid")
    (root / "result.json").write_text(json.dumps({"final": {"fid": 15.25}, "train_seconds": 1.5}))
    started = {"type": "started", "step": 0, "total_steps": 20, "resumed": False}
    scalars = {"type": "scalars", "step": 5, "values": {"d_loss": 1.25, "g_loss": "NaN"}}
    (root / "events.jsonl").write_text(f"{json.dumps(started)}\n{json.dumps(scalars)}\n")
    return root


def test_runs_that_differ_only_in_time_are_equal(tmp_path: Path) -> None:
    here, there = write_run(tmp_path / "here"), write_run(tmp_path / "there")
    (here / "result.json").write_text(json.dumps({"final": {"fid": 15.25}, "train_seconds": 2.5}))
    assert Story(RunDir(here)).differences(Story(RunDir(there))) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("result.json", "15.25", "15.26", "result"),
        ("checkpoints/step_00000020/tensors.safetensors", "tensors", "Tensors", "tensors"),
        ("samples/step_00000020.png", "grid", "Grid", "samples"),
        ("events.jsonl", "1.25", "1.26", "scalars"),
    ],
)
def test_a_run_that_differs_from_its_twin_is_reported(
    tmp_path: Path, file: str, old: str, new: str, expected: str
) -> None:
    here, there = write_run(tmp_path / "here"), write_run(tmp_path / "there")
    (here / file).write_text((here / file).read_text().replace(old, new))
    assert Story(RunDir(here)).differences(Story(RunDir(there))) == [expected]


def test_a_checkpoint_that_a_stop_saved_is_no_difference(tmp_path: Path) -> None:
    here, there = write_run(tmp_path / "here"), write_run(tmp_path / "there")
    shutil.copytree(here / "checkpoints" / "step_00000020", here / "checkpoints" / "step_00000007")
    assert Story(RunDir(here)).differences(Story(RunDir(there))) == []
    assert Story(RunDir(there)).differences(Story(RunDir(here))) == ["tensors"]


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
