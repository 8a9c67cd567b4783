"""Signals as a request to stop: the first is answered with a checkpoint, the second at once."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """A `RunControl` that a signal handler sets."""

    def __init__(self) -> None:
        self._asked = False

    def should_stop(self) -> bool:
        return self._asked

    def ask(self) -> bool:
        """Ask for a stop; False when it had been asked for already."""
        first, self._asked = not self._asked, True
        return first


@contextmanager
def stop_on_signals(say: Callable[[str], None]) -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a stop request for the body; a second one raises KeyboardInterrupt."""
    request = StopRequest()

    def handle(number: int, frame: FrameType | None) -> None:
        if not request.ask():
            say("quitting at once; the last checkpoint stands")
            raise KeyboardInterrupt
        say("stopping: this step is finished and saved first; once more to quit at once")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
