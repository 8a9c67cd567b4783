"""A page of a list that only grows at its end."""

from collections.abc import Callable, Sequence
from typing import Generic, Literal, Self, TypeVar

from pydantic import BaseModel, Field

Item = TypeVar("Item")


class Slice(BaseModel, Generic[Item]):
    """A page of a list."""

    object: Literal["list"] = "list"
    data: list[Item]
    has_more: bool
    next_after: int | None = Field(description="The `after` of the next page; null on the last page.")

    @classmethod
    def of(cls, items: Sequence[Item], limit: int, number: Callable[[Item], int]) -> Self:
        """A page of the first `limit` items; `items` has one more if another page follows."""
        more = len(items) > limit
        data = list(items[:limit])
        return cls(data=data, has_more=more, next_after=number(data[-1]) if more else None)
