"""The event stream of jobs, without gap or repetition across broken connections and restarts of the service."""

import json
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

import httpx2

from server.client.connection import Connection, Interrupted, Params, wait_seconds
from server.client.errors import Unreachable

_END = "stream.end"
_SILENCE_SECONDS = 60.0  # the service says something every 15 seconds
_RETRY_SECONDS = 1.0  # between attempts, until the service says how long
_FIRST_CONTACT_SECONDS = 3.0


@dataclass(frozen=True)
class Event:
    """One thing that happened to a job.

    id: the place in the stream, to go on from. seq: counts the job's own events from 1, without gaps. type: such as
    `job.state` or `metric.batch`; data: as the service documents it, non-finite numbers by name.
    """

    id: int
    job_id: str
    seq: int
    time: datetime
    type: str
    data: Mapping[str, Any]

    @classmethod
    def of(cls, document: Mapping[str, Any], number: int) -> Self:
        """From the service's document, at a place in a stream."""
        moment = datetime.fromisoformat(document["time"])
        return cls(number, document["job_id"], document["seq"], moment, document["type"], document["data"])


def follow(
    connection: Connection, path: str, params: Params, *, after: int | None, patience_seconds: float
) -> Generator[Event, None, None]:
    """The events after an id (None: all), until all the jobs have ended.

    Connects again for as long as it takes, but raises Unreachable when the service was away for `patience_seconds`, or
    could not be reached in the first place.
    """
    place = _Place(after)
    while True:
        try:
            with connection.events(path, params, place.after, _SILENCE_SECONDS) as source:
                place.reached()
                if source is None:
                    return
                for message in source:
                    if message.event == _END:
                        return
                    event = place.advance(message)
                    if event is not None:
                        yield event
        except Interrupted as interruption:
            place.lost(interruption, patience_seconds)
        place.wait()


class _Place:
    """Where a stream has got to, and how long the service has been away."""

    def __init__(self, after: int | None) -> None:
        self.after = after
        self._retry_seconds = _RETRY_SECONDS
        self._retry_after: float | None = None
        self._failures = 0
        self._ever = False
        self._last_contact = time.monotonic()

    def reached(self) -> None:
        """The service has answered."""
        self._ever, self._failures, self._retry_after = True, 0, None

    def advance(self, message: httpx2.ServerSentEvent) -> Event | None:
        """The event of a message; None for one that only serves the connection, or that came before."""
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
        """The connection broke or was refused. Raises when that has gone on for too long."""
        now = time.monotonic()
        if not self._failures and self._ever:
            self._last_contact = now
        self._failures += 1
        self._retry_after = interruption.retry_after_seconds
        patience = patience_seconds if self._ever else min(_FIRST_CONTACT_SECONDS, patience_seconds)
        if now - self._last_contact > patience:
            if self._ever:
                away = f"{interruption.cause} (away for {now - self._last_contact:.0f} seconds)"
                raise Unreachable(away) from None
            raise interruption.cause from None

    def wait(self) -> None:
        """Wait as long as the service asked for, longer with every failure."""
        time.sleep(wait_seconds(self._failures, self._retry_seconds, self._retry_after))
