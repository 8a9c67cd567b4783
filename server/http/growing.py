"""The images of a task, sent while they are drawn: what is written already, and then what comes.

A file that its reader cannot get as a whole is never ended as if it were: the connection is broken off.
"""

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import BinaryIO

import structlog
from fastapi.concurrency import run_in_threadpool
from fastapi.requests import Request
from fastapi.responses import Response, StreamingResponse
from sqlalchemy import Connection
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from server.errors import NotFound, NotReady
from server.http.auth import Principal, holds
from server.http.downloads import REVALIDATE, SUFFIXES, content_etag, send_file, wanted_range
from server.queue import queue, tasks, worker_request
from server.queue.states import TERMINAL, State
from server.service import Service
from server.store import artifacts
from server.store.rows import AttemptRow, JobRow

_POLL_SECONDS = 0.25
_CHUNK_BYTES = 256 * 1024
_CLIENT_HAS_GONE = 499
_MEDIA_TYPES = {suffix: media_type for media_type, suffix in SUFFIXES.items()}

_log = structlog.get_logger("server.http")


@dataclass(frozen=True)
class Reader:
    """Who reads, from which service."""

    service: Service
    principal: Principal

    def find(self, task_id: str) -> tuple[JobRow, AttemptRow | None]:
        """The task and its newest attempt. Raises NotFound if there is none, or if it draws no images."""

        def work(connection: Connection) -> tuple[JobRow, AttemptRow | None]:
            task = tasks.get(connection, task_id, self.principal.project)
            if task["kind"] != tasks.SAMPLE:
                raise NotFound(f"{task_id} draws no images")
            return task, queue.newest_attempt(connection, task_id)

        return self.service.store.read(work)

    async def wait(self, task_id: str) -> bool:
        """Wait a moment, or less if the task ends; whether the caller may still read from a service that goes on."""
        await self.service.broker.wait_until_ended(task_id, _POLL_SECONDS)
        if self.service.broker.closing:
            return False
        return await run_in_threadpool(holds, self.service.store, self.principal, "samples:read")


async def content(request: Request, reader: Reader, task_id: str) -> Response:
    """The file of a task that draws images, or the part that the Range asks for.

    A Range that goes beyond what is written waits for the end of the task: before, the length of the whole is unknown,
    and a client that gets less than it asked for may take it for the rest. Raises NotFound if there is no such task,
    NotReady if it has ended without images, HTTPException 416 for a range beyond the end, and 503 for one that would
    have to wait while the service shuts down.
    """
    task, attempt = await run_in_threadpool(reader.find, task_id)
    while task["state"] not in TERMINAL:
        growth = Growth(reader, task, attempt)
        wanted = wanted_range(request.headers, (growth.etag,))
        if wanted is None:
            return _Growing(growth, growth.body())
        first, last, _ = wanted
        written = await run_in_threadpool(growth.written_bytes)
        if first and last and int(last) < written:
            return _Part(growth, int(first), int(last))
        growth.close()
        if not await reader.wait(task_id):
            raise HTTPException(503, "the service is shutting down; try again")
        if await request.is_disconnected():
            return Response(status_code=_CLIENT_HAS_GONE)
        task, attempt = await run_in_threadpool(reader.find, task_id)
    return await run_in_threadpool(_finished, request, reader, task, attempt)


def _finished(request: Request, reader: Reader, task: JobRow, attempt: AttemptRow | None) -> Response:
    result = task["result"]
    if task["state"] != State.SUCCEEDED or result is None:
        raise NotReady(f"{task['id']} is {task['state']}, without images: {task['message'] or task['reason']}")
    store, settings = reader.service.store, reader.service.settings
    row = store.read(lambda connection: artifacts.blob(connection, result["sha256"], task["project"]))
    return send_file(
        request,
        artifacts.content_path(settings, row),
        etag=content_etag(row["sha256"]),
        media_type=row["media_type"],
        filename=_filename(task),
        cache=REVALIDATE,
        earlier_etag=_attempt_etag(attempt),
    )


def _attempt_etag(attempt: AttemptRow | None) -> str | None:
    """The ETag of what an attempt draws: it names the file before its hash is known, since bytes are only appended."""
    return None if attempt is None else f'"{attempt["id"]}"'


def _filename(task: JobRow) -> str:
    return f"{task['id']}.{task['request']['format']}"


class _Broken(Exception):
    """The rest of the file will not come."""


