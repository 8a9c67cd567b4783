"""JSON from others is read within bounds, and what exceeds them is a ValueError like any other damage."""

import json
from pathlib import Path

import pytest

from gan_mhe import json_text
from gan_mhe.json_text import MAX_DEPTH, parse, read, read_lines, read_object


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None, True, "\U0001f600 ü"]}, [], 3, "text"])
def test_a_value_is_read_as_written(value: object) -> None:
    assert parse(json.dumps(value).encode()) == value
    assert parse(json.dumps(value, ensure_ascii=False).encode()) == value


def test_nesting_up_to_the_bound_is_read() -> None:
    assert parse(nested(MAX_DEPTH)) is not None
    assert parse(b"[" + b"{}," * 1000 + b"{}]") == [{}] * 1001


@pytest.mark.parametrize("content", [nested(MAX_DEPTH + 1), nested(100_000), b'{"a":' * 65 + b"1" + b"}" * 65])
def test_deeper_nesting_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=f"at most {MAX_DEPTH} levels"):
        parse(content)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"NaN", b"[Infinity]", b"\xff", b"9" * 5000, "{}".encode("utf-16"), b'"\xed\xa0\x80"']
)
def test_what_is_no_json_in_utf8_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError):
        parse(content)


def test_half_of_a_surrogate_pair_becomes_a_question_mark() -> None:
    assert parse(b'{"a\\udcff": ["\\ud83d\\ude00", "\\uD800"]}') == {"a?": ["\U0001f600", "?"]}


def test_half_of_a_surrogate_pair_is_kept_on_request() -> None:
    assert parse(b'"/data/\\udcff"', keep_halves=True) == "/data/\udcff"


def test_a_document_is_read_up_to_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_text, "MAX_BYTES", 10)
    (tmp_path / "a").write_bytes(b'"12345678"')
    assert read(tmp_path / "a") == "12345678"
    (tmp_path / "a").write_bytes(b'"123456789"')
    with pytest.raises(ValueError, match="at most 10 bytes"):
        read(tmp_path / "a")


def test_a_number_that_only_an_infinity_could_hold_is_refused_in_a_document(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b'{"a": 1e999}')
    with pytest.raises(ValueError):
        read_object(tmp_path / "a")


def test_a_document_that_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"[]")
    with pytest.raises(ValueError, match="expected a JSON object, got list"):
        read_object(tmp_path / "a")


def test_a_damaged_line_is_named_by_its_number(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1\n2\n{\n4\n")
    lines = read_lines(tmp_path / "a")
    assert [next(lines), next(lines)] == [1, 2]
    with pytest.raises(ValueError, match="line 2: "):
        next(lines)


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_beyond_the_bound_is_refused_without_being_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: bytes
) -> None:
    monkeypatch.setattr(json_text, "MAX_BYTES", 10)
    (tmp_path / "a").write_bytes(b'"12345678"\n' + b"x" * 1000 + end)
    lines = read_lines(tmp_path / "a")
    assert next(lines) == "12345678"
    with pytest.raises(ValueError, match="lines of at most 10 bytes"):
        next(lines)
