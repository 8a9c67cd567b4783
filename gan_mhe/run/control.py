"""Stopping on signals: on the first the run saves and stops, on the second it quits without saving."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """A `RunControl` that a signal handler sets."""

    def __init__(self) -> None:
        self._requested = False

    def should_stop(self) -> bool:
        return self._requested

    def request(self) -> bool:
        """Request a stop. Returns False if one was already requested."""
        first, self._requested = not self._requested, True
        return first


@contextmanager
def stop_on_signals(say: Callable[[str], None]) -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM in the body into a stop request; a second signal raises KeyboardInterrupt.

    say: prints a message for the user.
    """
    stop = StopRequest()

    def handle(number: int, frame: FrameType | None) -> None:
        if not stop.request():
            say("quitting without saving; the last checkpoint is intact")
            raise KeyboardInterrupt
        say("stopping: finishing and saving this step first; repeat to quit without saving")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
