"""Reads files while another process writes them: whole lines of a journal, the newest text of a console."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gan_mhe.json_text import MAX_BYTES
from gan_mhe.plain_files import open_plain

CHUNK_BYTES = 256 * 1024
MAX_LINE_BYTES = MAX_BYTES
TEXT_BYTES = 8 * 1024

_ESCAPES = re.compile(
    r"\x1b\][^\x07\x1b\n]*(?:\x07|\x1b\\)?"  # operating system command, such as a window title
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"  # control sequence, such as a color
    r"|\x1b[ -/]*[0-~]?"  # any other escape
)
_LINE_ENDS = re.compile(r"\r+\n?")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Lines:
    """Whole lines without their line ends, and the offset after them. None is a line longer than MAX_LINE_BYTES."""

    lines: Sequence[bytes | None]
    next_offset: int


def whole_lines(path: Path, offset: int) -> Lines:
    """Read whole lines from byte `offset` on, about CHUNK_BYTES; a last line without a line end is not included."""
    with open_plain(path) as file:
        file.seek(offset)
        content = file.read(CHUNK_BYTES)
        end = content.rfind(b"\n") + 1
        if end:
            return Lines(content[: end - 1].split(b"\n"), offset + end)
        return _long_line(file, content, offset)


def _long_line(file: BinaryIO, content: bytes, offset: int) -> Lines:
    """Read the line that begins with `content`, and hold at most MAX_LINE_BYTES of it in memory."""
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
    """Count the whole lines of a file. Returns their number and their size in bytes."""
    lines, size, position = 0, 0, 0
    with open_plain(path) as file:
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
    """Read the text after byte `offset`, at most its newest TEXT_BYTES. Returns None if there is nothing to show yet.

    A last line without a line end is not included, unless it is too long or `to_the_end` is set. A file that became
    shorter is read from its beginning.
    """
    with open_plain(path) as file:
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
    """Decode UTF-8, with replacement of invalid bytes, and remove terminal escapes and control characters."""
    text = _ESCAPES.sub("", content.decode("utf-8", "replace"))
    return _CONTROLS.sub("", _LINE_ENDS.sub("\n", text))
