"""Identifiers: a type prefix and a UUIDv7 in Crockford base 32, such as `job_06ekqz1v3m4s8x0c9d7f2h5b6w`.

Their order is roughly that of creation, but no list is sorted by them: a clock may jump, a database sequence does not.
"""

import os
import re
import threading
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_LENGTH = 26  # 128 bits at 5 bits a character
_PATTERN = re.compile(rf"[a-z]+_[{_ALPHABET}]{{{_LENGTH}}}")

_guard = threading.Lock()
_last = 0


def new_id(prefix: str) -> str:
    """A new identifier, unique and increasing within a process."""
    number = _uuid7()
    digits = []
    for _ in range(_LENGTH):
        number, digit = divmod(number, 32)
        digits.append(_ALPHABET[digit])
    return f"{prefix}_{''.join(reversed(digits))}"


def is_id(text: str, prefix: str) -> bool:
    """Whether `text` has the form of an identifier with this prefix."""
    return text.startswith(f"{prefix}_") and _PATTERN.fullmatch(text) is not None


def _uuid7() -> int:
    """RFC 9562: 48 bits of milliseconds, version, 12 random bits, variant, 62 random bits; strictly increasing."""
    global _last
    random = int.from_bytes(os.urandom(10), "big")
    milliseconds = time.time_ns() // 1_000_000
    high, low = random >> 62 & 0xFFF, random & (1 << 62) - 1
    number = milliseconds << 80 | 7 << 76 | high << 64 | 2 << 62 | low
    with _guard:
        _last = number if number > _last else _last + 1
        return _last
