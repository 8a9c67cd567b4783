"""What a server or `--help` imports loads no torch and does nothing else either."""

import subprocess
import sys
from pathlib import Path

import pytest

MODULES = [
    "gan_mhe",
    "gan_mhe.cli",
    "gan_mhe.compare",
    "gan_mhe.compose",
    "gan_mhe.config",
    "gan_mhe.evaluation.protocol",
    "gan_mhe.events",
    "gan_mhe.field_table",
    "gan_mhe.files",
    "gan_mhe.metrics",
    "gan_mhe.rundir",
    "gan_mhe.variants",
    "server.app",
    "server.client",
    "server.demo",
    "server.operator_commands",
    "server.render",
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


@pytest.mark.parametrize("module", ["gan_mhe.cli", "server.client", "server.commands"])
def test_a_client_needs_no_server_framework(module: str, tmp_path: Path) -> None:
    assert modules_after_importing(module, tmp_path) & {"fastapi", "uvicorn", "sqlalchemy", "alembic"} == set()


def test_the_check_itself_notices_what_is_imported(tmp_path: Path) -> None:
    assert "pydantic" in modules_after_importing("gan_mhe.config", tmp_path)
