"""The worker: every request ends with an outcome file that has a stable code."""

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gan_mhe import worker
from gan_mhe.config.run_config import RunConfig
from gan_mhe.errors import DataError, DivergedError, MemoryLimitError, RunDirError, StorageError
from gan_mhe.evaluation.evaluator import Evaluator
from gan_mhe.files import canonical_json, sha256_bytes, sha256_file
from gan_mhe.records import checkpoint
from gan_mhe.records.events import SampleGrid, Started
from gan_mhe.records.result import RunResult
from gan_mhe.records.run_dir import RunDir
from gan_mhe.run import loop, sample
from gan_mhe.run.score import score_checkpoint
from gan_mhe.worker import Outcome
from tests.support.paths import FAKE_WORKER

Configure = Callable[..., RunConfig]
Execute = Callable[[dict[str, Any]], Outcome]


@pytest.fixture
def execute(tmp_path: Path) -> Iterator[Execute]:
    """Execute a request in this process and return its outcome, which equals that of the file."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}

    def execute(request: dict[str, Any]) -> Outcome:
        path = tmp_path / "attempt" / "outcome.json"
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        (tmp_path / "request.json").write_text(json.dumps({"outcome": str(path)} | request))
        outcome = worker.execute_request(tmp_path / "request.json")
        assert [file.name for file in path.parent.iterdir()] == ["outcome.json"]
        assert Outcome(**json.loads(path.read_text())) == outcome
        return outcome

    yield execute
    for number, handler in before.items():
        signal.signal(number, handler)


def training(root: Path, config: RunConfig, **changes: Any) -> dict[str, Any]:
    return {"kind": "train", "run_dir": str(root), "config": config.document()} | changes


def damage(run_dir: RunDir, step: int) -> None:
    (run_dir.checkpoint(step) / "tensors.safetensors").write_bytes(b"damaged")


# --- training


def test_a_completed_run_returns_its_result_and_prints_its_events(
    execute: Execute, tiny: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = execute(training(tmp_path / "run", tiny()))
    assert (outcome.outcome, outcome.code, outcome.message, outcome.step) == ("completed", None, "", 12)
    assert outcome.result == RunDir(tmp_path / "run").read_result()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "started, 12 steps"
    assert lines[-1] == "completed at step 12"


def test_a_job_asked_to_stop_while_its_last_step_is_scored_is_stopped_and_later_scored(
    execute: Execute, tiny: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = Evaluator.score

    def stop_then_score(self: Evaluator, *arguments: Any, **how: Any) -> dict[str, float]:
        signal.raise_signal(signal.SIGTERM)
        return score(self, *arguments, **how)

    request = training(tmp_path / "run", tiny("training.steps=2", preset="digits_cnn"))
    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "score", stop_then_score)
        stopped = execute(request)
    assert (stopped.outcome, stopped.step) == ("stopped", 2)
    scored = execute({**request, "require_checkpoint": True})
    assert scored.outcome == "completed" and scored.result is not None and scored.result["final"] is not None


def test_a_completed_run_is_not_trained_again(execute: Execute, tiny: Configure, tmp_path: Path) -> None:
    first = execute(training(tmp_path / "run", tiny()))
    before = (tmp_path / "run" / "events.jsonl").read_bytes()
    assert execute(training(tmp_path / "run", tiny(), require_checkpoint=True)) == first
    assert (tmp_path / "run" / "events.jsonl").read_bytes() == before


def test_a_run_that_is_asked_to_stop_saves_and_later_ends_as_if_it_had_never_stopped(
    execute: Execute, tiny: Configure, tmp_path: Path
) -> None:
    config = tiny("training.steps=30", "training.report_every_steps=1")
    request = tmp_path / "stopped.json"
    request.write_text(json.dumps(training(tmp_path / "run", config, outcome=str(tmp_path / "stopped.out"))))
    process = subprocess.Popen(
        [sys.executable, "-m", "gan_mhe.worker", str(request)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while "step 1/30" not in process.stdout.readline():
        pass
    process.terminate()
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "stopping: finishing and saving this step first" in rest
    stopped = json.loads((tmp_path / "stopped.out").read_text())
    assert stopped["outcome"] == "stopped"
    assert 0 < stopped["step"] < 30
    resumed = execute(training(tmp_path / "run", config, require_checkpoint=True))
    unbroken = execute(training(tmp_path / "unbroken", config))
    assert timeless(resumed) == timeless(unbroken)
    assert last_tensors(tmp_path / "run").keys() == last_tensors(tmp_path / "unbroken").keys()
    for name, tensor in last_tensors(tmp_path / "run").items():
        assert torch.equal(tensor, last_tensors(tmp_path / "unbroken")[name]), name


def timeless(outcome: Outcome) -> dict[str, Any]:
    assert outcome.result is not None
    return {key: value for key, value in outcome.result.items() if key not in ("train_seconds", "peak_memory_bytes")}


def last_tensors(root: Path) -> dict[str, torch.Tensor]:
    run_dir = RunDir(root)
    return dict(checkpoint.load(run_dir.checkpoint(run_dir.checkpoint_steps()[-1])).tensors)


def test_a_second_signal_quits_without_saving_and_is_no_failure(
    execute: Execute, tiny: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(*arguments: Any) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        raise AssertionError("went on")

    monkeypatch.setattr(loop, "execute", hang)
    outcome = execute(training(tmp_path / "run", tiny()))
    assert (outcome.outcome, outcome.code) == ("stopped", None)
    assert outcome.message == "quit without saving; the last checkpoint is intact"


def test_a_hangup_asks_for_a_stop_and_never_quits(
    execute: Execute, tiny: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def run(config: RunConfig, run_dir: Path, sink: Any, control: Any) -> RunResult:
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM):
            os.kill(os.getpid(), number)
            asked.append(control.should_stop())
        raise DataError("end")

    monkeypatch.setattr(loop, "execute", run)
    assert execute(training(tmp_path / "run", tiny())).message == "end"
    assert asked == [True, True, True]


def test_signals_are_ignored_once_the_outcome_is_being_written(
    execute: Execute, tiny: Configure, tmp_path: Path
) -> None:
    execute(training(tmp_path / "run", tiny("training.steps=1")))
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)


def test_a_run_that_lost_all_its_checkpoints_fails_instead_of_starting_over(
    execute: Execute, tiny: Configure, tmp_path: Path
) -> None:
    run_dir = RunDir(tmp_path / "run")
    outcome = execute(training(run_dir.root, tiny(), require_checkpoint=True))
    assert (outcome.outcome, outcome.code) == ("failed", "checkpoint_invalid")
    assert outcome.message == f"no usable checkpoint in {run_dir.root}: it has none"
    execute(training(run_dir.root, tiny()))
    run_dir.result.unlink()
    for step in run_dir.checkpoint_steps():
        damage(run_dir, step)
    events = run_dir.events.read_bytes()
    outcome = execute(training(run_dir.root, tiny(), require_checkpoint=True))
    assert (outcome.outcome, outcome.code) == ("failed", "checkpoint_invalid")
    assert outcome.message.count("is damaged") == 2
    assert run_dir.events.read_bytes() == events


def test_a_run_that_is_to_start_over_keeps_its_checkpoints_aside(
    execute: Execute, tiny: Configure, tmp_path: Path
) -> None:
    run_dir = RunDir(tmp_path / "run")
    execute(training(run_dir.root, tiny()))
    saved = [run_dir.checkpoint(step).name for step in run_dir.checkpoint_steps()]
    for number in (1, 2):
        run_dir.result.unlink()
        damage(run_dir, 12)
        assert execute(training(run_dir.root, tiny(), set_aside=True)).outcome == "completed"
        assert sorted(path.name for path in (run_dir.root / f"checkpoints.rejected-{number}").iterdir()) == saved
    assert [event.step for event in run_dir.read_events() if isinstance(event, Started)] == [0, 0, 0]


def test_a_new_run_has_nothing_to_set_aside(execute: Execute, tiny: Configure, tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "run")
    assert execute(training(run_dir.root, tiny(), set_aside=True)).outcome == "completed"
    assert not list(run_dir.root.glob("checkpoints.*"))


def test_an_older_checkpoint_is_enough_to_go_on(execute: Execute, tiny: Configure, tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "run")
    execute(training(run_dir.root, tiny()))
    run_dir.result.unlink()
    damage(run_dir, 12)
    assert execute(training(run_dir.root, tiny(), require_checkpoint=True)).outcome == "completed"
    assert [event.step for event in run_dir.read_events() if isinstance(event, Started)] == [0, 10]


def test_a_shared_gpu_is_used_up_to_the_share_only(
    execute: Execute, tiny: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[float] = []
    result = loop.execute(tiny("training.steps=1"), tmp_path / "run")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)
    monkeypatch.setattr(loop, "execute", lambda *arguments: result)
    execute(training(tmp_path / "run", tiny(), memory_fraction=0.25))
    execute(training(tmp_path / "run", tiny(), memory_fraction=None))
    assert shares == [0.25]


# --- forks


@pytest.fixture(scope="module")
def source(tiny: Configure, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run whose scores a fork must not inherit, with a moving average."""
    root = tmp_path_factory.mktemp("worker") / "source"
    loop.execute(tiny("generator.ema_halflife_steps=4", "evaluation.every_steps=5", preset="digits_cnn"), root)
    return RunDir(root)


