"""The environments of a study's runs, which may have been made on several machines."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from gan_mhe.json_text import read_object
from gan_mhe.records.fields import Name, validated
from gan_mhe.records.run_dir import RunDir

_SHOWN_DIGITS = 12  # of a revision; data.json has all


class _Environment(BaseModel):
    """The fields that `made_with` names; a run records more."""

    model_config = ConfigDict(extra="allow")

    gan_mhe: Name | None = None
    python: Name | None = None
    packages: dict[Name, Name | None] = Field(default_factory=dict, max_length=100)
    source_revision: Name | None = None
    device: Name | None = None
    device_name: Name | None = None


def read_environment(run: RunDir) -> dict[str, Any]:
    """The environment that a run recorded, without its command, which contains paths; empty if none can be read."""
    try:
        document = read_object(run.environment)
        validated(_Environment.model_validate, document)
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in document.items() if key != "command"}


def distinct(environments: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The distinct values of every key, in the order of the runs; None if a run lacks the key. Tables likewise."""
    keys = dict.fromkeys(key for environment in environments for key in environment)
    return {key: _distinct([environment.get(key) for environment in environments]) for key in keys}


def _distinct(values: Sequence[Any]) -> Any:
    if any(isinstance(value, Mapping) for value in values):
        return distinct([value if isinstance(value, Mapping) else {} for value in values])
    return [value for index, value in enumerate(values) if value not in values[:index]]


def made_with(environments: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Lines about versions, source revision and device, with all values if runs differ; unknown ones are left out."""
    known = distinct(environments)
    named = {"gan-mhe": known.get("gan_mhe", ()), "Python": known.get("python", ()), **known.get("packages", {})}
    versions = [f"{name} {_values(values, 'versions')}" for name, values in named.items() if any(values)]
    if versions:
        yield f"made with: {', '.join(versions)}"
    revisions = known.get("source_revision", ())
    if any(revisions):
        yield f"source: {_values([value and _short(value) for value in revisions], 'revisions')}"
    devices = _distinct([_device(environment) for environment in environments])
    if any(devices):
        yield f"device: {_values(devices, 'devices', '; ')}"


def _values(values: Sequence[str | None], plural: str, between: str = ", ") -> str:
    """The value, or such as "2 versions (2.11.0, 2.15.0)"."""
    shown = [value or "unknown" for value in values]
    return shown[0] if len(shown) == 1 else f"{len(shown)} {plural} ({between.join(shown)})"


def _short(revision: str) -> str:
    """The first digits, with the `+` of a checkout that had changes."""
    return revision.rstrip("+")[:_SHOWN_DIGITS] + ("+" if revision.endswith("+") else "")


def _device(environment: Mapping[str, Any]) -> str:
    return ", ".join(filter(None, (environment.get("device"), environment.get("device_name"))))
