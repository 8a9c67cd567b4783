"""A page of any list."""

from collections.abc import Callable, Sequence
from typing import Generic, Literal, Self, TypeVar

from pydantic import BaseModel, Field

Item = TypeVar("Item")


class Slice(BaseModel, Generic[Item]):
    """Part of a list that only grows at its end."""

    object: Literal["list"] = "list"
    data: list[Item]
    has_more: bool
    next_after: int | None = Field(description="Ask with `after=` for what follows; null when nothing does yet.")

    @classmethod
    def of(cls, items: Sequence[Item], limit: int, number: Callable[[Item], int]) -> Self:
        """The first `limit` of the items that were found when asking for one more."""
        more = len(items) > limit
        data = list(items[:limit])
        return cls(data=data, has_more=more, next_after=number(data[-1]) if more else None)
