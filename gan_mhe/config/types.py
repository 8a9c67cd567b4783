"""Reads type annotations."""

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin


def members(annotation: Any) -> Iterator[Any]:
    """The types that an annotation allows: those of a union, of the values of a Literal, of the items of a tuple."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from members(arguments[0])
    elif origin is Literal:
        yield from map(type, arguments)
    elif origin in (Union, UnionType, tuple):
        for argument in arguments:
            yield from members(argument)
    else:
        yield annotation
