"""The nearest valid name, for error messages."""

import difflib
from collections.abc import Iterable


def nearest(given: str, known: Iterable[str]) -> str:
    """A clause to append to "unknown ...": the nearest known name, or all of them when none is near."""
    names = list(known)
    matches = difflib.get_close_matches(given, names, n=1)
    return f"; did you mean {matches[0]!r}?" if matches else f"; expected one of {', '.join(sorted(names))}"
