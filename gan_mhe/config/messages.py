"""Error messages about configurations: the key, the expected value and the given one."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel

from gan_mhe.config.run_config import RunConfig
from gan_mhe.errors import nearest


def explain(problem: Mapping[str, Any]) -> str:
    """One of pydantic's validation errors as a sentence that starts with the key."""
    path = [str(part) for part in problem["loc"]]
    key = ".".join(path)
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key{nearest(path[-1], _fields_at(path[:-1]))}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key}: {message[0].lower()}{message[1:]}, but it is {problem['input']!r}"


def _fields_at(path: Sequence[str]) -> list[str]:
    """The field names of the section at a path of keys."""
    section: type[BaseModel] = RunConfig
    for part in path:
        section = _section(section.model_fields[part].annotation)
    return list(section.model_fields)


def _section(annotation: Any) -> type[BaseModel]:
    candidates = (annotation, *get_args(annotation))
    return next(kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel))
