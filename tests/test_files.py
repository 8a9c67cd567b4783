"""Files are whole or absent, whatever the disk does."""

import errno
import json
import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gan_mhe.errors import StorageError
from gan_mhe.files import (
    JsonLines,
    atomic_directory,
    atomic_write,
    canonical_json,
    default_cache_dir,
    growing_file,
    move_directory,
    remove_temporaries,
    sha256_bytes,
    sha256_file,
    write_json,
)
from gan_mhe.json_text import read_lines

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def refuse(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def run_with_file_size_limit(limit: int, script: str, *arguments: Path) -> str:
    """Run `script` in a process whose files the kernel really refuses to grow beyond `limit` bytes.

    The limit holds for the process's output too, when that is a file; through a pipe it does not.
    """
    preamble = f"import resource, sys\nresource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))\n"
    finished = subprocess.run(
        [sys.executable, "-c", preamble + textwrap.dedent(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


class TestAtomicWrite:
    def test_writes_the_content_and_nothing_beside_it(self, tmp_path: Path) -> None:
        atomic_write(tmp_path / "deep" / "file", b"content")
        assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file"]
        assert (tmp_path / "deep" / "file").read_bytes() == b"content"

    def test_replaces_an_older_file(self, tmp_path: Path) -> None:
        atomic_write(tmp_path / "file", b"a longer old content")
        atomic_write(tmp_path / "file", b"new")
        assert (tmp_path / "file").read_bytes() == b"new"

    def test_leaves_the_old_file_when_the_kernel_refuses_the_bytes(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"old")
        output = run_with_file_size_limit(
            1000,
            """
            from pathlib import Path
            from gan_mhe.errors import StorageError
            from gan_mhe.files import atomic_write
            try:
                atomic_write(Path(sys.argv[1]), b"x" * 5000)
            except StorageError as error:
                print(error)
            """,
            tmp_path / "file",
        )
        assert output == f"cannot write {tmp_path / 'file'}: File too large\n"
        assert [path.name for path in tmp_path.iterdir()] == ["file"]
        assert (tmp_path / "file").read_bytes() == b"old"

    @pytest.mark.parametrize("call", ["fsync", "replace"])
    def test_leaves_the_old_file_when_the_disk_fails_late(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
    ) -> None:
        (tmp_path / "file").write_bytes(b"old")
        monkeypatch.setattr(os, call, refuse)
        with pytest.raises(StorageError, match=r"file: No space left on device"):
            atomic_write(tmp_path / "file", b"new")
        assert [path.name for path in tmp_path.iterdir()] == ["file"]
        assert (tmp_path / "file").read_bytes() == b"old"

    def test_flushes_to_disk_before_the_rename(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[str] = []
        for name in ("fsync", "replace"):
            real = getattr(os, name)
            monkeypatch.setattr(os, name, lambda *a, name=name, real=real: (calls.append(name), real(*a))[1])
        atomic_write(tmp_path / "file", b"content")
        assert calls == ["fsync", "replace"]

    def test_says_so_when_the_folder_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "occupied").write_bytes(b"a file where a folder would have to be")
        with pytest.raises(StorageError, match="occupied"):
            atomic_write(tmp_path / "occupied" / "file", b"content")


class TestAtomicDirectory:
    def test_appears_whole(self, tmp_path: Path) -> None:
        with atomic_directory(tmp_path / "made") as temporary:
            (temporary / "file").write_bytes(b"content")
            assert not (tmp_path / "made").exists()
        assert (tmp_path / "made" / "file").read_bytes() == b"content"
        assert [path.name for path in tmp_path.iterdir()] == ["made"]

    def test_replaces_an_older_one_completely(self, tmp_path: Path) -> None:
        for name in ("old", "new"):
            with atomic_directory(tmp_path / "made") as temporary:
                (temporary / name).touch()
        assert [path.name for path in (tmp_path / "made").iterdir()] == ["new"]
        assert [path.name for path in tmp_path.iterdir()] == ["made"]

    def test_leaves_nothing_when_its_content_fails(self, tmp_path: Path) -> None:
        with pytest.raises(KeyError), atomic_directory(tmp_path / "made") as temporary:
            (temporary / "half").touch()
            raise KeyError
        assert list(tmp_path.iterdir()) == []

    def test_a_disk_error_of_its_content_is_a_storage_error(self, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match=r"made: No space left"), atomic_directory(tmp_path / "made"):
            refuse()
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("failing_rename", [1, 2])
    def test_leaves_the_old_one_when_a_rename_fails(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing_rename: int
    ) -> None:
        with atomic_directory(tmp_path / "made") as temporary:
            (temporary / "old").touch()
        renames, real = 0, os.replace

        def replace(source: Path, target: Path) -> None:
            nonlocal renames
            renames += 1
            refuse() if renames == failing_rename else real(source, target)

        monkeypatch.setattr(os, "replace", replace)
        with pytest.raises(StorageError), atomic_directory(tmp_path / "made") as temporary:
            (temporary / "new").touch()
        assert [path.name for path in (tmp_path / "made").iterdir()] == ["old"]
        assert [path.name for path in tmp_path.iterdir()] == ["made"]


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_killed_write_leaves_only_what_is_cleared_later(tmp_path: Path, kind: str) -> None:
    script = """
        import os, sys
        from pathlib import Path
        from gan_mhe.files import atomic_directory, atomic_write

        os.replace = lambda *_: os.kill(os.getpid(), 9)
        if sys.argv[2] == "file":
            atomic_write(Path(sys.argv[1]), b"content")
        with atomic_directory(Path(sys.argv[1])) as temporary:
            (temporary / "half").touch()
    """
    arguments = [str(tmp_path / "target"), kind]
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(script), *arguments], timeout=60).returncode == -9
    (leftover,) = tmp_path.iterdir()
    assert leftover.name.startswith(".target.") and leftover.is_dir() == (kind == "directory")
    remove_temporaries(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_clearing_leftovers_touches_nothing_else(tmp_path: Path) -> None:
    for name in ("file", "file.tmp", ".lock", ".file.tmp"):
        (tmp_path / name).touch()
    remove_temporaries(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "file", "file.tmp"]


def test_clearing_a_folder_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    remove_temporaries(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []


class TestJsonLines:
    def test_lines_are_read_back_in_order(self, tmp_path: Path) -> None:
        lines = JsonLines(tmp_path / "deep" / "log")
        for value in ({"a": 1}, [2.5], "drei", None):
            lines.append(value)
        lines.close()
        assert list(read_lines(tmp_path / "deep" / "log")) == [{"a": 1}, [2.5], "drei", None]

    def test_a_reader_sees_a_line_at_once(self, tmp_path: Path) -> None:
        lines = JsonLines(tmp_path / "log")
        lines.append(1)
        assert list(read_lines(tmp_path / "log")) == [1]
        lines.close()

    def test_counts_its_lines_across_openings(self, tmp_path: Path) -> None:
        for expected in (0, 1, 2):
            lines = JsonLines(tmp_path / "log")
            assert lines.lines == expected
            lines.append(expected)
            assert lines.lines == expected + 1
            lines.close()

    @pytest.mark.parametrize("incomplete", [b"{", b'{"seq": 2', b"2"])
    def test_an_incomplete_last_line_is_removed_so_that_the_next_starts_on_a_new_line(
        self, tmp_path: Path, incomplete: bytes
    ) -> None:
        (tmp_path / "log").write_bytes(b"0\n1\n" + incomplete)
        lines = JsonLines(tmp_path / "log")
        assert lines.lines == 2
        lines.append("next")
        lines.close()
        assert (tmp_path / "log").read_bytes() == b'0\n1\n"next"\n'

    @pytest.mark.parametrize(("content", "whole"), [(b"0\n1\n2", [0, 1]), (b"0\n1\n{", [0, 1]), (b"{", []), (b"", [])])
    def test_a_reader_skips_an_incomplete_last_line(self, tmp_path: Path, content: bytes, whole: list[int]) -> None:
        (tmp_path / "log").write_bytes(content)
        assert list(read_lines(tmp_path / "log")) == whole

    def test_a_refused_line_leaves_the_file_as_it_was_and_the_next_one_whole(self, tmp_path: Path) -> None:
        output = run_with_file_size_limit(
            100,
            """
            from pathlib import Path
            from gan_mhe.errors import StorageError
            from gan_mhe.files import JsonLines
            lines = JsonLines(Path(sys.argv[1]))
            lines.append("before")
            try:
                lines.append("x" * 200)
            except StorageError as error:
                print(error)
            lines.append("after")
            lines.close()
            print(lines.lines)
            """,
            tmp_path / "log",
        )
        assert output == f"cannot write {tmp_path / 'log'}: File too large\n2\n"
        assert (tmp_path / "log").read_bytes() == b'"before"\n"after"\n'

    def test_a_number_that_json_lacks_is_refused_before_anything_is_written(self, tmp_path: Path) -> None:
        lines = JsonLines(tmp_path / "log")
        with pytest.raises(ValueError, match="JSON"):
            lines.append({"loss": math.nan})
        lines.close()
        assert (tmp_path / "log").read_bytes() == b""

    def test_a_place_that_cannot_be_written_is_a_storage_error(self, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match="Is a directory"):
            JsonLines(tmp_path)


class TestCanonicalJson:
    @settings(deadline=None, derandomize=True, max_examples=100)
    @given(JSON_VALUES)
    def test_is_json_of_the_same_value(self, value: Any) -> None:
        assert json.loads(canonical_json(value)) == value

    @settings(deadline=None, derandomize=True, max_examples=50)
    @given(st.dictionaries(st.text(), JSON_VALUES, min_size=2, max_size=5))
    def test_does_not_depend_on_the_order_of_keys(self, value: dict[str, Any]) -> None:
        assert canonical_json(dict(reversed(value.items()))) == canonical_json(value)

    @pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
    def test_refuses_numbers_that_json_lacks(self, number: float) -> None:
        with pytest.raises(ValueError, match="JSON"):
            canonical_json({"value": [number]})

    def test_has_these_bytes(self) -> None:
        assert canonical_json({"b": [1, 2.5, None], "a": "ü"}) == b'{"a":"\\u00fc","b":[1,2.5,null]}'


def test_write_json_keeps_the_order_of_keys_and_ends_the_line(tmp_path: Path) -> None:
    write_json(tmp_path / "file.json", {"b": 1, "a": [True]})
    assert (tmp_path / "file.json").read_text() == '{\n  "b": 1,\n  "a": [\n    true\n  ]\n}\n'


def test_write_json_refuses_nan_and_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "file.json", 1)
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "file.json", math.nan)
    assert (tmp_path / "file.json").read_text() == "1\n"


def test_hashes_are_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    published = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_bytes(b"abc") == sha256_file(tmp_path / "file") == published


def test_the_cache_lies_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GAN_MHE_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path


@pytest.mark.parametrize("value", [None, ""])
def test_the_cache_lies_in_the_home_folder_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str | None
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("GAN_MHE_CACHE", raising=False)
    if value is not None:
        monkeypatch.setenv("GAN_MHE_CACHE", value)
    assert default_cache_dir() == tmp_path / ".cache" / "gan-mhe"


@pytest.fixture
def two_file_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A directory with files, and a path that no rename reaches from it."""
    source, target = tmp_path / "a" / "run", tmp_path / "b" / "run"
    (source / "inner").mkdir(parents=True)
    (source / "inner" / "file").write_text("content")
    (source / "link").symlink_to("inner/file")
    target.parent.mkdir()
    rename = os.rename

    def within_one_file_system(old: Any, new: Any) -> None:
        if Path(old).parent != Path(new).parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(old, new)

    monkeypatch.setattr(os, "rename", within_one_file_system)
    return source, target


def test_a_directory_moves_to_another_file_system(two_file_systems: tuple[Path, Path]) -> None:
    source, target = two_file_systems
    os.mkfifo(source / "pipe")
    move_directory(source, target)
    assert (target / "inner" / "file").read_text() == (target / "link").read_text() == "content"
    assert os.readlink(target / "link") == "inner/file"
    assert list(source.parent.iterdir()) == [] and list(target.parent.iterdir()) == [target]


def test_a_move_to_a_full_file_system_leaves_the_source_as_it_was(
    two_file_systems: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = two_file_systems
    monkeypatch.setattr("shutil.copy2", refuse)
    with pytest.raises(OSError, match="No space left"):
        move_directory(source, target)
    assert (source / "inner" / "file").read_text() == "content" and list(target.parent.iterdir()) == []


def test_a_move_that_was_cut_short_is_made_again_whole(two_file_systems: tuple[Path, Path]) -> None:
    source, target = two_file_systems
    cut_short = target.parent / ".run.tmp"
    cut_short.mkdir()
    (cut_short / "half").write_text("cont")
    move_directory(source, target)
    assert sorted(path.name for path in target.iterdir()) == ["inner", "link"]


def test_a_growing_file_can_be_read_while_it_is_written_and_is_whole_at_the_end(tmp_path: Path) -> None:
    path, partial = tmp_path / "new" / "whole", tmp_path / "new" / "partial"
    with growing_file(path, partial) as file:
        file.write(b"be")
        file.flush()
        assert partial.read_bytes() == b"be" and not path.exists()
        file.write(b"gun")
    assert path.read_bytes() == b"begun" and not partial.exists()
    assert (file.size_bytes, file.sha256) == (5, sha256_bytes(b"begun"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_growing_file_that_does_not_become_whole_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "a").write_bytes(b"older")
    with pytest.raises(error), growing_file(tmp_path / "a") as file:
        file.write(b"new")
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"older"


def test_an_older_growing_file_is_replaced_and_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "partial").write_bytes(b"older")
    with open(tmp_path / "partial", "rb") as reader, growing_file(tmp_path / "a", tmp_path / "partial") as file:
        file.write(b"newer")
        file.flush()
        assert reader.read() == b"older"


def test_a_growing_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"cannot write .*/file/a"), growing_file(tmp_path / "file" / "a"):
        pytest.fail("opened")
