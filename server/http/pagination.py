"""Pagination by key: a cursor is a position in one particular list.

Cursors are signed, so that clients cannot depend on their contents, which may change.
"""

import base64
import binascii
import hmac
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar
from urllib.parse import parse_qsl, urlencode

from fastapi import Query
from fastapi.requests import Request
from pydantic import BaseModel, Field

from gan_mhe.files import atomic_write, canonical_json
from server.errors import FieldError, InvalidRequest

MAX_LIMIT = 200
DEFAULT_LIMIT = 50
_MAC_BYTES = 16

Item = TypeVar("Item")

Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Maximum number of items on the page.")]
CursorParameter = Annotated[
    str | None, Query(max_length=100, description="`next_cursor` of the previous page of the same list.")
]


class Page(BaseModel, Generic[Item]):
    """A page of a list."""

    object: Literal["list"] = "list"
    data: list[Item]
    has_more: bool
    next_cursor: str | None = Field(description="The `cursor` of the next page; null on the last page.")


class Cursors:
    """Creates and verifies cursors with the service's secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    def open(cls, path: Path) -> "Cursors":
        """Read the secret from a file; create it, readable by the owner only, if it does not exist."""
        try:
            secret = path.read_bytes()
        except FileNotFoundError:
            secret = secrets.token_bytes(32)
            before = os.umask(0o077)
            try:
                atomic_write(path, secret)
            finally:
                os.umask(before)
        return cls(secret)

    def encode(self, position: int, context: Sequence[object]) -> str:
        """A cursor after `position` in the list that `context` (JSON values) identifies."""
        number = position.to_bytes(8, "big")
        return base64.urlsafe_b64encode(number + self._mac(number, context)).decode().rstrip("=")

    def decode(self, cursor: str, context: Sequence[object]) -> int:
        """The position. Raises InvalidRequest if the cursor is invalid or belongs to another list."""
        try:
            content = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            content = b""
        number, mac = content[:8], content[8:]
        if not hmac.compare_digest(mac, self._mac(number, context)):
            message = f"cursor: expected the next_cursor of a page of the same list, got {cursor!r}"
            raise InvalidRequest(FieldError("/query/cursor", "unknown_cursor", message))
        return int.from_bytes(number, "big")

    def _mac(self, number: bytes, context: Sequence[object]) -> bytes:
        return hmac.digest(self._secret, number + canonical_json(list(context)), "sha256")[:_MAC_BYTES]


def next_link(request: Request, cursor: str) -> str:
    """The Link header of a page that is not the last: this request with the next cursor."""
    query = parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True)
    kept = [(name, value) for name, value in query if name != "cursor"]
    return f'<{request.scope["path"]}?{urlencode([*kept, ("cursor", cursor)])}>; rel="next"'
