"""Pydantic's validation errors as field errors: where, what was expected, and what came."""

import reprlib
from collections.abc import Collection, Mapping
from typing import Any, get_args

from pydantic import BaseModel

from gan_mhe.errors import nearest
from server.errors import FieldError, pointer

# Errors whose messages include the value.
_COMPLETE = frozenset({"value_error", "missing", "too_short", "too_long"})
_UNREADABLE: Mapping[type[BaseException], str] = {
    RecursionError: "nested less deeply",
    UnicodeDecodeError: "encoded in UTF-8",
}


def field_error(problem: Mapping[str, Any], fields: Collection[str]) -> FieldError:
    """Convert one of pydantic's errors, with long values shortened. fields: the body's fields, for a suggestion."""
    where, *path = problem["loc"]
    if problem["type"] == "json_invalid":
        cause = problem["ctx"]["error"]
        return FieldError("", "json_invalid", f"body: expected JSON; error at character {path[0]}: {cause}")
    parts = [str(part) for part in (path if where == "body" else (where, *path))]
    return FieldError(pointer(*parts), problem["type"], f"{'.'.join(parts) or 'body'}: {_explain(problem, fields)}")


def _explain(problem: Mapping[str, Any], fields: Collection[str]) -> str:
    message = str(problem["msg"]).removeprefix("Value error, ")
    match problem["type"]:
        case "extra_forbidden":
            return f"unknown field{nearest(str(problem['loc'][-1]), fields)}"
        case "model_attributes_type":
            return f"expected a JSON object, got {reprlib.repr(problem['input'])}"
        case kind if kind in _COMPLETE:
            return message
    return f"{message[0].lower()}{message[1:]}, got {reprlib.repr(problem['input'])}"


def is_not_json(problem: Mapping[str, Any]) -> bool:
    """Whether the body was not parsed because of its Content-Type."""
    return problem["loc"] == ("body",) and isinstance(problem["input"], bytes)


def not_json(content_type: str | None) -> FieldError:
    """The error for a body with another Content-Type, or without one."""
    given = "none" if content_type is None else repr(content_type)
    return FieldError("", "not_json", f"body: expected Content-Type: application/json, got {given}")


def unreadable(cause: BaseException | None) -> FieldError:
    """The error for a body that the JSON parser rejects for a reason other than syntax."""
    expected = next((text for kind, text in _UNREADABLE.items() if isinstance(cause, kind)), "with shorter numbers")
    return FieldError("", "json_invalid", f"body: expected JSON {expected}")


def body_fields(route: Any) -> list[str]:
    """The fields of a route's body; empty if it has no body."""
    if route.body_field is None:
        return []
    annotation = route.body_field.field_info.annotation
    kinds = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
    models = [kind for kind in kinds if issubclass(kind, BaseModel)]
    return [field.alias or name for model in models for name, field in model.model_fields.items()]
