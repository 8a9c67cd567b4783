"""Text from others: what of it may be stored, and how it is printed."""

import re

# C0, DEL, C1, the separators of lines and paragraphs, and what reverses the direction of the text that follows.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_CONTROL_IN_LINE = re.compile(f"(?![\t\n]){_CONTROL.pattern}")


def printable(text: str) -> str:
    """One line of text in which control characters are escapes such as `\\x1b`, so that no terminal obeys them."""
    return _CONTROL.sub(_escape, text)


def printable_lines(text: str) -> str:
    """Text as `printable` gives it, with its tabs and line ends."""
    return _CONTROL_IN_LINE.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def without_controls(text: str) -> str:
    """The text without the spaces around it. Raises ValueError if it has a control character or a line end."""
    found = _CONTROL.search(text)
    if found is not None:
        code = f"U+{ord(found[0]):04X}"
        raise ValueError(f"expected no control characters and one line, got {code} at character {found.start()}")
    return text.strip()


def name(text: str) -> str:
    """A name as `without_controls` gives it. Raises ValueError also if nothing of it is visible."""
    stripped = without_controls(text)
    if not any(character.isprintable() and not character.isspace() for character in stripped):
        raise ValueError(f"expected more than spaces, got {text!r}")
    return stripped
