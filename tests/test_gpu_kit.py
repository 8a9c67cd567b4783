"""The kit of measurements for a GPU: stages end in time, continue, survive errors, and work at their smallest size."""

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks.gpu import agreement, kit, memory, numerics, requirements, speed, variants_table
from benchmarks.gpu.__main__ import STAGES, main
from benchmarks.gpu.kit import Results, Setup, Stage
from gan_mhe.records.run_dir import RunDir

Work = Callable[[], Mapping[str, Any]]


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(device="cpu", tiny=True, out=str(tmp_path), data=None, weights=None)


@pytest.fixture(autouse=True)
def deterministic() -> Any:
    """The stages set this for their own process."""
    yield
    torch.use_deterministic_algorithms(False)


def results(setup: Setup, name: str = "stage", seconds: float = math.inf) -> Results:
    return Results(Path(setup.out) / f"{name}.jsonl", time.monotonic() + seconds)


def lines(found: Results) -> list[dict[str, Any]]:
    return [json.loads(line) for line in found.path.read_text().splitlines()]


# --- results


def test_a_result_is_on_disk_as_soon_as_it_is_known_and_is_not_measured_again(setup: Setup) -> None:
    found = results(setup)
    found.measure("one", lambda: {"value": 1.5})
    assert lines(found)[0]["value"] == 1.5
    again = results(setup)
    again.measure("one", pytest.fail)
    assert again["one"]["value"] == 1.5


def test_an_error_is_a_result_and_is_tried_once_more(setup: Setup) -> None:
    calls = []

    def work() -> dict[str, Any]:
        calls.append(1)
        raise RuntimeError("no such kernel\nand more")

    for _ in range(3):
        results(setup).measure("one", work)
    assert len(calls) == 2
    assert [line["error"] for line in lines(results(setup))] == ["RuntimeError: no such kernel"] * 2
    assert "one" not in results(setup)


def test_nothing_is_begun_after_the_deadline(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    found = results(setup, seconds=-1)
    found.measure("one", pytest.fail)
    assert "one: skipped, the stage has no time left" in capsys.readouterr().out


def test_numbers_that_json_lacks_are_written_by_name(setup: Setup) -> None:
    found = results(setup)
    found.write("one", {"value": math.nan, "many": [math.inf], "nested": {"low": -math.inf}})
    assert lines(found)[0] == {"key": "one", "value": "NaN", "many": ["Infinity"], "nested": {"low": "-Infinity"}}


def test_an_error_of_the_device_ends_the_process_of_the_stage(setup: Setup) -> None:
    def work() -> dict[str, Any]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(SystemExit) as ended:
        results(setup).measure("one", work)
    assert ended.value.code == kit._DEVICE_LOST
    assert "illegal memory access" in lines(results(setup))[0]["error"]


# --- stages


def test_a_stage_continues_in_a_new_process_when_the_device_was_lost(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codes, seconds = iter([kit._DEVICE_LOST, 0]), []

    class Process:
        def __init__(self, command: list[str], cwd: Path) -> None:
            seconds.append(json.loads(command[-1])[1])

        def __enter__(self) -> "Process":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def wait(self, limit: float) -> int:
            return next(codes)

    monkeypatch.setattr(kit.subprocess, "Popen", Process)
    stages = {"first": Stage("first", 5, pytest.fail), "rest": Stage("rest", None, pytest.fail)}
    full = Setup("cpu", False, setup.out, None, None)
    kit.run_stages({"first": stages["first"]}, full, budget=100)
    assert len(seconds) == 2 and 4 < seconds[1] <= seconds[0] <= 5
    kit.run_stages(stages, full, budget=-1)
    assert "rest: skipped, the budget is used up" in capsys.readouterr().out


def test_the_command_runs_a_stage_in_its_process_and_describes_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--device", "cpu", "--tiny", "--budget", "100", "--only", "compilation", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["gpu", *options])
    started: list[list[str]] = []
    monkeypatch.setattr(kit, "_run_in_processes", lambda stage, *_: started.append(stage.name))
    main()
    assert started == ["compilation"]
    assert json.loads((tmp_path / "machine.json").read_text())["setup"]["tiny"] is True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "cpu"], "--out is missing"),
        (["--out", "x", "--device", "cpu", "--data", "nowhere"], "--data: there is no nowhere"),
        (["--out", "x"], "this machine has no CUDA device"),
    ],
)
def test_a_command_that_cannot_work_says_why(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["gpu", *options])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        main()
    assert message in capsys.readouterr().err


def test_agreement_of_an_engine_with_itself_is_exact(setup: Setup) -> None:
    found = results(setup)
    agreement.run(setup, found)
    assert found["float32/none"]["other_bits"] == 0 and found["float32/none"]["tensors"] > 50
    assert found["bf16/none"]["nonfinite"] == []
    assert found["resume/mhe_sn"]["to_graph"]["within_tolerance"]


def test_a_difference_is_found_and_named(setup: Setup) -> None:
    one = agreement._trainer("none", setup, agreement.Eager()).state()
    other = {name: tensor.clone() for name, tensor in one.items()}
    other["generator/dense.weight"][0, 0] += 0.5 * other["generator/dense.weight"].abs().max()
    found = agreement._differences(other, one)
    assert (found["other_bits"], found["worst"], found["within_tolerance"]) == (1, "generator/dense.weight", False)
    assert found["largest_difference"] == pytest.approx(0.5, rel=1e-5)


