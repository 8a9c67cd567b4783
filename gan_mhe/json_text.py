"""JSON that others may have written, parsed within bounds: of size, of nesting, of numbers and of text."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from gan_mhe.plain_files import open_plain

MAX_BYTES = 8 * 2**20
"""Largest document, and longest line of a JSON-lines file."""
MAX_DEPTH = 64
"""Deepest nesting of tables and lists. Whoever walks through a document by recursion has room for so many calls."""

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse(content: bytes, *, keep_halves: bool = False) -> Any:
    """Parse one JSON value in UTF-8.

    keep_halves: keep the halves of surrogate pairs, in which Python holds what is no text in a path. By default each
    becomes a question mark, because JSON can write them, but no response and no column can hold them.

    Raises ValueError for more than MAX_BYTES, for nesting deeper than MAX_DEPTH, for NaN and Infinity, and for what is
    no JSON.
    """
    if len(content) > MAX_BYTES:
        raise ValueError(f"expected at most {MAX_BYTES} bytes, got more")
    try:
        value = json.loads(content.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except RecursionError:
        raise _too_deep() from None
    if content.count(b"[") + content.count(b"{") > MAX_DEPTH and _is_deep(value):
        raise _too_deep()
    if not keep_halves and _SURROGATE.search(content):
        value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    return value


def read(path: Path, *, keep_halves: bool = False) -> Any:
    """Read the JSON value in a file. Raises OSError, and ValueError as `parse` and for numbers beyond a float's."""
    with open_plain(path) as file:
        value = parse(file.read(MAX_BYTES + 1), keep_halves=keep_halves)
    json.dumps(value, allow_nan=False)  # raises for 1e999, which is read as infinity
    return value


def read_object(path: Path, *, keep_halves: bool = False) -> dict[str, Any]:
    """Read the JSON object in a file. Raises OSError, and ValueError as `read` and for another value."""
    value = read(path, keep_halves=keep_halves)
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {type(value).__name__}")
    return value


def read_lines(path: Path) -> Iterator[Any]:
    """Yield the values of a JSON-lines file; an incomplete last line is still being written and is skipped.

    Raises ValueError as `parse`, with the number of the line, from 0.
    """
    with open_plain(path) as file:
        for number, line in enumerate(_bounded_lines(file)):
            if not line.endswith(b"\n"):
                continue  # the last line
            try:
                yield parse(line[:-1])
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error


def _bounded_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield lines with their ends. Raises ValueError for a whole line longer than MAX_BYTES."""
    while line := file.readline(MAX_BYTES + 1):
        if len(line) > MAX_BYTES and not line.endswith(b"\n"):
            raise ValueError(f"expected lines of at most {MAX_BYTES} bytes, got a longer one")
        yield line


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"expected JSON, which has no {name}")


def _too_deep() -> ValueError:
    return ValueError(f"expected at most {MAX_DEPTH} levels of nesting, got more")


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        nested = [item for item in level if isinstance(item, dict | list)]
        level = [child for item in nested for child in (item.values() if isinstance(item, dict) else item)]
        if not nested:
            return False
    return True
