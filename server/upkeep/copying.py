"""Copies of job directories, which a worker may be writing to, with the hash of what was copied."""

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gan_mhe.errors import StorageError
from gan_mhe.plain_files import open_plain

_BLOCK = 2**20


@dataclass(frozen=True)
class Copied:
    """What was copied of a directory, by path relative to it: the SHA-256 of each file, and what is no plain file."""

    hashes: Mapping[str, str]
    left_out: Sequence[str]


def _entries(root: Path) -> Iterator[tuple[Path, bool]]:
    """Everything below a directory but directories, in order, and whether it is a plain file.

    Temporary files are left out, and files and directories that vanish meanwhile; other errors are raised. A link to a
    directory is not followed: it could lead anywhere.
    """

    def raise_unless_gone(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for directory, below, files in os.walk(root, onerror=raise_unless_gone):
        below[:] = sorted(name for name in below if not _is_temporary(name))
        links = [name for name in below if Path(directory, name).is_symlink()]
        for name in sorted([*links, *files]):
            path = Path(directory, name)
            if not _is_temporary(name) and (mode := _mode(path)) is not None:
                yield path, stat.S_ISREG(mode)


def copy_file(source: Path, target: Path) -> str:
    """Copy what a file contains now, and flush it to disk; returns its SHA-256.

    Raises FileNotFoundError if it vanished, StorageError if it cannot be copied.
    """
    digest = hashlib.sha256()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open_plain(source) as read, open(target, "xb") as written:
            while block := read.read(_BLOCK):
                digest.update(block)
                written.write(block)
            written.flush()
            os.fsync(written.fileno())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageError(f"cannot copy {source} to {target}: {error.strerror or error}") from error
    return digest.hexdigest()


def copy_tree(source: Path, target: Path) -> Copied:
    """Copy all plain files below a directory. Raises StorageError if one cannot be copied."""
    hashes, left_out = {}, []
    for path, plain in _entries(source):
        relative = path.relative_to(source)
        if not plain:
            left_out.append(str(relative))
            continue
        try:
            hashes[str(relative)] = copy_file(path, target / relative)
        except FileNotFoundError:
            (target / relative).unlink(missing_ok=True)
    return Copied(hashes, left_out)


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")


def _mode(path: Path) -> int | None:
    """The kind of an entry; None if it vanished."""
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return None
