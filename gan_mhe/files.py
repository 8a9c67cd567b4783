"""Files that are whole or absent: atomic writes, content hashes, append-only JSON lines."""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gan_mhe.errors import StorageError


def default_cache_dir() -> Path:
    """Where decoded data sets, scorers and reference statistics are kept: $GAN_MHE_CACHE, or ~/.cache/gan-mhe."""
    configured = os.environ.get("GAN_MHE_CACHE")
    return Path(configured) if configured else Path.home() / ".cache" / "gan-mhe"


def atomic_write(path: Path, content: bytes) -> None:
    """Write `content` to a temporary sibling, flush it to disk, and rename it over `path`.

    Raises StorageError when the disk refuses; whatever stood at `path` is then unchanged.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path` to fill; on success rename it into place, replacing an older one.

    Raises StorageError when the disk refuses; an older directory then stands as it was. A killed process leaves only
    `.tmp` siblings, which `remove_temporaries` clears.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    older = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        _put_in_place(temporary, path, older)
        _sync_directory(path.parent)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(older, ignore_errors=True)


def _put_in_place(new: Path, path: Path, older: Path) -> None:
    """Rename `new` to `path`. What stood there moves to `older`, because a rename replaces no filled directory."""
    if not path.exists():
        os.replace(new, path)
        return
    os.replace(path, older)
    try:
        os.replace(new, path)
    except OSError:
        os.replace(older, path)
        raise


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporaries(directory: Path) -> None:
    """Delete what interrupted atomic writes left in `directory`."""
    for leftover in directory.glob(".*.tmp"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys, no spaces and no NaN: equal values give equal bytes, so they can be hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. Non-finite numbers are a ValueError: encode them first."""
    atomic_write(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def sha256_bytes(content: bytes) -> str:
    """Hexadecimal SHA-256 of `content`."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class JsonLines:
    """An append-only file of one JSON value a line.

    A process killed in the middle of a write leaves a torn last line; opening the file again cuts it off, so
    that what is appended next stands on a line of its own. `lines` counts the whole ones.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.lines, self._size = _cut_torn_line(path)
            # Unbuffered: a line that the disk refuses must not be tried again behind our back.
            self._file = open(path, "ab", buffering=0)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
        self.path = path

    def append(self, value: Any) -> None:
        """Append one line and hand it to the operating system, so that readers see it at once.

        Raises StorageError when the disk refuses; the file then holds what it held before.
        """
        line = canonical_json(value) + b"\n"
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
            self.lines += 1
            self._size += len(line)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self._size)
            raise StorageError(f"cannot write {self.path}: {error.strerror or error}") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _cut_torn_line(path: Path) -> tuple[int, int]:
    """Drop an unfinished last line, if there is one; return the number of whole lines and of their bytes."""
    lines, size = 0, 0
    with open(path, "a+b") as file:
        file.seek(0)
        for line in file:
            if line.endswith(b"\n"):
                lines, size = lines + 1, size + len(line)
        file.truncate(size)
    return lines, size


def read_json_lines(path: Path) -> Iterator[Any]:
    """Yield the values of a JSON-lines file; a torn last line is not there yet and is left out."""
    with open(path, "rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)
