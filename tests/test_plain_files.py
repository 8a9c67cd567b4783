"""A file from others is opened at once or not at all."""

import os
from pathlib import Path

import pytest

from gan_mhe import json_text
from gan_mhe.plain_files import open_plain
from server.ingest import tail


def test_a_plain_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    with open_plain(tmp_path / "file") as file:
        assert file.read() == b"content"


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "read",
    [
        open_plain,
        json_text.read,
        lambda path: list(json_text.read_lines(path)),
        lambda path: tail.whole_lines(path, 0),
        tail.count_lines,
        lambda path: tail.newest_text(path, 0, to_the_end=True),
    ],
)
def test_a_pipe_that_nobody_writes_to_keeps_no_reader_waiting(tmp_path: Path, read: object) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert callable(read)
    with pytest.raises(OSError, match="expected a plain file"):
        read(tmp_path / "pipe")


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        open_plain(tmp_path)
