"""The documentation says what the program does, because it is generated from it or compared with it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import typer
from pydantic import BaseModel

from gan_mhe.config.compose import compose
from gan_mhe.config.constraints import ConstraintsConfig
from gan_mhe.config.documents import PRESETS, flatten, load_document
from gan_mhe.config.run_config import EXECUTION_KEYS, RunConfig
from gan_mhe.variants import VARIANTS
from server.cli.app import app
from server.settings import Settings
from tests.support.looped import looped
from tests.support.paths import ROOT
from tools import configuration_page

PRESET_FILES = sorted((ROOT / "configs").glob("*.toml"))
CONFIGURATION_PAGE = ROOT / "docs" / "configuration.md"
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "configs" / "README.md", *sorted(ROOT.glob("docs/*.md"))]
DIGITS_STUDY = ROOT / "benchmarks" / "results" / "digits-variants-2026-11-21" / "data.json"
OTHER_VARIABLES = {"GAN_MHE_SERVER", "GAN_MHE_KEY", "GAN_MHE_CACHE"}  # of the client and of the library
SOURCE_FOLDERS = ("gan_mhe", "server", "configs", "docs", "tests", "tools", "benchmarks")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def text_of(*pages: Path) -> str:
    return "\n".join(page.read_text(encoding="utf-8") for page in pages)


def prose_of(page: Path) -> str:
    """The text without its code blocks."""
    return re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)


def links(page: Path) -> list[str]:
    """Targets of links and images, those of reference definitions included."""
    inline = re.findall(r"\]\(([^)\s]+)\)", prose_of(page))
    return inline + re.findall(r"^\[[^\]]+\]: (\S+)", prose_of(page), flags=re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose_of(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def is_broken(page: Path, link: str) -> bool:
    """Whether a relative link names a file or a heading that does not exist."""
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    return not target.exists() or bool(anchor and anchor not in anchors(target))


def named_paths(page: Path) -> set[str]:
    """Paths of this repository in backticks; `*` stands for any name."""
    return set(re.findall(rf"`((?:{'|'.join(SOURCE_FOLDERS)})/[\w./*-]*)`", text_of(page)))


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
    """The dotted keys of all leaves, from one document per section of the constraints, because some exclude others."""

    def optional(section: type[BaseModel]) -> dict[str, type[BaseModel]]:
        fields = section.model_fields.items()
        return {name: get_args(field.annotation)[0] for name, field in fields if field.default is None}

    sections = optional(ConstraintsConfig).items()
    documents = [{name: {key: {} for key in optional(section)}} for name, section in sections]
    found = {
        key
        for constraints in documents
        for key in flatten(RunConfig.model_validate({"constraints": constraints}).document())
    }
    return {key for key in found if not any(other.startswith(f"{key}.") for other in found)}


def stands_for(row: str, key: str) -> bool:
    return re.fullmatch(re.escape(row).replace(r"\*", r"\w+"), key) is not None


def test_the_configuration_page_is_what_the_generator_prints_now() -> None:
    assert text_of(CONFIGURATION_PAGE) == configuration_page.document(), "stale: run `make docs`"


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
    assert f"[{path.name}](../configs/{path.name})" in text_of(CONFIGURATION_PAGE)


@pytest.mark.parametrize("path", PRESET_FILES, ids=lambda path: path.stem)
def test_a_preset_leaves_method_and_seed_to_the_user(path: Path) -> None:
    assert {"variant", "seed", "constraints"} & set(load_document(path)) == set()


def test_the_package_finds_these_presets() -> None:
    assert sorted(path.name for path in PRESETS.glob("*.toml")) == [path.name for path in PRESET_FILES]


@looped("name", VARIANTS)
def test_every_variant_is_documented(name: str) -> None:
    assert f"`{name}`" in text_of(CONFIGURATION_PAGE)


@looped("command", list(commands(app)))
def test_every_command_is_documented(command: str) -> None:
    assert command in text_of(*PAGES)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_documents_name_only_commands_that_exist(page: Path) -> None:
    known = set(commands(app)) | {"gan-mhe scorer", "gan-mhe keys", "gan-mhe trash"}
    used = re.findall(r"(?:^|`)gan-mhe ([a-z]+)", text_of(page), flags=re.MULTILINE)
    assert {f"gan-mhe {command}" for command in used} - known == set()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_documents_name_only_settings_that_exist(page: Path) -> None:
    known = {f"GAN_MHE_{name.upper()}" for name in Settings.model_fields} | OTHER_VARIABLES
    assert set(re.findall(r"`(GAN_MHE_[A-Z_]+)`", text_of(page))) - known == set()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_documents_name_only_make_targets_that_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", text_of(ROOT / "Makefile"), flags=re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)`", text_of(page))) - targets == set()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    relative = [link for link in links(page) if "://" not in link]
    assert [link for link in relative if is_broken(page, link)] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_paths_in_backticks_exist(page: Path) -> None:
    assert [path for path in sorted(named_paths(page)) if not any(ROOT.glob(path.rstrip("/")))] == []


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "evidence.md"], ids=name_of)
def test_the_tables_of_the_digits_study_repeat_its_data(page: Path) -> None:
    rows = json.loads(text_of(DIGITS_STUDY))["comparison"]["rows"]
    scores = {f"{row['mean']:.2f} ({row['std']:.2f})" for row in rows}
    differences = {
        f"{row['difference']:+.2f} ({row['difference_low']:.2f} to {row['difference_high']:.2f})"
        for row in rows
        if row["difference"] is not None
    }
    assert set(re.findall(r"\| (\d\.\d\d \(\d\.\d\d\)) ", text_of(page))) == scores
    assert set(re.findall(r"\| ([+-]\d\.\d\d \([^)]*\)) ", text_of(page))) == differences


def test_the_index_lists_every_page() -> None:
    pages = {page.name for page in ROOT.glob("docs/*.md")} - {"index.md"}
    assert pages <= set(links(ROOT / "docs" / "index.md"))


def test_the_architecture_lists_every_folder_of_the_source() -> None:
    packages = {path.parent for folder in ("gan_mhe", "server") for path in ROOT.glob(f"{folder}/*/__init__.py")}
    missing = {name_of(path) for path in packages} - {
        path.rstrip("/") for path in named_paths(ROOT / "ARCHITECTURE.md")
    }
    assert missing == set()


def test_the_commands_are_those_that_others_rely_on() -> None:
    assert set(commands(app)) >= {
        f"gan-mhe {name}" for name in ("train", "sample", "score", "sweep", "compare", "demo")
    }
