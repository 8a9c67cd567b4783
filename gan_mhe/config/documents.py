"""Configurations as nested tables: loaded from TOML, merged and flattened."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gan_mhe.errors import ConfigError


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
    """A TOML file as nested tables. ConfigError if it is missing or is not valid TOML."""
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"cannot read configuration {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def find_document(name: str, folder: Path = Path()) -> dict[str, Any]:
    """The TOML file at `name` relative to `folder`, or else the preset of that name. ConfigError if neither exists."""
    path = folder / name
    if path.exists():
        return load_document(path)
    presets = {preset.stem: preset for preset in PRESETS.glob("*.toml")}
    if name not in presets:
        raise ConfigError(
            f"cannot read configuration {path}: there is no such file and no such preset; "
            f"presets: {', '.join(sorted(presets))}"
        )
    return load_document(presets[name])
