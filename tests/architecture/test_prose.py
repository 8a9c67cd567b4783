"""Source and documentation speak plainly: no idioms to decode, no docstring that begins with a preposition."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

IDIOMS = ("not to be had", "at hand", "taken up", "anew", "told", "without a word")

PREPOSITIONS = frozenset(
    "about above according across after against along among around as at before behind below beneath beside besides "
    "between beyond by despite during except for from in inside into like near of off on onto outside over per since "
    "through throughout to toward towards under until upon via with within without".split()
)

# A line break inside an idiom may bring a comment sign, a quotation mark or indentation with it.
BETWEEN_WORDS = r'[\s#>*"]+'


def checked_files() -> list[Path]:
    """Python, Markdown and TOML that people read. Tests and the changelog of past versions are left out."""
    patterns = (
        *("README.md", "ARCHITECTURE.md", "docs/**/*.md", "configs/**/*.md", "configs/**/*.toml"),
        *(f"{folder}/**/*.{kind}" for folder in ("gan_mhe", "server", "tools", "benchmarks") for kind in ("py", "md")),
    )
    return sorted({path.resolve() for pattern in patterns for path in ROOT.glob(pattern)})


def idioms(text: str) -> Iterator[tuple[int, str]]:
    """Line number and text of each idiom."""
    for idiom in IDIOMS:
        pattern = r"\b" + BETWEEN_WORDS.join(idiom.split()) + r"\b"
        for found in re.finditer(pattern, text, flags=re.IGNORECASE):
            yield text.count("\n", 0, found.start()) + 1, f"says {idiom!r}"


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Line number and text of the docstrings of public modules, classes, functions and fields."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if getattr(node, "name", "").startswith("_"):
            continue
        fields = isinstance(node, ast.Module | ast.ClassDef)  # a string below an assignment documents it
        for statement in node.body if fields else node.body[:1]:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                if isinstance(statement.value.value, str):
                    yield statement.lineno, statement.value.value


def prepositions(source: str) -> Iterator[tuple[int, str]]:
    """Line number and first word of each docstring that begins with a preposition."""
    for line, text in docstrings(source):
        first = (text.split() or [""])[0].rstrip(",:;")
        if first.lower() in PREPOSITIONS:
            yield line, f"docstring begins with {first!r}"


def findings(path: Path) -> list[str]:
    """What is to be rewritten in a file, each as `file:line: what`."""
    text = path.read_text(encoding="utf-8")
    found = [*idioms(text), *(prepositions(text) if path.suffix == ".py" else [])]
    name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    return [f"{name}:{line}: {what}" for line, what in sorted(found)]


def test_source_and_documentation_speak_plainly() -> None:
    found = [finding for path in checked_files() for finding in findings(path)]
    assert not found, "\n".join(["", *found])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('"""Of a run."""\n', ["1: docstring begins with 'Of'"]),
        ('"""A run."""\nLIMIT = 1\n"""In seconds."""\n', ["3: docstring begins with 'In'"]),
        ('def run():\n    """From, then to."""\n', ["2: docstring begins with 'From'"]),
        ('def _run():\n    """Of one step."""\n', []),
        ('"""Asynchronous, for all."""\n', []),
        ("# What is at\n# hand.\n", ["1: says 'at hand'"]),
        ("x = 'It was Told anew.'\n", ["1: says 'anew'", "1: says 'told'"]),
        ("from_hand = retold\n", []),
    ],
)
def test_the_lint_names_file_and_line(tmp_path: Path, source: str, expected: list[str]) -> None:
    path = tmp_path / "module.py"
    path.write_text(source)
    assert findings(path) == [f"{path}:{finding}" for finding in expected]


def test_the_lint_looks_at_every_folder_of_source_and_documentation() -> None:
    checked = {path.relative_to(ROOT).parts[0] for path in checked_files()}
    assert checked == {
        *("README.md", "ARCHITECTURE.md", "docs", "configs"),
        *("gan_mhe", "server", "tools", "benchmarks"),
    }
