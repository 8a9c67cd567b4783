"""Configurations as nested tables: loaded from TOML, merged and flattened."""

import codecs
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gan_mhe.errors import ConfigError
from gan_mhe.streams import reason_of


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` updated with the keys of `over`, table by table."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        both_tables = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(below, value) if both_tables else value  # type: ignore[arg-type]
    return merged


def flatten(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one level of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `flatten`: dotted keys as nested tables, at every level; a later key wins."""
    tables: dict[str, Any] = {}
    for key, value in flat.items():
        nested: Any = unflatten(value) if isinstance(value, Mapping) else value
        for part in reversed(key.split(".")):
            nested = {part: nested}
        tables = merge(tables, nested)
    return tables


PRESETS = Path(__file__).resolve().parents[1] / "presets"


def load_document(path: Path) -> dict[str, Any]:
    """A TOML file in UTF-8, with or without a byte order mark, as nested tables.

    ConfigError if it cannot be read, is in another encoding, or is not valid TOML.
    """
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ConfigError(f"cannot read configuration {path}: {reason_of(error)}") from error
    try:
        return tomllib.loads(_text(content))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: expected text in UTF-8, got {error.reason}") from error
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, nesting without end
        raise ConfigError(f"{path} is no configuration: expected numbers and nesting of ordinary size") from error


def _text(content: bytes) -> str:
    """Decode UTF-8. UnicodeDecodeError, whose reason is meant for people, for another encoding."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in content:
        raise UnicodeDecodeError("utf-8", content, 0, 1, "UTF-16 or binary data; save the file as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        error.reason = f"byte 0x{content[error.start]:02x} in line {line}"
        raise


def find_document(name: str, folder: Path = Path()) -> dict[str, Any]:
    """The document of the preset `name`, or else of the TOML file. ConfigError as of `find_file` and `load_document`.

    folder: what the file's path is relative to.
    """
    return load_document(find_file(name, folder))


def find_file(name: str, folder: Path = Path()) -> Path:
    """The file of the preset `name`, or else the file at `name` relative to `folder`. ConfigError if neither exists.

    A file or folder of a preset's name does not hide it: its path is `./NAME`.
    """
    presets = {preset.stem: preset for preset in PRESETS.glob("*.toml")}
    if name in presets:
        return presets[name]
    path = folder / name
    if not os.path.exists(path):
        raise ConfigError(
            f"cannot read configuration {path}: there is no such file and no such preset; "
            f"presets: {', '.join(sorted(presets))}"
        )
    return path
