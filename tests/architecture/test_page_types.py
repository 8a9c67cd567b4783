"""The modules of the page agree with the types in their comments.

TypeScript is no Python package: TEST_TSC names its compiler, which `.ci/run` fetches; without it these tests look for
`tsc`, and are skipped if there is none.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT

VARIABLE = "TEST_TSC"
OPTIONS = (
    *("--noEmit", "--allowJs", "--checkJs", "--strict", "--noUnusedLocals", "--noUnusedParameters"),
    *("--target", "es2022", "--module", "es2022", "--moduleResolution", "bundler", "--lib", "es2023,dom,dom.iterable"),
)
# What the page may know of uPlot, which has types of its own only for another build of it.
UPLOT = "export default class uPlot { [name: string]: any; constructor(...given: any[]); static [name: string]: any }\n"


@pytest.fixture
def compiler() -> str:
    found = os.environ.get(VARIABLE) or shutil.which("tsc")
    if found is None:
        pytest.skip(f"{VARIABLE} names no TypeScript compiler, and there is no tsc")
    return found


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A copy of the page's modules."""
    copy = tmp_path / "page"
    shutil.copytree(ROOT / "server" / "page", copy)
    (copy / "vendor" / "uPlot.esm.d.ts").write_text(UPLOT)
    return copy


def check(compiler: str, page: Path) -> list[str]:
    """What the compiler complains of."""
    command = [compiler, *OPTIONS, str(page / "main.js")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=page)
    return done.stdout.splitlines() + done.stderr.splitlines()


def test_the_page_has_no_type_error(compiler: str, page: Path) -> None:
    assert check(compiler, page) == []


def test_a_wrong_argument_would_be_found(compiler: str, page: Path) -> None:
    with (page / "main.js").open("a") as file:
        file.write("\nconnected(4);\n")
    assert any("TS2345" in line for line in check(compiler, page))
