"""Composes configurations from files, variants, seeds and overrides; the later of these wins. Loads no torch.

A variant that is named outside the file replaces the file's constraints, so that a `spectral_norm` run of a file
written for `mhe` keeps no energy term.
"""

import itertools
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError

from gan_mhe.config.documents import merge, unflatten
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


def parse_overrides(assignments: Iterable[str]) -> dict[str, Any]:
    """Parse `["training.steps=300"]` into nested tables."""
    tables: dict[str, Any] = {}
    for key, value in map(parse_assignment, assignments):
        tables = merge(tables, unflatten({key: value}))
    return tables


def parse_assignment(assignment: str) -> tuple[str, Any]:
    """Parse `"training.steps=300"` into key and value. A value that is not valid TOML is text."""
    key, equals, value = assignment.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {assignment!r}: expected key=value, such as training.steps=300")
    return key.strip(), _value(value.strip())


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
