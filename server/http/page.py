"""The web page at `/`: static files, read once, under an address that contains the hash of their content.

The page needs no key: it holds no data. It asks the API as any client does, with the key of its session cookie.
"""

import gzip
import hashlib
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter, FastAPI
from fastapi.requests import Request
from fastapi.responses import Response

from server.http.downloads import IMMUTABLE, REVALIDATE, not_modified

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
_INDEX = "index.html"
_PLACE = "ASSETS"  # in the index: where the address of the other files belongs
_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".LICENSE": "text/plain; charset=utf-8",
}
_TAG_LENGTH = 16


@dataclass(frozen=True)
class _File:
    """A file as it is sent."""

    content: bytes
    compressed: bytes
    media_type: str

    @classmethod
    def of(cls, name: str, content: bytes) -> "_File":
        media_type = next(kind for ending, kind in _MEDIA_TYPES.items() if name.endswith(ending))
        return cls(content, gzip.compress(content, mtime=0), media_type)

    def response(self, request: Request, headers: dict[str, str]) -> Response:
        sent = {**_HEADERS, **headers, "Vary": "Accept-Encoding"}
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(self.compressed, media_type=self.media_type, headers={**sent, "Content-Encoding": "gzip"})
        return Response(self.content, media_type=self.media_type, headers=sent)


def install(app: FastAPI) -> None:
    """Add the page and its files to the application."""
    contents = _contents(files("server") / "page")
    tag = _tag(contents)
    index = contents.pop(_INDEX).replace(_PLACE.encode(), f"ui/{tag}".encode())
    router = APIRouter(include_in_schema=False)
    _add_index(router, _File.of(_INDEX, index))
    for name, content in contents.items():
        _add_asset(router, f"/ui/{tag}/{name}", _File.of(name, content))
    app.include_router(router)


def _contents(folder: Traversable, prefix: str = "") -> dict[str, bytes]:
    """All files below a folder by their relative names, in order."""
    found: dict[str, bytes] = {}
    for entry in sorted(folder.iterdir(), key=lambda each: each.name):
        if entry.is_dir():
            found |= _contents(entry, f"{prefix}{entry.name}/")
        else:
            found[f"{prefix}{entry.name}"] = entry.read_bytes()
    return found


def _tag(contents: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, content in contents.items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:_TAG_LENGTH]


def _add_index(router: APIRouter, index: _File) -> None:
    etag = f'"{hashlib.sha256(index.content).hexdigest()[:_TAG_LENGTH]}"'
    headers = {"ETag": etag, "Cache-Control": REVALIDATE}

    @router.get("/", name="page")
    def page(request: Request) -> Response:
        # A browser takes the policy of a 304 in place of the one that it has kept with the page.
        return not_modified(request, etag, _HEADERS | headers) or index.response(request, headers)


def _add_asset(router: APIRouter, path: str, asset: _File) -> None:
    @router.get(path, name=path)
    def send(request: Request) -> Response:
        return asset.response(request, {"Cache-Control": IMMUTABLE})