class Growth:
    """The growing file of one attempt of a task, for one reader; of the next attempt if none runs yet."""

    def __init__(self, reader: Reader, task: JobRow, attempt: AttemptRow | None) -> None:
        self.task = task
        self._reader = reader
        self._attempt = attempt if attempt is not None and attempt["live"] else None
        self._file: BinaryIO | None = None
        self.etag = _attempt_etag(self._attempt)

    def close(self) -> None:
        """Close the file; may be called repeatedly."""
        if self._file is not None:
            self._file.close()

    def written_bytes(self) -> int:
        """How much of the file is written."""
        self._open_partial()
        return 0 if self._file is None else os.fstat(self._file.fileno()).st_size

    def read(self, position: int, most: int = _CHUNK_BYTES) -> bytes:
        """The bytes from a position, none at the end of what is written."""
        return b"" if self._file is None else os.pread(self._file.fileno(), most, position)

    async def body(self) -> AsyncIterator[bytes]:
        """The whole file.

        Raises _Broken if it does not become whole or the caller may no longer read it, NotFound if the task is deleted.
        """
        position = 0
        while True:
            task = await run_in_threadpool(self._look)
            while found := await run_in_threadpool(self.read, position):
                position += len(found)
                yield found
            if task["state"] == State.SUCCEEDED:
                if task["result"] is None or position != task["result"]["size_bytes"]:
                    raise _Broken(f"the file has {position} bytes")
                return
            if not await self._reader.wait(task["id"]):
                raise _Broken("the service shuts down, or the caller may no longer read")

    def _look(self) -> JobRow:
        """The task as it is. Opens the file when it is there; raises _Broken if the attempt draws no more."""
        task, newest = self._reader.find(self.task["id"])
        done = task["state"] == State.SUCCEEDED
        if task["state"] in TERMINAL and not done:
            raise _Broken(f"the task is {task['state']}")
        if self._attempt is None and newest is not None and (newest["live"] or done):
            self._attempt = newest
        elif self._attempt is not None and (
            newest is None or newest["id"] != self._attempt["id"] or not (newest["live"] or done)
        ):
            raise _Broken("the attempt has ended; another one begins again")
        if done and self._file is None:
            self._open_whole(task)
        else:
            self._open_partial()
        return task

    def _open_partial(self) -> None:
        if self._file is None and self._attempt is not None:
            try:
                self._file = open(worker_request.partial_output(self._reader.service.settings, self._attempt), "rb")
            except FileNotFoundError:  # nothing is drawn yet, or all of it, which the end of the task will say
                return

    def _open_whole(self, task: JobRow) -> None:
        place = self._reader.service.settings.job_dir(task["id"])
        try:
            self._file = open(place / worker_request.output_path(task), "rb")
        except FileNotFoundError:
            raise _Broken("the file is no longer kept") from None


class _Growing(StreamingResponse):
    """A growing file as a response; the web server breaks off the connection if the file does not become whole."""

    def __init__(self, growth: Growth, body: AsyncIterator[bytes], status: int = 200, **headers: str) -> None:
        task = growth.task
        always = {
            "Accept-Ranges": "bytes",
            "Cache-Control": "no-store",
            "Content-Disposition": f'attachment; filename="{_filename(task)}"',
            "X-Accel-Buffering": "no",
        }
        etag = {} if growth.etag is None else {"ETag": growth.etag}
        media_type = _MEDIA_TYPES[task["request"]["format"]]
        super().__init__(body, status, {**always, **etag, **headers}, media_type)
        self._growth = growth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the file is whole, cannot become whole, or the client disconnects."""
        try:
            await super().__call__(scope, receive, send)
        except (_Broken, NotFound) as reason:  # a response that is not completed: the web server closes the connection
            _log.warning("download broken off", task=self._growth.task["id"], reason=str(reason))
        finally:
            self._growth.close()


class _Part(_Growing):
    """A range of what is written already; the length of the whole is not known yet."""

    def __init__(self, growth: Growth, first: int, last: int) -> None:
        async def body() -> AsyncIterator[bytes]:
            position = first
            while position <= last:
                found = await run_in_threadpool(growth.read, position, min(_CHUNK_BYTES, last + 1 - position))
                if not found:
                    raise _Broken(f"the file was shortened to fewer than {position + 1} bytes")
                position += len(found)
                yield found

        length = {"Content-Range": f"bytes {first}-{last}/*", "Content-Length": str(last + 1 - first)}
        super().__init__(growth, body(), 206, **length)
