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


def stop_signals() -> tuple[signal.Signals, ...]:
    """SIGINT, SIGTERM and SIGHUP; the last only if it is not ignored, as it is after `nohup`."""
    hangup = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
    return (signal.SIGINT, signal.SIGTERM, *hangup)


@contextmanager
def stop_on_signals(say: Callable[[str], None]) -> Iterator[StopRequest]:
    """Turn the `stop_signals` in the body into a stop request; a second SIGINT or SIGTERM raises KeyboardInterrupt.

    SIGHUP never counts as the first of two: a terminal that closes sends it several times, some followed by SIGTERM.
    say: prints a message for the user.
    """
    stop, insisted = StopRequest(), StopRequest()

    def handle(number: int, frame: FrameType | None) -> None:
        first = stop.request()
        if number == signal.SIGHUP:
            if first:
                say("stopping: finishing and saving this step first")
            return
        if not insisted.request():
            say("quitting without saving; the last checkpoint is intact")
            raise KeyboardInterrupt
        say("stopping: finishing and saving this step first; repeat to quit without saving")

    before = {number: signal.signal(number, handle) for number in stop_signals()}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
