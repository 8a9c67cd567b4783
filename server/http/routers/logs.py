"""Output of a job's processes."""

import codecs
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.requests import Request
from fastapi.responses import Response
from sqlalchemy import Connection

from server.http.dependencies import ReadJobs, ServiceDep
from server.http.schemas.logs import LogChunk
from server.queue import queue
from server.queue.states import TERMINAL

router = APIRouter(prefix="/v1", tags=["logs"])

_LONGEST_CHARACTER = 4  # bytes in UTF-8
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {}}, "description": "The part; with text, X-Next-Offset is the next `after`."}
}


@router.get("/jobs/{job_id}/logs", response_model=LogChunk, responses=_RESPONSES, summary="Read a job's log")
def read_logs(
    job_id: str,
    request: Request,
    principal: ReadJobs,
    service: ServiceDep,
    after: Annotated[int, Query(ge=0, le=2**53, description="First byte.")] = 0,
    limit: Annotated[int, Query(ge=_LONGEST_CHARACTER, le=2**20, description="Maximum number of bytes.")] = 64 * 1024,
) -> LogChunk | Response:
    """Read part of a job's or task's output; only the text with `Accept: text/plain`."""

    def find(connection: Connection) -> tuple[str, bool]:
        job = queue.get(connection, job_id, principal.project)
        return job["id"], job["state"] in TERMINAL

    # The state is read first: output read after the job has ended is complete.
    found, ended = service.store.read(find)
    chunk = _read(service.settings.job_dir(found) / "console.log", after, limit, ended)
    if "text/plain" not in request.headers.get("accept", ""):
        return chunk
    headers = {"X-Next-Offset": str(chunk.next_offset), "X-Complete": str(chunk.complete).lower()}
    return Response(chunk.text, headers=headers, media_type="text/plain")


def _read(path: Path, after: int, limit: int, ended: bool) -> LogChunk:
    """The part as text. An incomplete character at its end is left for the next part, unless no more output follows."""
    try:
        with open(path, "rb") as file:
            file.seek(after)
            content = file.read(limit)
            at_end = not file.read(1)
    except FileNotFoundError:
        content, at_end = b"", True
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(content, final=ended and at_end)
    waiting = len(decoder.getstate()[0])
    return LogChunk(offset=after, next_offset=after + len(content) - waiting, text=text, complete=ended and at_end)
