"""Connections with time limits, and room for others when there are many.

The web server waits without end for the rest of a request, and for a client to read an answer. Its protocol is extended
here: a client that is overdue is disconnected, and when there are too many connections, those that wait for a request
give way to new ones, so that silence cannot keep anybody out.
"""

import asyncio
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

CROWDED = "crowded"  # key of the request's state: whether too many other requests are being answered
RESERVE = 100  # connections beyond the limit, so that a new one has time to send its request
_SOONEST_SECONDS = 0.01


@dataclass(frozen=True)
class Limits:
    """How long a client may take, in seconds, and how many may be connected.

    head: until the head of a request is complete. body: until its body is. stall: without a byte of a body, or without
    taking a byte of an answer. connections: number of requests answered at a time.
    """

    head: float
    body: float
    stall: float
    connections: int


class Phase(IntEnum):
    """What a connection waits for, in the order in which connections give way to new ones."""

    HEAD = 0
    NEXT_REQUEST = 1
    BODY = 2
    ANSWER = 3


class Connection(H11Protocol):
    """The server's side of a connection. `bounded` sets the limits."""

    limits: Limits

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._shared_state = self.app_state
        self._phase = Phase.HEAD
        self._phase_cycle: Any = None
        self._since = self._heard = self._taken = self.loop.time()  # phase began; last byte came; last byte went
        self._unsent = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock, and make room if there are too many connections."""
        super().connection_made(transport)
        # Nothing more is written while a byte is unsent, so that the buffer shrinks exactly if the client reads.
        transport.set_write_buffer_limits(high=0)
        self._watch()
        if len(self.connections) > self.limits.connections + RESERVE:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Note that the client sent something."""
        self._heard = self.loop.time()
        super().data_received(data)

    def handle_events(self) -> None:
        """Mark requests that come while too many others are answered, and note the phase afterwards."""
        self.app_state = {**self._shared_state, CROWDED: self._is_crowded()}
        super().handle_events()
        self._enter_phase()

    def on_response_complete(self) -> None:
        """Note the phase after an answer."""
        super().on_response_complete()
        self._enter_phase()

    def pause_writing(self) -> None:
        """Note how much the client has yet to take."""
        self._unsent, self._taken = self.transport.get_write_buffer_size(), self.loop.time()
        super().pause_writing()

    def _enter_phase(self) -> None:
        phase = self._current_phase()
        if (phase, self.cycle) != (self._phase, self._phase_cycle):
            self._phase, self._phase_cycle, self._since = phase, self.cycle, self.loop.time()

    def _current_phase(self) -> Phase:
        if self.conn.their_state is h11.IDLE:
            begun = self.cycle is None or self.conn.trailing_data[0]
            return Phase.HEAD if begun else Phase.NEXT_REQUEST  # between requests the web server has its own limit
        return Phase.BODY if self.conn.their_state is h11.SEND_BODY else Phase.ANSWER

    def _watch(self) -> None:
        """Disconnect the client if it is overdue; else look again when it can be."""
        left = self._seconds_left()
        if left <= 0:
            self._time_out()
        self._timer = self.loop.call_later(max(left, _SOONEST_SECONDS), self._watch)

    def _seconds_left(self) -> float:
        """Time until the client is overdue if it does nothing, or until it can be."""
        limits, now = self.limits, self.loop.time()
        left = [limits.head, limits.body, limits.stall]
        if self._phase is Phase.HEAD and not self.transport.is_closing():
            left.append(self._since + limits.head - now)
        elif self._phase is Phase.BODY and not self.flow.read_paused and not self.transport.is_closing():
            left += [self._since + limits.body - now, self._heard + limits.stall - now]
        unsent = self.transport.get_write_buffer_size()
        if unsent != self._unsent:
            self._unsent, self._taken = unsent, now
        if unsent:
            left.append(self._taken + limits.stall - now)
        return min(left)

    def _time_out(self) -> None:
        """Disconnect, with a reason if the client has sent part of a request and no answer has begun."""
        answerable = self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE) and not self.transport.is_closing()
        partial = self._phase is Phase.BODY or bool(self.conn.trailing_data[0])
        if not answerable or not partial:
            self.transport.abort()
            return
        limits = self.limits
        reason = (
            f"the request was not complete in time: expected its head within {limits.head:g} s, its body within "
            f"{limits.body:g} s and no pause of {limits.stall:g} s\n"
        ).encode()
        headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(reason))), ("Connection", "close")]
        for event in (h11.Response(status_code=408, headers=headers), h11.Data(data=reason), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _is_crowded(self) -> bool:
        most = self.limits.connections
        if len(self.tasks) >= most:
            return True
        return len(self.connections) > most and sum(each._phase is Phase.ANSWER for each in self._others()) >= most

    def _make_room(self) -> None:
        """Disconnect the client that has kept a connection waiting for longest; this one if all others are busy."""
        waiting = [each for each in self._others() if each._phase is not Phase.ANSWER]
        leaving = min(waiting, key=lambda each: (each._phase, each._since), default=self)
        self.connections.discard(leaving)  # at once: many connections can be made before this one is lost
        leaving.transport.abort()

    def _others(self) -> list["Connection"]:
        return [each for each in self.connections if isinstance(each, Connection) and each is not self]


def bounded(given: Limits) -> type[Connection]:
    """The protocol with these limits, for uvicorn's `http`."""

    class BoundedConnection(Connection):
        limits = given

    return BoundedConnection
