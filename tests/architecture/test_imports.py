"""What a server or `--help` imports loads no torch and does nothing else either."""

import subprocess
import sys
from pathlib import Path

import pytest

MODULES = [
    "gan_mhe",
    "server.cli.app",
    "gan_mhe.comparison.compare",
    "gan_mhe.config.compose",
    "gan_mhe.config.run_config",
    "gan_mhe.config.protocols",
    "gan_mhe.evaluation.metrics",
    "gan_mhe.evaluation.protocol",
    "gan_mhe.records.events",
    "gan_mhe.files",
    "gan_mhe.config.names",
    "gan_mhe.records.run_dir",
    "gan_mhe.variants",
    "server.app",
    "server.client",
    "server.cli.demo",
    "server.cli.operator",
    "server.images.render",
    "server.serve",
    "server.service",
]
HEAVY = {"torch", "torchvision", "torch_fidelity", "safetensors", "sklearn"}


def modules_after_importing(module: str, directory: Path) -> set[str]:
    """Top-level names in `sys.modules` of a fresh interpreter that imported `module` in an empty directory."""
    script = f"import sys, {module}; sys.stdout.write(' '.join({{name.partition('.')[0] for name in sys.modules}}))"
    finished = subprocess.run(
        [sys.executable, "-c", script], cwd=directory, capture_output=True, text=True, check=True, timeout=120
    )
    assert finished.stderr == ""
    return set(finished.stdout.split())


@pytest.mark.parametrize("module", MODULES)
def test_importing_it_loads_no_torch_and_writes_no_file(module: str, tmp_path: Path) -> None:
    assert modules_after_importing(module, tmp_path) & HEAVY == set()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", ["server.cli.app", "server.client", "server.cli.jobs"])
def test_a_client_needs_no_server_framework(module: str, tmp_path: Path) -> None:
    assert modules_after_importing(module, tmp_path) & {"fastapi", "uvicorn", "sqlalchemy", "alembic"} == set()


def test_the_check_itself_notices_what_is_imported(tmp_path: Path) -> None:
    assert "pydantic" in modules_after_importing("gan_mhe.config.run_config", tmp_path)


REFUSED = {
    "an unknown key": ("train", "digits_cnn", "--set", "training.stepz=3"),
    "an unknown preset": ("train", "digit_cnn"),
    "an unknown variant": ("sweep", "digits_cnn", "--variants", "none,mhe_sm"),
    "a value out of range": ("scorer", "train", "own", "--data", "digits", "--set", "data.image_size=0"),
    "no run": ("score", "."),
    "no such run to sample": ("sample", ".", "--out", "grid.png"),
    "an unknown key of a study": ("study", "study.toml"),
}
COMPLETE = {
    "a list of the variants": ("variants",),
    "the help of a command that trains": ("train", "--help"),
}
RUN = """import sys
from server.cli.app import main
try:
    main()
except SystemExit as end:
    print(int(end.code or 0), *{"torch", "scipy"} & sys.modules.keys(), file=sys.__stderr__)"""


def run_command(arguments: tuple[str, ...], directory: Path) -> tuple[str, list[str]]:
    """The exit code of a command, and which packages it loaded of those that take long."""
    (directory / "study.toml").write_text('name = "s"\nseedz = [0]\n')
    finished = subprocess.run(
        [sys.executable, "-c", RUN, *arguments], cwd=directory, capture_output=True, text=True, check=True, timeout=120
    )
    code, *loaded = finished.stderr.splitlines()[-1].split()
    return code, loaded


@pytest.mark.parametrize("arguments", REFUSED.values(), ids=REFUSED)
def test_what_is_refused_is_refused_before_torch_is_loaded(arguments: tuple[str, ...], tmp_path: Path) -> None:
    code, loaded = run_command(arguments, tmp_path)
    assert code in ("1", "2") and "torch" not in loaded


@pytest.mark.parametrize("arguments", COMPLETE.values(), ids=COMPLETE)
def test_a_command_that_computes_nothing_loads_neither_torch_nor_scipy(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    assert run_command(arguments, tmp_path) == ("0", [])
