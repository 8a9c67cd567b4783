"""Exit codes, and arguments and options that several commands share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

FAILURE, USAGE, INTERRUPTED = 1, 2, 130

ConfigFile = Annotated[Path, typer.Argument(help="TOML file, or the name of a preset such as digits_cnn.")]
RunPath = Annotated[Path, typer.Argument(help="Run directory.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set one configuration key; repeatable.")
]
Jobs = Annotated[
    int | None,
    typer.Option(min=1, help="Runs at once, sharing the CPU cores. Default: one per core, or one on a GPU."),
]
Step = Annotated[int | None, typer.Option(help="Step of the checkpoint. Default: the newest.")]
Ema = Annotated[bool, typer.Option("--ema", help="Use the moving average of the generator.")]


class Format(StrEnum):
    """Output formats of a comparison."""

    table = "table"
    json = "json"
    csv = "csv"
    markdown = "markdown"
