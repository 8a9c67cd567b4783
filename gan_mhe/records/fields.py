"""The types of the fields of a run's documents, with their bounds: what every reader of a run directory relies on.

Numbers are not read from text, nor text from numbers, nor either from truth values.
"""

import reprlib
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, ValidationError

from gan_mhe.text import printable, without_controls

MAX_NAMES = 1000
"""Most numbers of one event or one evaluation: a run has some dozens."""
MAX_NAME = 200
"""Longest name of a number, in characters; the service's tables have room for so many."""

LARGEST_SCORE = 1e100
"""Largest finite score: sums of squares of such numbers are finite, as statistics over runs need them."""

_SHOWN_PROBLEMS = 3

T = TypeVar("T")


def _one_line(text: str) -> str:
    without_controls(text)
    return text


def _computable(score: float) -> float:
    if isfinite(score) and abs(score) > LARGEST_SCORE:
        raise ValueError(f"expected at most {LARGEST_SCORE:g} in size")
    return score


Step = Annotated[int, Field(strict=True, ge=0, lt=2**53)]
"""A step or another count: what every JSON parser reads exactly."""
Flag = Annotated[bool, Field(strict=True)]
Number = Annotated[float, Field(strict=True)]
"""A number, perhaps not finite."""
Seconds = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Text = Annotated[str, Field(strict=True)]
Name = Annotated[str, Field(strict=True, max_length=MAX_NAME), AfterValidator(_one_line)]
Sha256 = Annotated[str, Field(strict=True, pattern="^[0-9a-f]{64}$")]
Numbers = Annotated[Mapping[Name, Number], Field(max_length=MAX_NAMES)]
Scores = Annotated[Mapping[Name, Annotated[Number, AfterValidator(_computable)]], Field(max_length=MAX_NAMES)]
Names = Annotated[Mapping[Name, Name], Field(max_length=MAX_NAMES)]


def validated(read: Callable[[Any], T], value: Any) -> T:
    """What `read`, the method of a validator, makes of `value`. ValueError names the first fields that are wrong."""
    try:
        return read(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
    listed = [_sentence(problem["loc"], problem["msg"], problem["input"]) for problem in found[:_SHOWN_PROBLEMS]]
    more = len(found) - len(listed)
    raise ValueError("; ".join(listed + ([f"and {more} more problems"] if more else [])))


def _sentence(location: tuple[int | str, ...], message: str, value: Any) -> str:
    where = ".".join(str(part)[:MAX_NAME] for part in location) or "document"
    expected = message.removeprefix("Value error, ")
    return printable(f"{where}: {expected[0].lower()}{expected[1:]}, got {reprlib.repr(value)}")