def fork(source: RunDir, step: int = 10) -> dict[str, Any]:
    return {"run_dir": str(source.root), "step": step}


def other(tiny: Configure, *keys: str) -> RunConfig:
    """A configuration that cannot continue the source, but fits its networks."""
    rates = ("optimizer.generator_lr=0.0001", "generator.ema_halflife_steps=4")
    return tiny(*rates, "training.steps=14", *keys, preset="digits_cnn")


def test_a_fork_continues_from_the_other_runs_checkpoint_without_its_scores(
    execute: Execute, tiny: Configure, source: RunDir, tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in source.root.rglob("*")}
    run_dir = RunDir(tmp_path / "fork")
    outcome = execute(training(run_dir.root, other(tiny), fork=fork(source)))
    assert (outcome.outcome, outcome.step) == ("completed", 14)
    assert outcome.result is not None and outcome.result["evaluations"] == 1
    assert [(event.step, event.resumed) for event in run_dir.read_events() if isinstance(event, Started)] == [
        (10, True)
    ]
    assert run_dir.read_config() == other(tiny)
    assert {path: path.stat().st_mtime_ns for path in source.root.rglob("*")} == before


@pytest.mark.parametrize("same_config", [True, False])
def test_a_fork_that_continues_another_run_needs_the_images_of_that_run(
    execute: Execute, tiny: Configure, source: RunDir, tmp_path: Path, same_config: bool
) -> None:
    copy = RunDir(Path(shutil.copytree(source.root, tmp_path / "source")))
    manifest = copy.checkpoint(10) / "manifest.json"
    document = json.loads(manifest.read_text())
    del document["sha256"]
    document["notes"]["inputs"]["data_sha256"] = "0" * 64
    manifest.write_text(json.dumps(document | {"sha256": sha256_bytes(canonical_json(document))}))
    request = training(tmp_path / "fork", other(tiny), fork=fork(copy) | {"same_config": same_config})
    outcome = execute(request)
    if same_config:
        assert outcome.code == "config_invalid"
        assert f"the images of digits changed: expected SHA-256 {'0' * 64}" in outcome.message
    else:
        assert outcome.outcome == "completed"


