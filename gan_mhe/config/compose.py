"""Composes configurations from files, variants, seeds and overrides; the later of these wins. Loads no torch.

A variant that is named outside the file replaces the file's constraints, so that a `spectral_norm` run of a file
written for `mhe` keeps no energy term.
"""

import itertools
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gan_mhe.config import documents
from gan_mhe.config.documents import merge, unflatten
from gan_mhe.config.fields import is_text, path_keys
from gan_mhe.config.messages import explain
from gan_mhe.config.run_config import RunConfig
from gan_mhe.errors import ConfigError, nearest
from gan_mhe.variants import VARIANTS


def parse(document: Mapping[str, Any]) -> RunConfig:
    """The checked configuration of a document written by a user; its variant is filled in beneath its keys.

    ConfigError lists every wrong key with the expected and the given value.
    """
    with _explained():
        return RunConfig.model_validate(dict(document))


def parse_stored(document: Mapping[str, Any]) -> RunConfig:
    """The checked configuration of a stored document, as `RunConfig.stored`; errors as `parse`."""
    with _explained():
        return RunConfig.stored(dict(document))


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        raise ConfigError("\n".join(explain(problem) for problem in error.errors())) from error


def compose(
    document: Mapping[str, Any],
    *,
    variant: str | None = None,
    seed: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    stored: bool = False,
) -> RunConfig:
    """The configuration of a document with a variant, a seed and overrides (nested tables) applied, in this order.

    A variant among the overrides wins over `variant`. stored: the document is a stored configuration, as for
    `parse_stored`. ConfigError for an unknown variant, and as `parse`.
    """
    composed = dict(document)
    variant = (overrides or {}).get("variant", variant)
    if variant is not None:
        if not isinstance(variant, str) or variant not in VARIANTS:
            raise ConfigError(f"unknown variant {variant!r}{nearest(str(variant), VARIANTS)}")
        composed = {**composed, "constraints": {}, **VARIANTS[variant].patch, "variant": variant}
    if seed is not None:
        composed["seed"] = seed
    return (parse_stored if stored else parse)(merge(composed, overrides or {}))


def expand(
    document: Mapping[str, Any],
    *,
    variants: Sequence[str],
    seeds: Sequence[int],
    overrides: Mapping[str, Any] | None = None,
) -> list[RunConfig]:
    """Every variant with every seed, in the order of the seeds: a sweep that is cut short has complete seeds."""
    return [
        compose(document, variant=variant, seed=seed, overrides=overrides)
        for seed, variant in itertools.product(seeds, variants)
    ]


def find_local(name: str, folder: Path = Path()) -> dict[str, Any]:
    """What `documents.find_document` finds, for a run on this machine: paths are relative to the file that has them."""
    path = documents.find_file(name, folder)
    return anchored(documents.load_document(path), path.parent)


def anchored(document: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The document with every path absolute: `~` is expanded, and a relative path begins at `folder`.

    ConfigError names the key of a path whose home folder is not known.
    """
    flat = documents.flatten(document)
    paths = {key: _absolute(key, flat[key], folder) for key in path_keys() if isinstance(flat.get(key), str)}
    return merge(document, unflatten(paths))


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The same configuration with its paths relative to the working directory made absolute, to be stored."""
    return RunConfig.stored(anchored(config.document(), Path()))


def _absolute(key: str, path: str, folder: Path) -> str:
    try:
        return str((folder / Path(path).expanduser()).absolute())
    except RuntimeError:
        raise ConfigError(f"{key}: expected a path, got {path!r}, a home folder that is not known") from None


def parse_local_overrides(assignments: Iterable[str]) -> dict[str, Any]:
    """The tables of `parse_overrides`, for a run on this machine: paths are relative to the working directory."""
    return anchored(parse_overrides(assignments), Path())


def parse_overrides(assignments: Iterable[str]) -> dict[str, Any]:
    """Parse `["training.steps=300"]` into nested tables."""
    tables: dict[str, Any] = {}
    for key, value in map(parse_assignment, assignments):
        tables = merge(tables, unflatten({key: value}))
    return tables


def parse_assignment(assignment: str) -> tuple[str, Any]:
    """Parse `"training.steps=300"` into key and value.

    The value of a key that holds text, a name or a path is that text as it is, unless it is a TOML string in quotation
    marks; so a folder may have the name 2024. Any other value is TOML, or text if it is not valid TOML.
    """
    key, equals, value = assignment.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {assignment!r}: expected key=value, such as training.steps=300")
    key, value = key.strip(), value.strip()
    parsed = _value(value)
    return key, value if is_text(key) and not isinstance(parsed, str) else parsed


def parse_seeds(text: str) -> list[int]:
    """Parse `"0,1,2"` into integers."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--seeds {text!r}: expected comma-separated integers such as 0,1,2") from None


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
