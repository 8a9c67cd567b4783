"""Exit codes, and arguments and options that several commands share."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from gan_mhe.errors import ConfigError
from gan_mhe.streams import reason_of

FAILURE, USAGE, INTERRUPTED = 1, 2, 130


def possible(parameter: typer.CallbackParam, path: Path | None) -> Path | None:
    """Callback of options and arguments that are paths: ConfigError, with its name, if no file can be there."""
    if path is not None:
        _status(parameter, path)
    return path


def folder(parameter: typer.CallbackParam, path: Path | None) -> Path | None:
    """Callback of options that name a folder to write: as `possible`, and ConfigError if it cannot be made there."""
    if path is None:
        return path
    ancestor = next(place for place in (path, *path.parents) if _status(parameter, place) or place == place.parent)
    if not ancestor.is_dir():
        raise ConfigError(f"{parameter.opts[0]} {path}: expected a folder, but {ancestor} is a file")
    if not os.access(ancestor, os.W_OK | os.X_OK):
        raise ConfigError(f"{parameter.opts[0]} {path}: expected a folder that can be written; {ancestor} cannot")
    return path


def _status(parameter: typer.CallbackParam, path: Path) -> os.stat_result | None:
    """The status of a file, None if there is none. ConfigError if the system refuses the path itself."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # ValueError: a NUL
        raise ConfigError(f"{parameter.opts[0]} {path}: {reason_of(error)}") from error


ConfigFile = Annotated[str, typer.Argument(help="Name of a preset such as digits_cnn, or a TOML file.")]
RunPath = Annotated[Path, typer.Argument(help="Run directory.", callback=possible)]
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
    latex = "latex"
