"""The event stream of jobs, without gaps or repetitions across broken connections and restarts of the service."""

import json
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

import httpx2

from server.client.connection import Connection, Interrupted, Params, wait_seconds
from server.client.errors import NotAuthorized, Unreachable

_END = "stream.end"
_CLOSED = "stream.closed"
_SILENCE_SECONDS = 60.0  # the service sends something every 15 seconds
_RETRY_SECONDS = 1.0  # between attempts, unless the service sets another delay
_FIRST_CONTACT_SECONDS = 3.0


@dataclass(frozen=True)
class Event:
    """One event of a job.

    id: position in the stream, to continue from. seq: number among the job's own events, from 1 without gaps. type:
    such as `job.state` or `metric.batch`. data: as documented by the service, with non-finite numbers as strings.
    """

    id: int
    job_id: str
    seq: int
    time: datetime
    type: str
    data: Mapping[str, Any]

    @classmethod
    def of(cls, document: Mapping[str, Any], number: int) -> Self:
        """The event of a document of the service, with its position in a stream."""
        moment = datetime.fromisoformat(document["time"])
        return cls(number, document["job_id"], document["seq"], moment, document["type"], document["data"])


def follow(
    connection: Connection, path: str, params: Params, *, after: int | None, patience_seconds: float
) -> Generator[Event, None, None]:
    """The events after an id (None: all), until all the jobs have ended.

    Reconnects as often as needed. Raises Unreachable if the service was away for `patience_seconds`, or could not be
    reached at the start, NotAuthorized if the key was revoked while it followed.
    """
    position = _Position(after)
    while True:
        try:
            with connection.events(path, params, position.after, _SILENCE_SECONDS) as source:
                position.reached()
                if source is None:
                    return
                for message in source:
                    if message.event == _END:
                        return
                    if message.event == _CLOSED:
                        reason = json.loads(message.data)
                        raise NotAuthorized(reason["detail"], code=reason["code"])
                    event = position.advance(message)
                    if event is not None:
                        yield event
        except Interrupted as interruption:
            position.lost(interruption, patience_seconds)
        position.wait()


class _Position:
    """The position of a stream, and how long the service has been away."""

    def __init__(self, after: int | None) -> None:
        self.after = after
        self._retry_seconds = _RETRY_SECONDS
        self._retry_after: float | None = None
        self._failures = 0
        self._connected_before = False
        self._last_contact = time.monotonic()

    def reached(self) -> None:
        """Record a response of the service."""
        self._connected_before, self._failures, self._retry_after = True, 0, None

    def advance(self, message: httpx2.ServerSentEvent) -> Event | None:
        """The event of a message; None for a keep-alive message or an event that was received before."""
        if message.retry is not None:
            self._retry_seconds = message.retry / 1000
        if not message.data or not message.id.isdigit():
            return None
        document, number = json.loads(message.data), int(message.id)
        if "seq" not in document or (self.after is not None and number <= self.after):
            return None
        self.after = number
        return Event.of(document, number)

    def lost(self, interruption: Interrupted, patience_seconds: float) -> None:
        """Record an interruption. Raises its cause, or Unreachable, if the service has been away for too long."""
        now = time.monotonic()
        if not self._failures and self._connected_before:
            self._last_contact = now
        self._failures += 1
        self._retry_after = interruption.retry_after_seconds
        patience = patience_seconds if self._connected_before else min(_FIRST_CONTACT_SECONDS, patience_seconds)
        if now - self._last_contact > patience:
            if self._connected_before:
                away = f"{interruption.cause} (away for {now - self._last_contact:.0f} seconds)"
                raise Unreachable(away) from None
            raise interruption.cause from None

    def wait(self) -> None:
        """Wait before reconnecting: as long as the service asked for, and longer after each failure."""
        time.sleep(wait_seconds(self._failures, self._retry_seconds, self._retry_after))
