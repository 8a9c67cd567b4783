"""Identifiers: unique, in order within a process, and recognized."""

import threading

import pytest

from server import ids
from server.ids import is_id, new_id


def number(identifier: str) -> int:
    value = 0
    for character in identifier.partition("_")[2]:
        value = value * 32 + "0123456789abcdefghjkmnpqrstvwxyz".index(character)
    return value


def test_an_id_has_its_prefix_and_26_characters_of_crockfords_alphabet() -> None:
    prefix, _, digits = new_id("job").partition("_")
    assert (prefix, len(digits)) == ("job", 26)
    assert not set(digits) & set("ilou") and digits == digits.lower()


def test_it_is_a_uuid_of_version_seven(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids.time, "time_ns", lambda: 5 * 10**18)
    value = number(new_id("job"))
    assert value >> 80 == 5 * 10**12
    assert value >> 76 & 0xF == 7
    assert value >> 62 & 0b11 == 0b10


def test_ids_of_one_process_are_never_equal_and_never_out_of_order() -> None:
    made = [new_id("job") for _ in range(5000)]
    assert made == sorted(set(made))


def test_that_holds_when_the_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = new_id("job")
    monkeypatch.setattr(ids.time, "time_ns", lambda: 0)
    assert new_id("job") > earlier


def test_ids_of_all_threads_are_distinct() -> None:
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.extend([new_id("job") for _ in range(500)])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 4000


@pytest.mark.parametrize(
    "text",
    ["", "job", "job_", "task_" + "0" * 26, "job_" + "0" * 25, "job_" + "0" * 27, "job_" + "u" * 26, "job_" + "O" * 26,
     "job_" + "0" * 26 + "\n", "../job_" + "0" * 26, "job_" + "0" * 25 + "/"],
)  # fmt: skip
def test_text_of_another_form_is_not_an_id(text: str) -> None:
    assert not is_id(text, "job")


def test_an_id_is_recognised_by_its_own_prefix_only() -> None:
    identifier = new_id("ckpt")
    assert is_id(identifier, "ckpt") and not is_id(identifier, "job")
