"""Atomic file and directory writes, content hashes, and append-only JSON-lines files."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from gan_mhe.errors import StorageError


def default_cache_dir() -> Path:
    """Cache of decoded data sets, extractor weights and reference statistics: $GAN_MHE_CACHE or ~/.cache/gan-mhe."""
    configured = os.environ.get("GAN_MHE_CACHE")
    return Path(configured) if configured else Path.home() / ".cache" / "gan-mhe"


def atomic_write(path: Path, content: bytes) -> None:
    """Write `content` to a temporary file beside `path`, flush it to disk, and rename it to `path`.

    Raises StorageError if writing fails; an existing file at `path` is then unchanged.
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


class GrowingFile:
    """A file that is only appended to. `sha256` and `size_bytes` are those of what was written so far."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def write(self, content: bytes) -> int:
        """Append bytes, which readers see after `flush`; returns their number. Raises OSError."""
        self._file.write(content)
        self._hash.update(content)
        self.size_bytes += len(content)
        return len(content)

    def flush(self) -> None:
        """Pass what was written to the operating system, so that readers see it. Raises OSError."""
        self._file.flush()

    @property
    def sha256(self) -> str:
        """Hexadecimal SHA-256."""
        return self._hash.hexdigest()


@contextlib.contextmanager
def growing_file(path: Path, partial: Path | None = None) -> Iterator[GrowingFile]:
    """Yield a new file at `partial`; on success flush it to disk and rename it to `path`, otherwise delete it.

    partial: in the directory of `path`, a hidden temporary file by default. An older file there is deleted first, not
    overwritten: whoever reads it keeps it. Raises StorageError if writing fails; an existing file at `path` is then
    unchanged.
    """
    partial = partial or path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        with open(partial, "xb") as file:
            yield GrowingFile(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_cached(path: Path, content: bytes) -> None:
    """Write a file of the cache as `atomic_write` does; its StorageError also says how to choose another cache."""
    try:
        atomic_write(path, content)
    except StorageError as error:
        raise StorageError(f"{error}; set GAN_MHE_CACHE to a folder where caches can be written") from error


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary directory beside `path`; rename it to `path` on success, replacing an existing directory.

    Raises StorageError if writing fails; an existing directory is then unchanged. A killed process leaves only `.tmp`
    entries beside `path`, which `remove_temporaries` deletes.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    older = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        _replace_directory(temporary, path, older)
        _sync_directory(path.parent)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(older, ignore_errors=True)


def _replace_directory(new: Path, path: Path, older: Path) -> None:
    """Rename `new` to `path`. A directory at `path` moves to `older` first: rename replaces only empty directories."""
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
    """Delete the temporary files and directories that interrupted atomic writes left in `directory`."""
    for leftover in directory.glob(".*.tmp"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def move_directory(source: Path, target: Path) -> None:
    """Move a directory to a path that does not exist yet; both appear whole or not at all.

    Between file systems it is copied, without pipes and sockets, flushed to disk, and then deleted. Raises OSError; the
    source is then as it was. A process killed meanwhile leaves `.tmp` entries, which `remove_temporaries` deletes.
    """
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _move_between_file_systems(source, target)


def _move_between_file_systems(source: Path, target: Path) -> None:
    copy, left = target.with_name(f".{target.name}.tmp"), source.with_name(f".{source.name}.tmp")
    for leftover in (copy, left):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        shutil.copytree(source, copy, symlinks=True, copy_function=_copy_to_disk)
        os.rename(copy, target)
    except OSError:
        shutil.rmtree(copy, ignore_errors=True)
        raise
    os.rename(source, left)
    shutil.rmtree(left, ignore_errors=True)


def _copy_to_disk(source: str, target: str) -> None:
    if stat.S_ISREG(os.lstat(source).st_mode):
        shutil.copy2(source, target)
        with open(target, "rb") as file:
            os.fsync(file.fileno())


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes, so that they can be hashed.

    Non-finite numbers raise ValueError.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. Non-finite numbers raise ValueError: encode them first."""
    atomic_write(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def sha256_bytes(content: bytes) -> str:
    """Hexadecimal SHA-256 of `content`."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class JsonLines:
    """An append-only file with one JSON value per line; `lines` is the number of complete lines.

    A process killed during a write leaves an incomplete last line. Opening the file removes it, so that the next value
    starts on a new line.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.lines, self._size = _remove_incomplete_line(path)
            # Unbuffered: a buffer would retry a failed line on the next write.
            self._file = open(path, "ab", buffering=0)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
        self.path = path

    def append(self, value: Any) -> None:
        """Append one line and pass it to the operating system, so that readers see it immediately.

        Raises StorageError if writing fails; the file is then unchanged.
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


def _remove_incomplete_line(path: Path) -> tuple[int, int]:
    """Remove an incomplete last line; return the number of complete lines and their size in bytes."""
    lines, size = 0, 0
    with open(path, "a+b") as file:
        file.seek(0)
        for line in file:
            if line.endswith(b"\n"):
                lines, size = lines + 1, size + len(line)
        file.truncate(size)
    return lines, size