def test_a_fork_that_has_started_resumes_where_it_was(
    execute: Execute, tiny: Configure, source: RunDir, tmp_path: Path
) -> None:
    run_dir = RunDir(tmp_path / "fork")
    request = training(run_dir.root, other(tiny, "checkpoint.every_steps=4"), fork=fork(source))
    execute(request)
    run_dir.result.unlink()
    shutil.rmtree(run_dir.checkpoint(14))
    assert execute(request).outcome == "completed"
    assert [event.step for event in run_dir.read_events() if isinstance(event, Started)] == [10, 12]


def test_a_fork_never_starts_over_from_nothing(
    execute: Execute, tiny: Configure, source: RunDir, tmp_path: Path
) -> None:
    run_dir = RunDir(tmp_path / "fork")
    execute(training(run_dir.root, other(tiny), fork=fork(source)))
    run_dir.result.unlink()
    for step in run_dir.checkpoint_steps():
        damage(run_dir, step)
    assert execute(training(run_dir.root, other(tiny), fork=fork(source))).code == "checkpoint_invalid"


def test_a_fork_into_networks_of_another_shape_is_refused(
    execute: Execute, tiny: Configure, source: RunDir, tmp_path: Path
) -> None:
    outcome = execute(training(tmp_path / "fork", other(tiny, "generator.width=0.0625"), fork=fork(source)))
    assert outcome.code == "checkpoint_invalid"
    assert "does not fit the generator" in outcome.message


