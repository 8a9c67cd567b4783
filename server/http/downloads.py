"""File downloads: immutable content is requested by hash and cached forever; single ranges are supported.

The framework's file response sets ETag and supports ranges, but never returns 304, returns several ranges at once, and
rejects a malformed Range header. RFC 9110 allows a server to ignore Range, which is cheaper than assembling ranges.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from fastapi.requests import Request
from fastapi.responses import FileResponse, Response
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from server.errors import NotFound

IMMUTABLE = "private, max-age=31536000, immutable"
REVALIDATE = "private, no-cache"
SUFFIXES = {"image/png": "png", "image/webp": "webp", "application/zip": "zip", "application/x-npz": "npz"}
"""Suffixes of the names of image files, by media type."""

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
    request: Request,
    path: Path,
    *,
    etag: str,
    media_type: str,
    filename: str,
    inline: bool = False,
    cache: str,
    earlier_etag: str | None = None,
) -> Response:
    """A response with the file or one range of it, or a 304.

    filename: suggested to browsers for saving. inline: whether a browser may display it. earlier_etag: what the file
    had while it was written, by which a download of that time goes on. Raises NotFound if the file no longer exists,
    HTTPException 416 for a range beyond its end.
    """
    headers = {"Cache-Control": cache}
    unchanged = not_modified(request, etag, headers)
    if unchanged is not None:
        return unchanged
    try:
        status = path.stat()
    except FileNotFoundError:
        raise NotFound("the file no longer exists") from None
    response = _Range if _range_holds(request.headers, (etag, earlier_etag), status.st_size) else _WholeFile
    return response(
        path,
        headers={**headers, "ETag": etag},
        media_type=media_type,
        filename=filename,
        stat_result=status,
        content_disposition_type="inline" if inline else "attachment",
    )


def wanted_range(headers: Headers, etags: Collection[str | None]) -> tuple[str | None, str | None, str | None] | None:
    """First byte, last byte and length of the end that the Range asks for, each None or empty if not said.

    None without a Range to apply: a single, well-formed one for a version of the file with one of these ETags.
    """
    found = _SINGLE_RANGE.fullmatch(headers.get("range", "").strip())
    if found is None or ("if-range" in headers and headers["if-range"] not in etags):
        return None
    first, last, suffix = found.groups()
    return None if first and last and int(last) < int(first) else (first, last, suffix)


def _range_holds(headers: Headers, etags: Collection[str | None], size: int) -> bool:
    """Whether the request has a Range to apply."""
    wanted = wanted_range(headers, etags)
    if wanted is None:
        return False
    first, _, suffix = wanted
    beyond = int(suffix) == 0 if suffix else int(first or 0) >= size
    if beyond:
        content_range = {"Content-Range": f"bytes */{size}"}
        raise HTTPException(416, f"expected a range within the {size} bytes of the file", content_range)
    return True


class _Range(FileResponse):
    """A file response whose If-Range has been answered."""

    ignored = b"if-range"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name, value) for name, value in scope["headers"] if name != self.ignored]
        await super().__call__({**scope, "headers": headers}, receive, send)


class _WholeFile(_Range):
    """A file response that ignores the Range header."""

    ignored = b"range"
