"""Downloads of large files to the disk, which go on where they were when the connection breaks."""

import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gan_mhe.errors import StorageError
from gan_mhe.files import sha256_file
from server.client.connection import ATTEMPTS, FIRST_WAIT_SECONDS, Connection, Interrupted, wait_seconds
from server.client.errors import ServerError, Unreachable

_PARTIAL_CONTENT, _BEYOND_THE_END = 206, 416


def download(connection: Connection, url: str, path: str | Path, *, silence_seconds: float) -> str:
    """Write the content of `url` to `path`, atomically, and return its SHA-256.

    silence_seconds: time without a byte after which a connection counts as broken. Raises Unreachable when connections
    break repeatedly without a byte in between or the file is not what its ETag says, other ServerErrors as the service
    answers, and StorageError if writing fails; an older file at `path` then remains.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            etag = _fill(connection, url, file, silence_seconds)
        digest = sha256_file(temporary)
        if etag.startswith('"sha256-') and etag != f'"sha256-{digest}"':
            raise Unreachable(f"{url}: expected content with ETag {etag}, got SHA-256 {digest}")
        temporary.replace(path)
        return digest
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _fill(connection: Connection, url: str, file: BinaryIO, silence_seconds: float) -> str:
    """Write the whole content; returns its last ETag, empty if there was none."""
    part = _Part(file)
    failures = 0
    while True:
        began = file.tell()
        try:
            _go_on(connection, url, part, silence_seconds)
            return part.etag
        except Interrupted as interruption:
            failures = 1 if file.tell() != began else failures + 1
            if failures == ATTEMPTS:
                raise interruption.cause from None
            time.sleep(wait_seconds(failures - 1, FIRST_WAIT_SECONDS, interruption.retry_after_seconds))


@dataclass
class _Part:
    """The beginning of a file, and the ETag under which it came; without one it cannot be continued."""

    file: BinaryIO
    etag: str = ""

    def headers(self) -> dict[str, str]:
        if not (self.etag and self.file.tell()):
            return {}
        return {"Range": f"bytes={self.file.tell()}-", "If-Range": self.etag}


def _go_on(connection: Connection, url: str, part: _Part, silence_seconds: float) -> None:
    """Append what is missing, or begin again if the service sends the whole, because it has another file by now."""
    try:
        with connection.stream(url, part.headers(), silence_seconds) as response:
            if response.status_code != _PARTIAL_CONTENT:
                part.file.seek(0)
                part.file.truncate()
            part.etag = response.headers.get("ETag", "")
            for content in response.iter_bytes():
                part.file.write(content)
    except ServerError as error:
        if error.status != _BEYOND_THE_END:  # nothing is missing: only the end of the last answer was lost
            raise