def test_a_fork_of_a_damaged_checkpoint_is_refused(
    execute: Execute, tiny: Configure, source: RunDir, tmp_path: Path
) -> None:
    copy = RunDir(Path(shutil.copytree(source.root, tmp_path / "copy")))
    damage(copy, 10)
    outcome = execute(training(tmp_path / "fork", other(tiny), fork=fork(copy)))
    assert outcome.code == "checkpoint_invalid"
    assert RunDir(tmp_path / "fork").checkpoint_steps() == []


def test_a_fork_needs_steps_left_to_make(execute: Execute, tiny: Configure, source: RunDir, tmp_path: Path) -> None:
    outcome = execute(training(tmp_path / "fork", other(tiny, "training.steps=10"), fork=fork(source)))
    assert (outcome.code, outcome.message) == (
        "config_invalid",
        "training.steps: expected more than 10, the step of the fork, got 10",
    )


# --- failures


def no_space() -> Exception:
    error = StorageError("cannot write x: No space left on device")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    outer = StorageError("cannot write the checkpoint")
    outer.__context__ = error
    return outer


def score_without_memory() -> MemoryLimitError:
    error = MemoryLimitError("evaluation.num_samples = 9: a score ran out of memory")
    error.__cause__ = MemoryError()
    return error


def unwritable_run() -> RunDirError:
    error = RunDirError("cannot write to run directory x: Permission denied")
    error.__cause__ = PermissionError(errno.EACCES, "Permission denied")
    return error


