"""Times: integer milliseconds since 1970 in UTC in the database, RFC 3339 with `Z` in the interface.

A wall clock may be stepped, by an administrator or a time server. Within one process time goes on regardless: waiting,
deadlines, retention and the order of rows do not notice. A restart takes the wall clock as it is.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime

STEP_SECONDS = 2.0  # a smaller difference is drift
LATEST_MS = 253_370_764_800_000  # the end of the year 9998: later times from files could not be shown everywhere


def _boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Clock:
    """The wall clock as it was when this object was made, advanced by the time since the machine started.

    wall: nanoseconds since 1970. elapsed: nanoseconds on a clock that is never stepped and includes sleep.
    """

    def __init__(self, wall: Callable[[], int] = time.time_ns, elapsed: Callable[[], int] = _boot_ns) -> None:
        self._wall = wall
        self._elapsed = elapsed
        self._offset = wall() - elapsed()

    def now_ms(self) -> int:
        """The present."""
        return (self._offset + self._elapsed()) // 1_000_000

    def wall_ms(self) -> int:
        """The wall clock, steps included."""
        return self._wall() // 1_000_000


_clock = Clock()


def now_ms() -> int:
    """The present, for display, sorting and long waits; leases and short waits use monotonic clocks."""
    return _clock.now_ms()


def wall_ms() -> int:
    """The wall clock, for what processes with other clocks compare: it may step."""
    return _clock.wall_ms()


def stepped_seconds() -> float:
    """How far the wall clock was set forward (or back, negative) since this process started; 0 if it only drifted."""
    stepped = (_clock.wall_ms() - _clock.now_ms()) / 1000
    return stepped if abs(stepped) >= STEP_SECONDS else 0.0


def from_wall(milliseconds: int) -> int:
    """The time of a moment that somebody read from the wall clock."""
    return milliseconds - round(1000 * stepped_seconds())


def rfc3339(milliseconds: int) -> str:
    """A time as RFC 3339, such as `2026-11-21T05:26:39.120Z`."""
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def optional_rfc3339(milliseconds: int | None) -> str | None:
    """A time as RFC 3339; None stays None."""
    return None if milliseconds is None else rfc3339(milliseconds)
