"""User errors: one message that names the cause, the right exit code, no traceback, and nothing lost."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gan_mhe.config.run_config import RunConfig
from gan_mhe.errors import RunDirError
from gan_mhe.records.run_dir import RunDir
from gan_mhe.run.loop import execute
from server.cli.app import main

Configure = Callable[..., RunConfig]
Refused = Callable[..., str]


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_keys: tuple[str, ...]
) -> Refused:
    """Run `gan-mhe` in `tmp_path`, with `keys` as overrides of a tiny run, and return the one message it fails with."""
    monkeypatch.chdir(tmp_path)

    def run(code: int, *arguments: str, keys: tuple[str, ...] | None = None) -> str:
        overrides = [] if keys is None else [part for key in (*tiny_keys, *keys) for part in ("--set", key)]
        monkeypatch.setattr("sys.argv", ["gan-mhe", *arguments, *overrides])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        assert stopped.value.code == code
        assert "Traceback" not in captured.out + captured.err
        assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
        return captured.err.removeprefix("error: ").rstrip()

    return run


def no_steps_were_made(root: Path) -> bool:
    run_dir = RunDir(root)
    return not run_dir.samples.exists() and not run_dir.checkpoints.exists()


# --- configuration: exit code 2, and nothing is created


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.step=5", "training.step: unknown key; did you mean 'steps'?"),
        ("trainning.steps=5", "trainning: unknown key; did you mean 'training'?"),
        ("constraints.mhe.lamda_hidden=1", "constraints.mhe.lamda_hidden: unknown key; did you mean 'lambda_hidden'?"),
        ("optimizer.schedule.knid=constant", "optimizer.schedule.knid: unknown key; did you mean 'kind'?"),
        ("constraints.mhe.lambda_hidden=-1", "constraints.mhe.lambda_hidden: .*greater than or equal to 0.* -1"),
        ("constraints.mhe.lambda_hidden=nan", "constraints.mhe.lambda_hidden: .*nan"),
        ("seed=two", "seed: .*valid integer.* 'two'"),
        ("seed=-1", "seed: .*greater than or equal to 0.* -1"),
        ("seed=0.5", "seed: .*valid integer.* 0.5"),
        ("training.steps=0", "training.steps: .*greater than or equal to 1.* 0"),
        ("training.device=gpu", "training.device: .*'gpu'"),
        ("training.precision=fp16", "training.precision: .*'float32', 'tf32', 'bf16' or 'float64'.* 'fp16'"),
        ("variant=spectral", "unknown variant 'spectral'; did you mean 'spectral_norm'?"),
        ("evaluation.protocol=is", "unknown protocol 'is'; expected one of none, digits-v1, inception-2015"),
        ("evaluation.ema=true", "generator.ema_halflife_steps is 0; expected > 0"),
        ("data.name=image_folder", "data.root is missing"),
        ("training=fast", "training: .*'fast'"),
        ("training.steps=true", "training.steps: expected a number, but it is True"),
        (
            "data.root=~nobody_here/x",
            "data.root: expected a path, got '~nobody_here/x', a home folder that is not known",
        ),
        ('data.root="a\\u0000b"', "data.root: expected a path without NUL, but it is .*"),
        ("training.steps", "--set 'training.steps': expected key=value"),
    ],
)
def test_a_wrong_override_is_named(refused: Refused, tmp_path: Path, override: str, message: str) -> None:
    error = refused(2, "train", "debug_cpu", keys=(override,))
    assert re.search(message.replace("?", r"\?"), error), error
    assert list(tmp_path.iterdir()) == []


def test_several_wrong_keys_are_all_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["gan-mhe", "train", "debug_cpu", "--set", "sede=1", "--set", "training.stepz=2"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert capsys.readouterr().err == (
        "error: training.stepz: unknown key; did you mean 'steps'?\nsede: unknown key; did you mean 'seed'?\n"
    )


def test_an_unknown_variant_is_answered_with_the_nearest(refused: Refused, tmp_path: Path) -> None:
    assert refused(2, "train", "debug_cpu", "--variant", "mhe_ns") == "unknown variant 'mhe_ns'; did you mean 'mhe_sn'?"
    error = refused(2, "sweep", "debug_cpu", "--variants", "none,mheh")
    assert error == "unknown variant 'mheh'; did you mean 'mhe'?"
    assert list(tmp_path.iterdir()) == []


def test_a_misspelt_key_in_a_file_is_named(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[training]\nsteps = 2\nbatchsize = 4\n")
    assert refused(2, "train", "mine.toml") == "training.batchsize: unknown key; did you mean 'batch_size'?"


def test_text_in_utf_16_is_an_error_that_names_the_expected_encoding(refused: Refused, tmp_path: Path) -> None:
    expected = "mine.toml is not valid TOML: expected text in UTF-8, got UTF-16 or binary data; save the file as UTF-8"
    for encoding in ("utf-16", "utf-16-le"):
        (tmp_path / "mine.toml").write_bytes("seed = 1\n".encode(encoding))
        assert refused(2, "train", "mine.toml") == expected


def test_text_in_latin_1_is_an_error_that_names_byte_and_line(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes("seed = 1\n# Gr\u00f6\u00dfe\n".encode("latin-1"))
    error = refused(2, "train", "mine.toml")
    assert error == "mine.toml is not valid TOML: expected text in UTF-8, got byte 0xf6 in line 2"


@pytest.mark.parametrize("content", [b"steps: 5\n", b"\xff\xfe\x00", b"[training\n", b"a = 1\na = 2\n"])
def test_a_file_that_is_not_toml_is_named(refused: Refused, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mine.toml").write_bytes(content)
    assert refused(2, "train", "mine.toml").startswith("mine.toml is not valid TOML: ")


def test_a_missing_file_is_answered_with_the_presets(refused: Refused) -> None:
    error = refused(2, "train", "mine.toml")
    assert error.startswith("cannot read configuration mine.toml: there is no such file and no such preset; presets: ")
    assert "digits_cnn" in error


def test_a_folder_instead_of_a_file_is_refused(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert refused(2, "train", "folder") == "cannot read configuration folder: Is a directory"


@pytest.mark.parametrize("seeds", ["one", "0,,1", "0-3", ""])
def test_seeds_as_text_are_refused_with_an_example(refused: Refused, seeds: str) -> None:
    error = refused(2, "sweep", "debug_cpu", "--variants", "none", "--seeds", seeds)
    assert error == f"--seeds {seeds!r}: expected comma-separated integers such as 0,1,2"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "debug_cpu", "--seed", "two"), "Invalid value for '--seed'"),
        (("train",), "Missing argument 'config'"),
        (("sample", "run"), "Missing option '--out'"),
        (("sample", "run", "--out", "x.png", "--n", "0"), "Invalid value for '--n'"),
        (("compare", "run", "--format", "xml"), "Invalid value for '--format'"),
        (("trian", "debug_cpu"), "No such command 'trian'"),
    ],
)
def test_wrong_usage_exits_with_2_and_names_the_option(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr("sys.argv", ["gan-mhe", *arguments])
    with pytest.raises(SystemExit, match="2"):
        main()
    captured = capsys.readouterr()
    assert message in captured.err and "Traceback" not in captured.err and captured.out == ""


# --- missing data, weights and devices: exit code 1, before any step


def test_missing_inception_weights_are_reported_before_any_training(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    keys = ("evaluation.protocol=inception-2015", "evaluation.num_samples=1000")
    error = refused(1, "train", "digits_cnn", "--run-dir", "run", keys=keys)
    assert error.startswith("evaluation.protocol inception-2015: the weights of its inception-v3-compat are missing")
    assert "set evaluation.weights" in error and "evaluation.download = true" in error
    assert no_steps_were_made(tmp_path / "run")


def test_splits_of_one_image_are_refused_by_name(refused: Refused, tmp_path: Path) -> None:
    error = refused(2, "train", "digits_cnn", "--run-dir", "run", keys=("evaluation.num_samples=10",))
    assert error.startswith("evaluation.num_samples: expected at least 100, ") and error.rstrip().endswith("got 10")


def test_a_missing_scorer_is_reported_before_any_training(refused: Refused, tmp_path: Path) -> None:
    error = refused(1, "train", "debug_cpu", "--run-dir", "run", keys=("evaluation.protocol=classifier:mine",))
    assert "scorers/mine.safetensors" in error and "gan-mhe scorer train" in error
    assert no_steps_were_made(tmp_path / "run")


def test_weights_that_are_something_else_are_refused(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"not weights")
    keys = (f"evaluation.weights={tmp_path}/weights.safetensors", "evaluation.num_samples=100")
    error = refused(1, "train", "digits_cnn", "--run-dir", "run", keys=keys)
    assert "weights.safetensors" in error
    assert no_steps_were_made(tmp_path / "run")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_a_gpu_that_is_not_there_is_refused(refused: Refused, tmp_path: Path, device: str) -> None:
    error = refused(1, "train", "debug_cpu", "--run-dir", "run", keys=(f"training.device={device}",))
    assert error == f"training.device: expected cpu, auto or a CUDA device of this machine, got {device!r}; it has 0"
    assert not RunDir(tmp_path / "run").exists()


def test_tf32_on_a_cpu_is_refused(refused: Refused, tmp_path: Path) -> None:
    error = refused(1, "train", "debug_cpu", "--run-dir", "run", keys=("training.precision=tf32",))
    assert error == "training.precision: tf32 needs a CUDA device, got cpu; use float32"
    assert no_steps_were_made(tmp_path / "run")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of seven good images and one cut in the middle."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(8):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    (folder / "5.png").write_bytes((folder / "5.png").read_bytes()[:300])
    return folder


def test_a_broken_image_is_named(refused: Refused, tmp_path: Path, photos: Path) -> None:
    keys = ("data.name=image_folder", f"data.root={photos}")
    error = refused(1, "train", "debug_cpu", "--run-dir", "run", keys=keys)
    assert error.startswith(f"data.root: 1 image file(s) in {photos} cannot be used: 5.png (")
    assert no_steps_were_made(tmp_path / "run")


def test_after_the_broken_image_is_gone_the_same_command_trains(
    refused: Refused, tmp_path: Path, photos: Path, tiny: Configure
) -> None:
    keys = ("data.name=image_folder", f"data.root={photos}", "training.steps=1")
    refused(1, "train", "debug_cpu", "--run-dir", "run", keys=keys)
    (photos / "5.png").unlink()
    assert execute(tiny(*keys), tmp_path / "run").status == "completed"


# --- directories


LONG = "x" * 300


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("file/run", "expected a folder, but file is a file"),
        ("file", "expected a folder, but file is a file"),
        ("/dev/full/run", "expected a folder, but /dev/full is a file"),
        (LONG, "File name too long"),
        (f"{LONG}/run", "File name too long"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        ("train", "debug_cpu", "--run-dir"),
        ("sweep", "debug_cpu", "--variants", "none", "--out"),
        ("study", "study.toml", "--out"),
        ("fetch", "job_1", "--out"),
        ("demo", "--out"),
    ],
    ids=lambda command: command[0],
)
def test_a_folder_that_cannot_be_made_is_an_error_of_its_option(
    refused: Refused, tmp_path: Path, command: tuple[str, ...], path: str, reason: str
) -> None:
    (tmp_path / "file").write_text("")
    assert refused(2, *command, path) == f"{command[-1]} {path}: {reason}"


def test_a_folder_that_cannot_be_written_is_an_error_of_its_option(
    refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gan_mhe.cli.options.os.access", lambda path, mode: False)  # root may write everywhere
    error = refused(2, "train", "debug_cpu", "--run-dir", "run")
    assert error == "--run-dir run: expected a folder that can be written; . cannot"


def test_a_run_directory_that_the_system_refuses_later_is_named(refused: Refused) -> None:
    error = refused(1, "train", "debug_cpu", "--run-dir", "/proc/run", keys=())
    assert error.startswith("cannot write to run directory /proc/run: ")


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (("info", LONG), "run"),
        (("score", LONG), "run"),
        (("sample", LONG, "--out", "x.png"), "run"),
        (("study", LONG), "file"),
        (("sample", "run", "--out", LONG), "--out"),
        (("serve", "--data-dir", LONG), "--data-dir"),
        (("keys", "list", "--data-dir", LONG), "--data-dir"),
        (("scorer", "train", "mine", "--data", "image_folder", "--root", LONG), "--root"),
        (("scorer", "train", "mine", "--data", "digits", "--out", LONG), "--out"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_a_path_that_the_system_refuses_is_an_error_of_its_option(
    refused: Refused, command: tuple[str, ...], name: str
) -> None:
    assert refused(2, *command) == f"{name} {LONG}: File name too long"


def test_a_compared_path_that_the_system_refuses_is_named(refused: Refused) -> None:
    assert refused(1, "compare", LONG) == f"{LONG} cannot be read: File name too long"


def test_a_full_log_is_one_message(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.txt").symlink_to("/dev/full")
    error = refused(1, "train", "debug_cpu", "--run-dir", "run", keys=())
    assert error == "cannot write the log: No space left on device"


@pytest.mark.parametrize(
    "arguments", [("info", "{}"), ("sample", "{}", "--out", "x.png"), ("score", "{}")], ids=["info", "sample", "score"]
)
@pytest.mark.parametrize("path", ["nowhere", "empty", "file"])
def test_a_directory_that_is_no_run_is_refused(
    refused: Refused, tmp_path: Path, arguments: tuple[str, ...], path: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    error = refused(1, *(part.format(path) for part in arguments))
    assert error == f"{path} is not a run directory: it has no config.json"


@pytest.mark.parametrize("path", ["nowhere", "empty", "file"])
def test_comparing_a_path_without_runs_is_refused(refused: Refused, tmp_path: Path, path: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    assert refused(1, "compare", path) == f"{path} is not a run directory and contains none"


@pytest.mark.parametrize("name", ["result.json", "events.jsonl"])
def test_a_damaged_file_of_a_run_is_named(refused: Refused, tmp_path: Path, tiny: Configure, name: str) -> None:
    execute(tiny("training.steps=1"), tmp_path / "run")
    (tmp_path / "run" / name).write_text('{"half": \n')
    assert refused(1, "info", "run").startswith(f"run/{name} cannot be read: ")


def test_a_damaged_configuration_of_a_run_is_named(tmp_path: Path, tiny: Configure) -> None:
    execute(tiny("training.steps=1"), tmp_path)
    RunDir(tmp_path).config.write_text('{"half": \n')
    with pytest.raises(RunDirError, match=r"config\.json cannot be read: "):
        execute(tiny("training.steps=2"), tmp_path)


# --- existing runs: nothing is lost


@pytest.fixture
def existing(tmp_path: Path, tiny: Configure) -> dict[Path, bytes]:
    """A finished run in `run`, as files and their content."""
    execute(tiny("training.steps=2"), tmp_path / "run")
    return files(tmp_path / "run")


def files(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_training_into_an_existing_run_is_refused(
    refused: Refused, tmp_path: Path, existing: dict[Path, bytes]
) -> None:
    error = refused(1, "train", "debug_cpu", "--run-dir", "run", keys=("training.steps=2",))
    assert error == "run already contains a run; continue it with --resume or choose another --run-dir"
    assert files(tmp_path / "run") == existing


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("loss=hinge", "loss was 'non_saturating', is 'hinge'"),
        ("training.steps=1", "training.steps was 2, is 1"),
        ("seed=5", "seed was 0, is 5"),
    ],
)
def test_resuming_with_a_changed_configuration_is_refused(
    refused: Refused, tmp_path: Path, existing: dict[Path, bytes], key: str, change: str
) -> None:
    error = refused(2, "train", "debug_cpu", "--run-dir", "run", "--resume", keys=("training.steps=2", key))
    assert error.startswith(f"run holds a run of another configuration: {change}")
    assert files(tmp_path / "run") == existing


def test_a_decay_is_why_the_number_of_steps_cannot_change(refused: Refused, tmp_path: Path, tiny: Configure) -> None:
    decay = "optimizer.schedule.kind=linear_decay"
    execute(tiny("training.steps=2", decay), tmp_path / "run")
    error = refused(2, "train", "debug_cpu", "--run-dir", "run", "--resume", keys=("training.steps=3", decay))
    assert error == (
        "run holds a run of another configuration: training.steps was 2, is 3 "
        "(optimizer.schedule.kind = 'linear_decay' reaches 0 at the last step, "
        "so every step depends on the number of steps); use a new run directory, or fork a checkpoint at a service"
    )


def test_a_run_cannot_be_made_shorter(refused: Refused, existing: dict[Path, bytes]) -> None:
    error = refused(2, "train", "debug_cpu", "--run-dir", "run", "--resume", keys=("training.steps=1",))
    assert "training.steps was 2, is 1 (a run can only be made longer); use a new run directory" in error


def test_a_run_in_use_is_refused(refused: Refused, tmp_path: Path, existing: dict[Path, bytes]) -> None:
    with RunDir(tmp_path / "run").locked():
        error = refused(1, "train", "debug_cpu", "--run-dir", "run", "--resume", keys=("training.steps=2",))
    assert error == "run directory run is in use by another process"
    assert files(tmp_path / "run") == existing


def test_a_damaged_checkpoint_is_not_sampled_or_scored(
    refused: Refused, tmp_path: Path, existing: dict[Path, bytes]
) -> None:
    path = RunDir(tmp_path / "run").checkpoint(2) / "tensors.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert "tensors.safetensors is damaged" in refused(1, "sample", "run", "--out", "x.png")
    error = refused(1, "score", "run", "--protocol", "digits-v1", "--set", "evaluation.num_samples=100")
    assert "tensors.safetensors is damaged" in error


def test_a_run_diverging_ends_with_the_term_the_step_and_exit_code_1(refused: Refused) -> None:
    error = refused(1, "train", "debug_cpu", keys=("optimizer.discriminator_lr=1e30",))
    assert re.match(r"training diverged at step \d+: [dg]_\w+(, [dg]_\w+)* not finite; ", error)
