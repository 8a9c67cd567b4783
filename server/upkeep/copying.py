"""Copies of job directories, which a worker may be writing to, with the hash of what was copied."""

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

_BLOCK = 2**20


def plain_files(root: Path) -> Iterator[Path]:
    """All plain files below a directory, in order; links and temporary files are left out.

    Files and directories that vanish meanwhile are left out too; other errors are raised.
    """

    def raise_unless_gone(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for directory, below, files in os.walk(root, onerror=raise_unless_gone):
        below[:] = sorted(name for name in below if not _is_temporary(name))
        for name in sorted(files):
            path = Path(directory, name)
            if not _is_temporary(name) and _is_plain(path):
                yield path


def copy_file(source: Path, target: Path) -> str:
    """Copy what a file contains now, and flush it to disk; returns its SHA-256."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with open(source, "rb") as read, open(target, "xb") as written:
        while block := read.read(_BLOCK):
            digest.update(block)
            written.write(block)
        written.flush()
        os.fsync(written.fileno())
    return digest.hexdigest()


def copy_tree(source: Path, target: Path) -> Mapping[str, str]:
    """Copy all plain files below a directory; returns their SHA-256 by path relative to it."""
    hashes = {}
    for path in plain_files(source):
        relative = path.relative_to(source)
        try:
            hashes[str(relative)] = copy_file(path, target / relative)
        except FileNotFoundError:
            (target / relative).unlink(missing_ok=True)
    return hashes


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")


def _is_plain(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False
