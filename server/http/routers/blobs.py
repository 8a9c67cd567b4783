"""Pictures and files by the hash of what is in them."""

from typing import Annotated, Any

from fastapi import APIRouter, Path
from fastapi.requests import Request
from fastapi.responses import Response

from server.http.dependencies import ReadSamples, ServiceDep
from server.http.downloads import IMMUTABLE, content_etag, send_file
from server.store import artifacts

router = APIRouter(prefix="/v1", tags=["samples"])

_SUFFIXES = {"image/png": "png", "application/zip": "zip", "application/x-npz": "npz"}
_BYTES = {"content": {media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in _SUFFIXES}}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The bytes.", **_BYTES},
    206: {"description": "The range asked for.", **_BYTES},
    304: {"description": "Unchanged, as ever."},
}


@router.get("/blobs/{sha256}", response_class=Response, responses=_RESPONSES, summary="Get a file")
def get_blob(
    sha256: Annotated[str, Path(pattern="^[0-9a-f]{64}$")],
    request: Request,
    principal: ReadSamples,
    service: ServiceDep,
) -> Response:
    """A sample grid, or what a task has drawn. It never changes, so it may be kept for ever."""
    row = service.store.read(lambda connection: artifacts.blob(connection, sha256, principal.project))
    picture = row["media_type"] == "image/png"
    return send_file(
        request,
        artifacts.blob_path(service.settings, row),
        etag=content_etag(sha256),
        media_type=row["media_type"],
        filename=f"{sha256[:16]}.{_SUFFIXES[row['media_type']]}",
        inline=picture,
        cache=IMMUTABLE,
    )