@pytest.mark.parametrize(
    ("error", "code", "message", "step"),
    [
        (DivergedError(7, ["d_loss"]), "diverged", "training diverged at step 7: d_loss not finite", 7),
        (DataError("an image is broken"), "data_invalid", "an image is broken", None),
        (no_space(), "disk_full", "cannot write the checkpoint", None),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk_full", "Disk quota exceeded", None),
        (StorageError("cannot write x: Permission denied"), "storage_failed", "cannot write x", None),
        (unwritable_run(), "storage_failed", "cannot write to run directory", None),
        (RunDirError("the run directory is in use"), "run_dir_invalid", "in use", None),
        (OSError(errno.EROFS, "Read-only file system"), "storage_failed", "Read-only file system", None),
        (OSError(errno.ENOENT, "No such file or directory"), "error", "FileNotFoundError", None),
        (MemoryError(), "out_of_memory", "training.batch_size 4; 2 needs about half as much: MemoryError", None),
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory", "2 needs about half as much: CUDA", None),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out_of_memory", "training.batch_size 4", None),
        (MemoryLimitError("12 would fit"), "out_of_memory", "12 would fit", None),
        (score_without_memory(), "out_of_memory", "evaluation.num_samples = 9", None),
        (RuntimeError("something odd"), "error", "RuntimeError: something odd", None),
    ],
)
def test_a_failure_has_the_code_of_its_cause(
    execute: Execute,
    tiny: Configure,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    code: str,
    message: str,
    step: int | None,
) -> None:
    def fail(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(loop, "execute", fail)
    outcome = execute(training(tmp_path / "run", tiny()))
    assert (outcome.outcome, outcome.code, outcome.step, outcome.result) == ("failed", code, step, None)
    assert message in outcome.message
    assert ("Traceback" in capsys.readouterr().err) == (code == "error")


def test_a_failure_says_how_far_the_run_had_come(
    execute: Execute, tiny: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any) -> None:
        raise StorageError("cannot write")

    monkeypatch.setattr(loop._Run, "_save", full)
    outcome = execute(training(tmp_path / "run", tiny()))
    assert (outcome.code, outcome.step) == ("storage_failed", 5)


def test_the_outcome_can_be_written_to_a_disk_that_has_become_full(
    execute: Execute, tiny: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        reserve = tmp_path / "attempt" / ".outcome.json.reserve"
        assert reserve.stat().st_blocks * 512 >= 16384
        raise no_space()

    monkeypatch.setattr(loop, "execute", fail)
    assert execute(training(tmp_path / "run", tiny())).code == "disk_full"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {"training": {"stepz": 3}}}, "training.stepz: unknown key; did you mean 'steps'?"),
        ({"config": 3}, "request.train.config: Input should be a valid dictionary"),
        ({"memory_fraction": 1.5}, "request.train.memory_fraction: Input should be less than or equal to 1"),
        ({"colour": "red"}, "request.train.colour: Extra inputs are not permitted"),
        ({"kind": "dance"}, "request: Input tag 'dance' found"),
    ],
)
def test_a_wrong_request_is_a_configuration_error_that_names_the_key(
    execute: Execute, tiny: Configure, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    outcome = execute(training(tmp_path / "run", tiny()) | changes)
    assert (outcome.outcome, outcome.code) == ("failed", "config_invalid")
    assert message in outcome.message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"outcome": 3}', None])
