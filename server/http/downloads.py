"""Bytes over HTTP: what never changes is cached for ever, asked for by hash, and may be taken in parts.

The framework's file response sets ETag and ranges but does not answer 304, takes several ranges at once, and calls a
Range that it cannot read an error; RFC 9110 lets a server ignore that, and ignoring is cheaper than assembling.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from fastapi.requests import Request
from fastapi.responses import FileResponse, Response
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from server.errors import NotFound

IMMUTABLE = "private, max-age=31536000, immutable"
REVALIDATE = "private, no-cache"

_SINGLE_RANGE = re.compile(r"bytes=(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))")


def not_modified(request: Request, etag: str, headers: Mapping[str, str] | None = None) -> Response | None:
    """The 304 for a client that has the representation called `etag` already; None for any other."""
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if etag in known or "*" in known:
        return Response(status_code=304, headers={"ETag": etag, **(headers or {})})
    return None


def content_etag(sha256: str) -> str:
    """The strong ETag of bytes with this hash."""
    return f'"sha256-{sha256}"'


def send_file(
    request: Request, path: Path, *, etag: str, media_type: str, filename: str, inline: bool = False, cache: str
) -> Response:
    """The file, the one range of it that was asked for, or 304.

    filename: under which a browser saves it. inline: whether a browser may show it. Raises NotFound when the file is
    no longer there, HTTPException 416 for a range beyond its end.
    """
    headers = {"Cache-Control": cache}
    unchanged = not_modified(request, etag, headers)
    if unchanged is not None:
        return unchanged
    try:
        status = path.stat()
    except FileNotFoundError:
        raise NotFound("the file is no longer kept") from None
    response = FileResponse if _range_holds(request.headers, etag, status.st_size) else _WholeFile
    return response(
        path,
        headers={**headers, "ETag": etag},
        media_type=media_type,
        filename=filename,
        stat_result=status,
        content_disposition_type="inline" if inline else "attachment",
    )


def _range_holds(headers: Headers, etag: str, size: int) -> bool:
    """Whether there is a Range to go by: a single one, well-formed, of this very file."""
    found = _SINGLE_RANGE.fullmatch(headers.get("range", "").strip())
    if found is None or headers.get("if-range", etag) != etag:
        return False
    first, last, suffix = found.groups()
    if first and last and int(last) < int(first):
        return False
    beyond = int(suffix) == 0 if suffix else int(first) >= size
    if beyond:
        content_range = {"Content-Range": f"bytes */{size}"}
        raise HTTPException(416, f"the file has {size} bytes; expected a range within them", content_range)
    return True


class _WholeFile(FileResponse):
    """A file response that pays no attention to a Range header."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name, value) for name, value in scope["headers"] if name != b"range"]
        await super().__call__({**scope, "headers": headers}, receive, send)
