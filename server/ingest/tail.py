"""Reading files that somebody else is writing: whole lines of a journal, the newest text of a console."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

CHUNK_BYTES = 256 * 1024
MAX_LINE_BYTES = 8 * 2**20
TEXT_BYTES = 8 * 1024

_ESCAPES = re.compile(
    r"\x1b\][^\x07\x1b\n]*(?:\x07|\x1b\\)?"  # operating system command, such as a window title
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"  # control sequence, such as a colour
    r"|\x1b[ -/]*[0-~]?"  # any other escape
)
_LINE_ENDS = re.compile(r"\r+\n?")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Lines:
    """Whole lines without their ends, None for one that is too long to be one of ours, and the offset behind them."""

    lines: Sequence[bytes | None]
    next_offset: int


def whole_lines(path: Path, offset: int) -> Lines:
    """The lines from byte `offset` on, about CHUNK_BYTES of them; a line that has no end yet is not there yet."""
    with open(path, "rb") as file:
        file.seek(offset)
        content = file.read(CHUNK_BYTES)
        end = content.rfind(b"\n") + 1
        if end:
            return Lines(content[: end - 1].split(b"\n"), offset + end)
        return _long_line(file, content, offset)


def _long_line(file: BinaryIO, content: bytes, offset: int) -> Lines:
    """The line that begins with `content`, without holding more than MAX_LINE_BYTES of it."""
    length = len(content)
    while block := file.read(CHUNK_BYTES):
        end = block.find(b"\n")
        part = block if end < 0 else block[:end]
        length += len(part)
        if length <= MAX_LINE_BYTES:
            content += part
        if end >= 0:
            return Lines([content if length <= MAX_LINE_BYTES else None], offset + length + 1)
    return Lines([], offset)


def count_lines(path: Path) -> tuple[int, int]:
    """How many whole lines a file has, and how many bytes they take."""
    lines, size, position = 0, 0, 0
    with open(path, "rb") as file:
        while block := file.read(CHUNK_BYTES):
            if found := block.count(b"\n"):
                lines, size = lines + found, position + block.rfind(b"\n") + 1
            position += len(block)
    return lines, size


@dataclass(frozen=True)
class Text:
    """The newest text of a console, from byte `offset` to `next_offset`."""

    text: str
    offset: int
    next_offset: int


def newest_text(path: Path, offset: int, *, to_the_end: bool) -> Text | None:
    """What follows byte `offset`, of which only the newest TEXT_BYTES are read; None when there is nothing to show yet.

    A line that has no end yet waits for it, unless it is too long or `to_the_end`. A file that became shorter is read
    from its beginning.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        offset = offset if offset <= size else 0
        begin = max(offset, size - TEXT_BYTES)
        file.seek(begin)
        content = file.read(size - begin)
    if begin > offset:
        cut_line = content.find(b"\n", 0, -1) + 1
        begin, content = begin + cut_line, content[cut_line:]
    end = content.rfind(b"\n") + 1
    if not to_the_end and end:
        content = content[:end]
    elif not to_the_end and begin == offset and len(content) < TEXT_BYTES:
        return None
    return Text(plain(content), begin, begin + len(content)) if content else None


def plain(content: bytes) -> str:
    """Text to be shown: UTF-8 as far as it is, without terminal escapes and control characters."""
    text = _ESCAPES.sub("", content.decode("utf-8", "replace"))
    return _CONTROLS.sub("", _LINE_ENDS.sub("\n", text))
