"""Time as the service keeps it: whole milliseconds since 1970 in UTC; RFC 3339 with `Z` towards people."""

import time
from datetime import UTC, datetime


def now_ms() -> int:
    """The wall clock. For showing and for sorting people's lists; leases use monotonic clocks."""
    return time.time_ns() // 1_000_000


def rfc3339(milliseconds: int) -> str:
    """`2026-11-21T05:26:39.120Z`."""
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def optional_rfc3339(milliseconds: int | None) -> str | None:
    """The same, None for what has not happened."""
    return None if milliseconds is None else rfc3339(milliseconds)
