"""Text from others: what may be stored, and how it is printed."""

import unicodedata

import pytest

from gan_mhe import text

BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
CONTROLS = [chr(code) for code in range(0x3000) if unicodedata.category(chr(code)) in ("Cc", "Zl", "Zp")]


@pytest.mark.parametrize("character", [*CONTROLS, *BIDI], ids=lambda character: f"U+{ord(character):04X}")
def test_a_control_character_is_refused_by_its_code_and_printed_as_an_escape(character: str) -> None:
    with pytest.raises(ValueError, match=rf"U\+{ord(character):04X} at character 1"):
        text.without_controls(f"a{character}b")
    shown = text.printable(f"a{character}b")
    assert shown == f"a{character.encode('unicode_escape').decode()}b"
    assert shown.isascii()


@pytest.mark.parametrize("name", ["a first look", "Größe", "実験", "e\u0301", "👩‍🔬", "می‌خواهم"])
def test_names_of_all_alphabets_are_kept(name: str) -> None:
    assert text.name(name) == text.printable(name) == name


def test_spaces_around_a_name_are_removed() -> None:
    assert text.name("\u3000 a  b \xa0") == "a  b"


@pytest.mark.parametrize("name", ["", " ", "\u3000\xa0", "\u200b", "\ufeff \u2060"])
def test_a_name_of_which_nothing_is_visible_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected more than spaces"):
        text.name(name)


def test_messages_keep_their_lines_and_tabs() -> None:
    assert text.printable_lines("a\n\tb\r\x1b[2J") == "a\n\tb\\r\\x1b[2J"
