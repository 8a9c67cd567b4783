"""Times: integer milliseconds since 1970 in UTC in the database, RFC 3339 with `Z` in the interface."""

import time
from datetime import UTC, datetime


def now_ms() -> int:
    """The wall clock, for display and sorting; leases use monotonic clocks."""
    return time.time_ns() // 1_000_000


def rfc3339(milliseconds: int) -> str:
    """A time as RFC 3339, such as `2026-11-21T05:26:39.120Z`."""
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def optional_rfc3339(milliseconds: int | None) -> str | None:
    """A time as RFC 3339; None stays None."""
    return None if milliseconds is None else rfc3339(milliseconds)
