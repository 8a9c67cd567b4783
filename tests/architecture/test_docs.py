"""The documentation says what the program does, because it is generated from it or compared with it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from gan_mhe.config.compose import compose
from gan_mhe.config.documents import PRESETS, flatten, load_document
from gan_mhe.config.run_config import EXECUTION_KEYS, RunConfig
from gan_mhe.variants import VARIANTS
from server.cli.app import app
from tests.support.looped import looped
from tests.support.paths import ROOT
from tools import configuration_page

CONFIGS = ROOT / "configs"
PRESET_FILES = sorted(CONFIGS.glob("*.toml"))


def text_of(*names: str) -> str:
    return "\n".join((ROOT / name).read_text(encoding="utf-8") for name in names)


def commands(group: typer.Typer, prefix: str = "gan-mhe") -> Iterator[str]:
    """Every command of the shell, with the groups before its name."""
    for command in group.registered_commands:
        assert command.callback is not None
        yield f"{prefix} {command.name or command.callback.__name__}"
    for below in group.registered_groups:
        assert below.typer_instance is not None
        yield from commands(below.typer_instance, f"{prefix} {below.name}")


def documented_keys() -> set[str]:
    """The keys in the first column of the generated tables; `constraints.*` stands for each penalty."""
    return set(re.findall(r"^\| `([a-z0-9_.*]+)`", configuration_page.document(), flags=re.MULTILINE)) - set(VARIANTS)


def all_keys() -> set[str]:
    """The dotted keys of all leaves, from several documents, because the energies exclude each other."""
    followed: dict[str, Any] = {"ratio": {}}
    documents: list[dict[str, Any]] = [
        {"clipping": {}, "gradient_penalty": followed, "orthonormal": followed, "weight_decay": followed},
        {"mhe": {**followed, "minibatch": {}}, "sphere_conv": {}},
        *({name: followed} for name in ("official_mhe", "comhe", "uniformity")),
    ]
    found = {
        key
        for constraints in documents
        for key in flatten(RunConfig.model_validate({"constraints": constraints}).document())
    }
    return {key for key in found if not any(other.startswith(f"{key}.") for other in found)}


def stands_for(row: str, key: str) -> bool:
    return re.fullmatch(re.escape(row).replace(r"\*", r"\w+"), key) is not None


def test_the_configuration_readme_is_what_the_generator_prints_now() -> None:
    page = (CONFIGS / "README.md").read_text(encoding="utf-8")
    assert page == configuration_page.document(), "stale: run `make docs`"


def test_the_generator_prints_its_document(capsys: pytest.CaptureFixture[str]) -> None:
    configuration_page.main()
    assert capsys.readouterr().out == configuration_page.document()


def test_every_key_has_a_row() -> None:
    rows = documented_keys()
    assert {key for key in all_keys() if not any(stands_for(row, key) for row in rows)} == set()


def test_every_row_is_a_key() -> None:
    keys = all_keys()
    assert {row for row in documented_keys() if not any(stands_for(row, key) for key in keys)} == set()


@pytest.mark.parametrize("key", sorted(EXECUTION_KEYS))
def test_execution_keys_are_marked(key: str) -> None:
    assert f"| `{key}` †" in configuration_page.document()


@pytest.mark.parametrize(
    ("key", "cells"),
    [
        ("seed", ["integer", "`0`", "≥ 0, < 9007199254740992"]),
        ("constraints.mhe.s", ["number", "`0.0`", "≥ 0, ≤ 16"]),
        ("constraints.mhe.distance", ["choice", "`euclidean`", "`euclidean`, `geodesic`"]),
        ("evaluation.num_samples", ["integer", "unset", "≥ 1"]),
        ("evaluation.weights` †", ["path", "unset", ""]),
        ("generator.width", ["number", "`1.0`", "> 0"]),
        ("data.flip", ["boolean", "`false`", ""]),
        ("training.device` †", ["text", "`auto`", r"`^(auto\|cpu\|cuda(:\d+)?)$`"]),
    ],
)
def test_a_row_gives_type_default_and_range(key: str, cells: list[str]) -> None:
    lines = configuration_page.document().splitlines()
    row = next(line for line in lines if line.startswith(f"| `{key.removesuffix('`')}"))
    assert [cell.strip() for cell in re.split(r"(?<!\\)\|", row)][2:5] == cells


def test_every_table_row_has_as_many_cells_as_its_headings() -> None:
    tables = re.findall(r"(?:^\|.*\n)+", configuration_page.document(), flags=re.MULTILINE)
    assert len(tables) > 10
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table


@pytest.mark.parametrize("path", PRESET_FILES, ids=lambda path: path.stem)
def test_every_preset_is_a_configuration_that_begins_with_what_it_is(path: Path) -> None:
    document = load_document(path)
    overrides = {"data": {"root": "/images"}} if document["data"]["name"] == "image_folder" else {}
    assert isinstance(compose(document, overrides=overrides), RunConfig)
    assert path.read_text(encoding="utf-8").startswith("# ")
    assert f"[{path.name}]({path.name})" in text_of("configs/README.md")


@pytest.mark.parametrize("path", PRESET_FILES, ids=lambda path: path.stem)
def test_a_preset_leaves_method_and_seed_to_the_user(path: Path) -> None:
    assert {"variant", "seed", "constraints"} & set(load_document(path)) == set()


def test_the_package_finds_these_presets() -> None:
    assert sorted(path.name for path in PRESETS.glob("*.toml")) == [path.name for path in PRESET_FILES]


@looped("name", VARIANTS)
def test_every_variant_is_documented(name: str) -> None:
    assert f"`{name}`" in text_of("README.md", "configs/README.md")


@looped("command", list(commands(app)))
def test_every_command_is_documented(command: str) -> None:
    assert command in text_of("README.md", "configs/README.md")


@pytest.mark.parametrize("name", ["README.md", "configs/README.md"])
def test_documents_name_only_commands_that_exist(name: str) -> None:
    known = set(commands(app)) | {"gan-mhe scorer", "gan-mhe keys"}
    used = re.findall(r"(?:^|`)gan-mhe ([a-z]+)", text_of(name), flags=re.MULTILINE)
    assert {f"gan-mhe {command}" for command in used} - known == set()


def test_the_commands_are_those_that_others_rely_on() -> None:
    assert set(commands(app)) >= {
        f"gan-mhe {name}" for name in ("train", "sample", "score", "sweep", "compare", "demo")
    }
