"""File downloads: immutable content is requested by hash and cached forever; single ranges are supported.

The framework's file response sets ETag and supports ranges, but never returns 304, returns several ranges at once, and
rejects a malformed Range header. RFC 9110 allows a server to ignore Range, which is cheaper than assembling ranges.
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
    """A 304 response if the client already has the representation `etag`, else None."""
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if etag in known or "*" in known:
        return Response(status_code=304, headers={"ETag": etag, **(headers or {})})
    return None


def content_etag(sha256: str) -> str:
    """The strong ETag of content with this hash."""
    return f'"sha256-{sha256}"'


def send_file(
    request: Request, path: Path, *, etag: str, media_type: str, filename: str, inline: bool = False, cache: str
) -> Response:
    """A response with the file or one range of it, or a 304.

    filename: suggested to browsers for saving. inline: whether a browser may display it. Raises NotFound if the file no
    longer exists, HTTPException 416 for a range beyond its end.
    """
    headers = {"Cache-Control": cache}
    unchanged = not_modified(request, etag, headers)
    if unchanged is not None:
        return unchanged
    try:
        status = path.stat()
    except FileNotFoundError:
        raise NotFound("the file no longer exists") from None
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
    """Whether the request has a Range to apply: a single, well-formed one for this version of the file."""
    found = _SINGLE_RANGE.fullmatch(headers.get("range", "").strip())
    if found is None or headers.get("if-range", etag) != etag:
        return False
    first, last, suffix = found.groups()
    if first and last and int(last) < int(first):
        return False
    beyond = int(suffix) == 0 if suffix else int(first) >= size
    if beyond:
        content_range = {"Content-Range": f"bytes */{size}"}
        raise HTTPException(416, f"expected a range within the {size} bytes of the file", content_range)
    return True


class _WholeFile(FileResponse):
    """A file response that ignores the Range header."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name, value) for name, value in scope["headers"] if name != b"range"]
        await super().__call__({**scope, "headers": headers}, receive, send)
