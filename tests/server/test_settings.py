"""The operator's settings, read from the environment and validated."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from gan_mhe.errors import GanMheError
from server.cli import operator
from server.errors import StartRefused
from server.serve import serve
from server.service import local_executor
from server.settings import Settings, check_variables
from tests.support.paths import ROOT


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GAN_MHE_WORKER_NICENESS", "-1"),
        ("GAN_MHE_WORKER_NICENESS", "20"),
        ("GAN_MHE_WORKER_NICENESS", "high"),
        ("GAN_MHE_CUDA_SLOTS_PER_DEVICE", "-1"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValidationError, match=variable.removeprefix("GAN_MHE_").lower()):
        Settings()


def test_how_much_workers_yield_and_share_is_the_operators_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (Settings().worker_niceness, Settings().cuda_slots_per_device) == (5, 1)
    monkeypatch.setenv("GAN_MHE_WORKER_NICENESS", "19")
    monkeypatch.setenv("GAN_MHE_CUDA_SLOTS_PER_DEVICE", "4")
    assert (Settings().worker_niceness, Settings().cuda_slots_per_device) == (19, 4)


def test_the_executor_is_given_the_niceness_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAN_MHE_WORKER_NICENESS", "11")
    assert local_executor(Settings())._worker_niceness == 11


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("GAN_MHE_CPU_SLOT", "GAN_MHE_CPU_SLOTS"),
        ("GAN_MHE_DATA_ROOT", "GAN_MHE_DATA_ROOTS"),
        ("gan_mhe_prot", "GAN_MHE_PORT"),
        ("GAN_MHE_KEYS", "GAN_MHE_KEY"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest_known_one(variable: str, nearest: str) -> None:
    with pytest.raises(GanMheError, match=f"unknown environment variable {variable}; did you mean '{nearest}'"):
        check_variables({"PATH": "/bin", variable: "secret"})


def test_every_command_of_the_operator_refuses_unknown_variables(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GAN_MHE_DATA_DRI", str(tmp_path / "elsewhere"))
    for command in (operator.serve, operator.list_keys):
        with pytest.raises(GanMheError, match="GAN_MHE_DATA_DRI; did you mean 'GAN_MHE_DATA_DIR'"):
            command()
    assert not (tmp_path / "elsewhere").exists()


def test_every_variable_that_the_source_reads_is_known() -> None:
    sources = [path for folder in ("gan_mhe", "server") for path in (ROOT / folder).rglob("*.py")]
    named = {name for path in sources for name in re.findall(r"\bGAN_MHE_[A-Z_]*[A-Z]\b", path.read_text())}
    assert {"GAN_MHE_CACHE", "GAN_MHE_KEY"} < named
    check_variables(dict.fromkeys(named, ""))


def test_a_path_may_begin_with_the_home_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GAN_MHE_DATA_DIR", "~/data")
    monkeypatch.setenv("GAN_MHE_DATA_ROOTS", '{"faces": "~/faces"}')
    monkeypatch.setenv("GAN_MHE_WEIGHTS", '{"w": "~/w.pt"}')
    settings = Settings()
    assert settings.data_dir == tmp_path / "data"
    assert settings.data_roots == {"faces": tmp_path / "faces"}
    assert settings.weights == {"w": tmp_path / "w.pt"}


def test_an_unknown_home_directory_is_refused_by_the_settings_name() -> None:
    with pytest.raises(ValidationError, match=r"data_roots\.faces"):
        Settings(data_roots={"faces": Path("~nobody_of_this_name/faces")})


def test_the_start_is_refused_while_an_offered_folder_file_or_preset_is_missing(
    settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    roots = {"gone": tmp_path / "gone", "file": tmp_path / "file", "there": tmp_path}
    offered = {"data_roots": roots, "weights": {"w": tmp_path}, "presets": ("digit_cnn", "debug_cpu")}
    with pytest.raises(StartRefused) as refusal:
        serve(settings.model_copy(update=offered))
    assert str(refusal.value).split("; ") == [
        f"GAN_MHE_DATA_ROOTS: 'gone' is {tmp_path}/gone, which is not a folder",
        f"GAN_MHE_DATA_ROOTS: 'file' is {tmp_path}/file, which is not a folder",
        f"GAN_MHE_WEIGHTS: 'w' is {tmp_path}, which is not a file",
        "GAN_MHE_PRESETS: unknown preset 'digit_cnn'",
        "did you mean 'digits_cnn'?",
    ]
    assert not settings.database.exists()
