"""What the framework would pass over in silence: unknown or repeated query parameters, repeated keys of a body, and
encodings other than UTF-8.
"""

import json
import reprlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

from fastapi import params
from fastapi.dependencies.utils import get_flat_params
from fastapi.requests import Request
from fastapi.routing import APIRoute

from gan_mhe.errors import nearest
from server.errors import FieldError, InvalidRequest, pointer


async def refuse_what_is_not_read(request: Request) -> None:
    """Check a request, as a dependency of every route.

    Raises InvalidRequest, which names the query parameters that the route does not have or that are given more than
    once without being lists, a body in UTF-16 or UTF-32, and the keys that an object in the body has more than once.
    """
    route = request.scope["route"]
    problems = list(_query_errors(request, route))
    if route.body_field is not None:
        problems += _body_errors(await request.body())
    if problems:
        raise InvalidRequest(*problems)


def _query_errors(request: Request, route: APIRoute) -> Iterator[FieldError]:
    given = Counter(name for name, _ in request.query_params.multi_items())
    known = _query_parameters(route) if given else {}
    for name, count in given.items():
        where = pointer("query", name)
        if name not in known:
            hint = nearest(name, known) if known else "; expected none"
            yield FieldError(where, "unknown_parameter", f"query: unknown parameter {reprlib.repr(name)}{hint}")
        elif count > 1 and not known[name]:
            yield FieldError(where, "repeated_parameter", f"query.{name}: expected it once, got it {count} times")


def _query_parameters(route: APIRoute) -> Mapping[str, bool]:
    """The names of a route's query parameters, and whether they may be repeated."""
    fields = (field for field in get_flat_params(route.dependant) if isinstance(field.field_info, params.Query))
    return {field.alias: _is_list(field.field_info.annotation) for field in fields}


def _is_list(annotation: Any) -> bool:
    return any(get_origin(kind) is list for kind in (annotation, *get_args(annotation)))


def _body_errors(body: bytes) -> list[FieldError]:
    if b"\0" in body:  # JSON in UTF-8 has none; the parser would guess UTF-16 or UTF-32
        return [FieldError("", "json_invalid", "body: expected JSON encoded in UTF-8, got zero bytes, as in UTF-16")]
    repeated: list[str] = []

    def note(pairs: list[tuple[str, Any]]) -> None:
        repeated.extend(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)

    try:
        json.loads(body, object_pairs_hook=note)
    except (ValueError, RecursionError):
        return []  # the framework reports it
    names = dict.fromkeys(repeated)  # one error a name, because a body may have thousands of objects
    return [FieldError("", "repeated_key", f"body: expected the key {reprlib.repr(name)} once") for name in names]
