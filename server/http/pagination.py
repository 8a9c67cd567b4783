"""Pages by key: a cursor says behind which row the next page begins, and is good for one list only.

Cursors are signed, so that the sort order behind them can change without anybody having built on it.
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

Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Items on a page.")]
CursorParameter = Annotated[
    str | None, Query(max_length=100, description="`next_cursor` of the page before; good for the same list only.")
]


class Page(BaseModel, Generic[Item]):
    """Part of a list."""

    object: Literal["list"] = "list"
    data: list[Item]
    has_more: bool
    next_cursor: str | None = Field(description="Ask with `cursor=` for what follows; null on the last page.")


class Cursors:
    """Makes and reads cursors with the service's own secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    def open(cls, path: Path) -> "Cursors":
        """With the secret in a file, made for the owner's eyes only when it is not there yet."""
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
        """A cursor behind `position`, for the list that `context` describes: JSON values, equal for equal lists."""
        number = position.to_bytes(8, "big")
        return base64.urlsafe_b64encode(number + self._mac(number, context)).decode().rstrip("=")

    def decode(self, cursor: str, context: Sequence[object]) -> int:
        """The position. InvalidRequest when the cursor is not ours or is another list's."""
        try:
            content = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            content = b""
        number, mac = content[:8], content[8:]
        if not hmac.compare_digest(mac, self._mac(number, context)):
            message = f"cursor: expected the next_cursor of a page of this very list, got {cursor!r}"
            raise InvalidRequest(FieldError("/query/cursor", "unknown_cursor", message))
        return int.from_bytes(number, "big")

    def _mac(self, number: bytes, context: Sequence[object]) -> bytes:
        return hmac.digest(self._secret, number + canonical_json(list(context)), "sha256")[:_MAC_BYTES]


def next_link(request: Request, cursor: str) -> str:
    """The Link header of a page that is not the last: this request with the next cursor."""
    query = parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True)
    kept = [(name, value) for name, value in query if name != "cursor"]
    return f'<{request.scope["path"]}?{urlencode([*kept, ("cursor", cursor)])}>; rel="next"'
