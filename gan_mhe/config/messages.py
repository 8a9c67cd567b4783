"""Error messages about configurations: the key, the expected value and the given one."""

from collections.abc import Mapping
from typing import Any

from gan_mhe.config.fields import fields_at
from gan_mhe.errors import nearest


def explain(problem: Mapping[str, Any]) -> str:
    """One of pydantic's validation errors as a sentence that starts with the key."""
    path = [str(part) for part in problem["loc"]]
    key = ".".join(path)
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key{nearest(path[-1], fields_at(path[:-1]))}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "path_type":  # pydantic names a Python class
        message = "Expected text"
    if problem["type"] in ("value_error", "too_few"):
        return f"{key}: {message}" if key else message
    return f"{key}: {message[0].lower()}{message[1:]}, but it is {problem['input']!r}"