def test_every_question_is_answered_beside_its_guess(setup: Setup) -> None:
    found = results(setup)
    numerics.run(setup, found)
    assert all(found[name]["guess"] == guess for name, (guess, _) in numerics.QUESTIONS.items())
    assert found["adam_with_a_large_flag"]["found_inf_1"]["moved"] is False
    assert 0 < found["r1_in_bf16"]["relative_error"] < 0.5


def test_fused_adam_on_a_cpu_moves_weights_by_other_weights_gradients_if_strides_differ(setup: Setup) -> None:
    """Why the trainer gives each gradient its weight's strides. PyTorch 2.11 to 2.15."""
    found = numerics.adam_with_other_strides(torch.device("cpu"))
    assert 0.2 < found["share_with_wrong_sign"] < 0.8


def test_memory_is_estimated(setup: Setup) -> None:
    found = results(setup)
    memory.run(setup, found)
    assert found["mhe_sn/cnn/64/bf16/eager"]["estimate_bytes"] > 2**20


def test_steps_are_timed_in_turns(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    ceilings = {"float32": 1.0, "copy": 1.0}
    monkeypatch.setattr(speed, "ceilings", lambda device: ceilings)
    monkeypatch.setattr(speed, "_WARM_UP", 1)
    monkeypatch.setattr(speed, "_resnet_step", lambda *_: lambda: None)
    found = results(setup)
    speed.run(setup, found)
    table = found["batch_4"]
    assert table["figures"]["speedup_float32"]["median"] > 0
    assert table["figures"]["mhe_share_float32_interval_4"]["median"] < 1
    assert {goal["verdict"] for goal in table["goals"]} == {"n/a"}  # for the published size
    assert found["sampling_4"]["images_per_second"] > 0
    assert set(found["resnet"]["milliseconds"]) == {"spectral_norm/float32", "mhe_sn/float32", "wgan_gp/float32"}


# --- the table of variants


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    """Two classes of noise, dark and bright, in an image folder."""
    stream = torch.Generator().manual_seed(0)
    for name in "ab":
        folder = tmp_path / "cifar" / "train" / name
        folder.mkdir(parents=True)
        for index in range(12):
            pixels = torch.randint(128, (32, 32, 3), dtype=torch.uint8, generator=stream) + 128 * "ab".index(name)
            Image.fromarray(pixels.numpy()).save(folder / f"{index}.png")
    return tmp_path / "cifar"


def test_every_row_makes_the_same_number_of_updates(setup: Setup, tmp_path: Path) -> None:
    full = Setup("cpu", False, setup.out, None, None)
    for row in variants_table.rows(full):
        training = variants_table.configuration(row, 0, full, tmp_path, tmp_path / "weights").training
        assert abs(training.steps * (1 + training.n_dis) - 40_000) <= training.n_dis
    assert set(variants_table.rows(full)) >= {"none", "wgan_gp", "mhe_sn", "half_mhe_sn", "comhe_sn"}


@pytest.mark.slow
def test_the_table_is_trained_scored_compared_and_not_trained_twice(setup: Setup, cifar: Path, tmp_path: Path) -> None:
    with_data = Setup("cpu", True, setup.out, str(cifar), None)
    found = results(setup, "variants", seconds=500)
    variants_table.run(with_data, found)
    assert found["extractor"]["trained"] and found["run/spectral_norm/seed_0"]["result"]["status"] == "completed"
    assert found["average/none/seed_0"]["scores"].keys() >= {"inception_score", "fid"}
    comparison = json.loads((tmp_path / "comparison.json").read_text())
    assert {row["variant"] for row in comparison["rows"]} == {"none", "spectral_norm"}
    with Image.open(tmp_path / "grids.png") as sheet:
        assert sheet.width > 500

    # Another machine has only the results and the weights.
    for run in ("none", "spectral_norm"):
        run_dir = tmp_path / "work" / "runs" / run
        run_dir.rename(tmp_path / f"away_{run}")
    before = len(lines(found))
    variants_table.run(with_data, results(setup, "variants", seconds=500))
    assert len(lines(found)) == before
    assert RunDir(tmp_path / "work" / "runs" / "none" / "seed_0").checkpoint_steps() == []


def test_every_stage_has_its_name_and_the_table_gets_the_time_that_is_left() -> None:
    assert [name for name, stage in STAGES.items() if stage.seconds is None] == ["variants", "compilation"]
    assert sum(stage.seconds or 0 for stage in STAGES.values()) <= 300


# --- requirements


def test_missing_and_outdated_packages_are_listed() -> None:
    wanted = ["numpy>=1,<2", "pillow>=1", "surely-absent>=3", "rich[all]>=1,<99", "fastapi>=999"]
    found = requirements.missing(wanted, ("numpy", "pillow", "surely-absent", "rich"))
    assert [line.partition(":")[0] for line in found] == ["numpy", "surely-absent"]
    assert found[1] == "surely-absent: absent, expected >=3"


def test_versions_compare_by_number() -> None:
    assert requirements._meets("2.15.0", ">=2.11") and not requirements._meets("2.9.1", ">=2.11")
    assert requirements._meets("2.15.1+cu130", "<2.16")