def test_a_request_that_names_no_outcome_file_fails_with_a_message(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "request.json"
    if content is not None:
        path.write_text(content)
    done = started(str(path))
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {path}")
    assert done.stdout == "torch was not loaded\n"


def test_a_wrong_request_is_refused_before_torch_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text(json.dumps({"kind": "train", "outcome": str(tmp_path / "outcome.json")}))
    done = started(str(tmp_path / "request.json"))
    assert (done.returncode, done.stdout) == (1, "torch was not loaded\n")
    assert json.loads((tmp_path / "outcome.json").read_text())["code"] == "config_invalid"


def test_without_a_request_the_worker_prints_its_usage() -> None:
    done = started()
    assert done.returncode == 2
    assert "usage: python -m gan_mhe.worker REQUEST" in done.stderr


def started(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """The worker as a process that says at its end whether it loaded torch."""
    script = """
import sys
from gan_mhe.worker import main
try: main()
finally: print("torch was", "loaded" if "torch" in sys.modules else "not loaded")"""
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60)


def test_the_stand_in_of_the_services_tests_leaves_what_the_library_reads(tiny: Configure, tmp_path: Path) -> None:
    config, run_dir = tiny("evaluation.every_steps=5", preset="digits_cnn"), RunDir(tmp_path / "run")
    (tmp_path / "request.json").write_text(
        json.dumps(training(run_dir.root, config, outcome=str(tmp_path / "outcome.json")))
    )
    subprocess.run(
        [sys.executable, FAKE_WORKER, tmp_path / "request.json"], check=True, capture_output=True, timeout=60
    )
    outcome = Outcome(**json.loads((tmp_path / "outcome.json").read_text()))
    assert (outcome.outcome, outcome.step) == ("completed", 12)
    assert outcome.result is not None
    assert RunResult.from_document(outcome.result).document() == outcome.result == run_dir.read_result()
    assert checkpoint.load(run_dir.checkpoint(12), lineage=config.digest("resumable")).step == 12
    assert [event.step for event in run_dir.read_events() if isinstance(event, SampleGrid)] == [0, 4, 8, 12]
    with Image.open(run_dir.sample(4)) as picture:
        assert picture.size == (2, 2)


# --- tasks


def digest(source: RunDir, step: int) -> str:
    manifest = json.loads((source.checkpoint(step) / "manifest.json").read_text())
    return str(manifest["sha256"])


def images(source: RunDir, output: Path, **changes: Any) -> dict[str, Any]:
    return {
        "kind": "sample",
        "run_dir": str(source.root),
        "step": 12,
        "checkpoint_sha256": digest(source, changes.get("step", 12)),
        "n": 5,
        "seed": 3,
        "truncation": None,
        "interpolation": 0,
        "ema": False,
        "format": "npz",
        "output": str(output),
        "partial": f"{output}.partial",
    } | changes


def test_images_are_written_to_a_file_and_described(execute: Execute, source: RunDir, tmp_path: Path) -> None:
    output = tmp_path / "out" / "images"
    outcome = execute(images(source, output, ema=True))
    assert (outcome.outcome, outcome.step) == ("completed", 12)
    assert outcome.result is not None
    assert outcome.result["sha256"] == sha256_file(output)
    assert outcome.result["size_bytes"] == output.stat().st_size
    assert (outcome.result["media_type"], outcome.result["images"]) == ("application/x-npz", 5)
    assert (outcome.result["device"], outcome.result["torch"]) == ("cpu", torch.__version__)
    assert outcome.result["fixed"] == {
        "step": 12,
        "checkpoint_sha256": digest(source, 12),
        "n": 5,
        "seed": 3,
        "truncation": None,
        "interpolation": 0,
        "ema": True,
        "format": "npz",
    }
    with np.load(output, allow_pickle=False) as archive:
        expected = sample.generate(source, n=5, seed=3, step=12, ema=True)
        assert np.array_equal(archive["images"], expected.permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize(("format", "media_type"), [("png", "image/png"), ("zip", "application/zip")])
def test_the_same_request_gives_the_same_bytes_and_another_seed_others(
    execute: Execute, source: RunDir, tmp_path: Path, format: str, media_type: str
) -> None:
    hashes = []
    for seed in (3, 3, 4):
        result = execute(images(source, tmp_path / "a", format=format, seed=seed)).result
        assert result is not None and result["media_type"] == media_type
        hashes.append(result["sha256"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_images_can_be_read_while_they_are_drawn_and_are_renamed_when_they_are_whole(
    execute: Execute, source: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, seen = sample.draw, list[tuple[int, bool]]()
    output, partial = tmp_path / "out" / "a", tmp_path / "out" / "1.partial"

    def watched(*arguments: Any, **options: Any) -> Iterator[torch.Tensor]:
        for batch in draw(*arguments, **options):
            seen.append((partial.stat().st_size, output.exists()))
            yield batch

    monkeypatch.setattr(sample, "draw", watched)
    result = execute(images(source, output, n=130, format="zip", partial=str(partial))).result
    assert result is not None and result["images"] == 130
    sizes, renamed = zip(*seen, strict=True)
    assert sizes[0] == 0 and sizes[0] < sizes[1] < sizes[2] < result["size_bytes"]
    assert not any(renamed)
    assert [path.name for path in output.parent.iterdir()] == ["a"]


def test_drawing_that_is_stopped_leaves_nothing(
    execute: Execute, source: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*arguments: Any, **options: Any) -> Iterator[torch.Tensor]:
        yield torch.zeros(64, 3, 32, 32, dtype=torch.uint8)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(sample, "draw", stopped)
    assert execute(images(source, tmp_path / "out" / "a", n=130)).outcome == "stopped"
    assert list((tmp_path / "out").iterdir()) == []


def test_the_layout_of_a_grid_can_be_requested(execute: Execute, source: RunDir, tmp_path: Path) -> None:
    result = execute(images(source, tmp_path / "a", n=6, format="webp", columns=3, scale=1, padding=0)).result
    assert result is not None and result["media_type"] == "image/webp"
    assert (result["fixed"]["columns"], result["fixed"]["scale"], result["fixed"]["padding"]) == (3, 1, 0)
    with Image.open(tmp_path / "a") as grid:
        assert (grid.format, grid.size) == ("WEBP", (3 * 32, 2 * 32))


def test_walks_and_truncated_images_can_be_requested(execute: Execute, source: RunDir, tmp_path: Path) -> None:
    result = execute(images(source, tmp_path / "a", n=2, interpolation=4, truncation=0.5, format="zip", step=10)).result
    assert result is not None and result["images"] == 8
    expected = sample.interpolate(source, rows=2, columns=4, seed=3, step=10, truncation=0.5)
    with zipfile.ZipFile(tmp_path / "a") as archive:
        found = [np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in archive.namelist()]
    assert np.array_equal(np.stack(found), expected.permute(0, 2, 3, 1).numpy())


def test_a_grid_of_walks_has_one_walk_a_row(execute: Execute, source: RunDir, tmp_path: Path) -> None:
    execute(images(source, tmp_path / "a", n=2, interpolation=6, format="png"))
    with Image.open(tmp_path / "a") as grid:
        assert grid.width > 2.5 * grid.height


@pytest.mark.parametrize("kind", ["sample", "score"])
def test_another_checkpoint_of_the_same_step_is_refused(
    execute: Execute, source: RunDir, tmp_path: Path, kind: str
) -> None:
    request = images(source, tmp_path / "a") if kind == "sample" else scoring(source)
    outcome = execute(request | {"checkpoint_sha256": digest(source, 10)})
    assert (outcome.outcome, outcome.code) == ("failed", "checkpoint_invalid")
    assert f"is another checkpoint: expected SHA-256 {digest(source, 10)}, got {digest(source, 12)}" in outcome.message
    assert not (tmp_path / "a").exists()


def test_a_task_quits_at_the_first_signal(
    execute: Execute, source: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(*arguments: Any, **options: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        raise AssertionError("went on")

    monkeypatch.setattr(sample, "draw", hang)
    outcome = execute(images(source, tmp_path / "a"))
    assert (outcome.outcome, outcome.code) == ("stopped", None)


def scoring(source: RunDir, **overrides: Any) -> dict[str, Any]:
    return {
        "kind": "score",
        "run_dir": str(source.root),
        "step": 12,
        "checkpoint_sha256": digest(source, 12),
        "overrides": overrides,
    }


def test_a_score_is_that_of_the_library(execute: Execute, source: RunDir) -> None:
    overrides = {"evaluation": {"num_samples": 150, "ema": True}}
    outcome = execute(scoring(source, **overrides))
    assert (outcome.outcome, outcome.step) == ("completed", 12)
    assert outcome.result == score_checkpoint(source, step=12, overrides=overrides)


def test_a_score_under_the_runs_own_protocol_needs_the_weights_of_the_run(
    execute: Execute, source: RunDir, tmp_path: Path
) -> None:
    copy = RunDir(Path(shutil.copytree(source.root, tmp_path / "source")))
    copy.write_scorer("digits-v1", "0" * 64)
    whole = source.read_config().document()["evaluation"]
    outcome = execute(scoring(copy, evaluation=whole))
    assert outcome.code == "config_invalid"
    assert f"changed: expected SHA-256 {'0' * 64}" in outcome.message


def test_a_score_under_an_impossible_protocol_is_a_configuration_error(execute: Execute, source: RunDir) -> None:
    assert execute(scoring(source, evaluation={"protocol": "vibes"})).code == "config_invalid"
