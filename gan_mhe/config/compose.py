"""From files, names and overrides to configurations: file < variant < seed < overrides.

Needs no torch, so that a server can use it. A variant named from outside owns the constraints: those of the file
are dropped, so that a `spectral_norm` run of a file written for `mhe` has no energy term left over.
"""

import itertools
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from gan_mhe.config.documents import merge, unflatten
from gan_mhe.config.messages import explain
from gan_mhe.config.run_config import RunConfig
from gan_mhe.errors import ConfigError, nearest
from gan_mhe.variants import VARIANTS


def parse(document: Mapping[str, Any]) -> RunConfig:
    """A checked configuration. ConfigError lists every wrong key with what was expected and what came."""
    try:
        return RunConfig.model_validate(dict(document))
    except ValidationError as error:
        raise ConfigError("\n".join(explain(problem) for problem in error.errors())) from error


def compose(
    document: Mapping[str, Any],
    *,
    variant: str | None = None,
    seed: int | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> RunConfig:
    """A document with a variant, a seed and overrides (nested tables) laid over it, in this order.

    A variant among the overrides takes the place of `variant`.
    """
    composed = dict(document)
    variant = (overrides or {}).get("variant", variant)
    if variant is not None:
        if not isinstance(variant, str) or variant not in VARIANTS:
            raise ConfigError(f"unknown variant {variant!r}{nearest(str(variant), VARIANTS)}")
        composed = {**composed, "constraints": {}, **VARIANTS[variant].patch, "variant": variant}
    if seed is not None:
        composed["seed"] = seed
    return parse(merge(composed, overrides or {}))


def expand(
    document: Mapping[str, Any],
    *,
    variants: Sequence[str],
    seeds: Sequence[int],
    overrides: Mapping[str, Any] | None = None,
) -> list[RunConfig]:
    """Every variant with every seed, seed by seed, so that a sweep cut short has whole seeds of all variants."""
    return [
        compose(document, variant=variant, seed=seed, overrides=overrides)
        for seed, variant in itertools.product(seeds, variants)
    ]


def parse_overrides(assignments: Iterable[str]) -> dict[str, Any]:
    """`["training.steps=300"]` as nested tables."""
    tables: dict[str, Any] = {}
    for key, value in map(parse_assignment, assignments):
        tables = merge(tables, unflatten({key: value}))
    return tables


def parse_assignment(assignment: str) -> tuple[str, Any]:
    """`"training.steps=300"` as key and value; a value is TOML where it can be, else text."""
    key, equals, value = assignment.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {assignment!r}: expected key=value, such as training.steps=300")
    return key.strip(), _value(value.strip())


def parse_seeds(text: str) -> list[int]:
    """`"0,1,2"` as integers."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--seeds {text!r}: expected integers with commas between, such as 0,1,2") from None


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
