"""The types of the configuration's fields, found by dotted key."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

from pydantic import BaseModel

from gan_mhe.config.run_config import RunConfig
from gan_mhe.config.types import members


def fields_at(path: Sequence[str]) -> list[str]:
    """The field names of the section at a path of keys."""
    section: type[BaseModel] = RunConfig
    for part in path:
        section = _section(section.model_fields[part].annotation)
    return list(section.model_fields)


def is_text(key: str) -> bool:
    """Whether the field at a dotted key holds text, a name or a path; False for an unknown key."""
    types = dict(_types(RunConfig)).get(key, set()) - {NoneType}
    return bool(types) and types <= {str, Path}


def path_keys() -> list[str]:
    """The dotted keys whose values are paths."""
    return [key for key, types in _types(RunConfig) if Path in types]


def _types(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, set[Any]]]:
    for name, field in section.model_fields.items():
        types = set(members(field.annotation))
        yield f"{prefix}{name}", types
        for inner in types:
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from _types(inner, f"{prefix}{name}.")


def _section(annotation: Any) -> type[BaseModel]:
    return next(kind for kind in members(annotation) if isinstance(kind, type) and issubclass(kind, BaseModel))
