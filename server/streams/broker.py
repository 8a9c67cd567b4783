"""Live event streams: the journal as server-sent events, complete and in order, for any number of readers.

A stream is a position in the journal and has no queue of its own. The newest rows of a job are encoded once and kept
in a ring that all its streams read; a reader that has fallen behind the ring reads pages of the journal until it has
caught up. No event is ever dropped: a slow reader is late, and a reader that stops reading is disconnected after some
time and continues after its last id when it reconnects.
"""

import asyncio
import json
import random
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from server.errors import TooManyStreams
from server.store.rows import JournalRow
from server.store.store import Store
from server.streams.channels import Channel, Hub, Numbering, encode
from server.streams.permits import Permit

_RETRY_MS = (1000, 5000)
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_PING = b": ping\n\n"
_RESTARTING = b"event: server.restarting\ndata: {}\n\n"
_REASON = b'{"code":"unauthenticated","detail":"the API key was revoked, or a key is required now"}'
_CLOSED = b"event: stream.closed\ndata: %b\n\n" % _REASON


class Broker:
    """Distributes journal rows from the threads that commit them to the streams of every event loop."""

    def __init__(self, store: Store, *, ping_seconds: float = 15.0, stall_seconds: float = 30.0) -> None:
        """ping_seconds: interval of keep-alive comments, and of questions whether keys still hold.

        stall_seconds: time a reader has to accept a message.
        """
        self._store = store
        self._ping_seconds = ping_seconds
        self.stall_seconds = stall_seconds
        self.closing = False
        self._guard = threading.Lock()
        self._hubs: dict[asyncio.AbstractEventLoop, Hub] = {}

    def publish(self, rows: Sequence[JournalRow]) -> None:
        """Send committed rows to the streams of their jobs. Returns immediately; thread-safe; call in commit order.

        A row of a job without streams is read from the journal by the job's next stream.
        """
        with self._guard:
            hubs = list(self._hubs.items())
        followed = [row for row in rows if any(row["job_id"] in hub.by_job for _, hub in hubs)]
        messages = [encode(row) for row in followed]
        for loop, hub in hubs:
            if messages:
                self._call(loop, hub.deliver, messages)

    def shutdown(self) -> None:
        """Announce the shutdown in every stream and end it. Returns immediately; thread-safe."""
        self.closing = True
        with self._guard:
            hubs = list(self._hubs.items())
        for loop, hub in hubs:
            self._call(loop, hub.wake)

    def open_streams(self) -> int:
        """The number of open streams."""
        with self._guard:
            return sum(hub.streams.total() for hub in self._hubs.values())

    def _call(self, loop: asyncio.AbstractEventLoop, function: Any, *arguments: Any) -> None:
        try:
            loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop is closed, and so are its streams
            with self._guard:
                self._hubs.pop(loop, None)

    def _hub(self) -> Hub:
        loop = asyncio.get_running_loop()
        with self._guard:
            if loop not in self._hubs:
                self._hubs[loop] = Hub(self._store, self._ping_seconds)
            return self._hubs[loop]

    async def open(
        self,
        job_ids: Sequence[str],
        numbering: Numbering,
        *,
        after: int | None,
        owner: str,
        limit: int,
        holds: Callable[[], bool] = lambda: True,
    ) -> "Subscription | None":
        """A stream of the rows after `after` (None: all), or None if all jobs have ended and no row follows.

        holds: whether `owner` may still read, asked in a thread at every ping; one that may not gets `stream.closed`.
        An id beyond the newest row means the newest row. Raises TooManyStreams if `owner` already has `limit` open
        streams, NotFound if a job does not exist. The caller closes the subscription.
        """
        hub = self._hub()
        if hub.streams[owner] >= limit:
            raise TooManyStreams(
                f"expected at most {limit} open streams with this key (GAN_MHE_MAX_STREAMS_PER_KEY, or the key's own "
                f"limit); {limit} are open"
            )
        reader = asyncio.Event()
        hub.streams[owner] += 1
        try:
            channel = await hub.enter(numbering, tuple(sorted(set(job_ids))), reader)
        except BaseException:
            hub.streams[owner] -= 1
            raise
        subscription = Subscription(self, hub, channel, Permit(owner, holds, wake=reader))
        try:
            await subscription.begin(after or 0)
        except BaseException:
            subscription.close()
            raise
        if after is not None and subscription.is_finished():
            subscription.close()
            return None
        return subscription

    async def wait_until_ended(self, job_id: str, seconds: float) -> None:
        """Wait until a job has ended, the server shuts down, or the time is over."""
        hub, reader = self._hub(), asyncio.Event()
        channel = await hub.enter("job_seq", (job_id,), reader)
        try:
            async with asyncio.timeout(seconds):
                while not channel.ended and not self.closing:
                    reader.clear()
                    await reader.wait()
        except TimeoutError:
            pass
        finally:
            hub.leave(channel, reader)


class Subscription:
    """An open stream."""

    def __init__(self, broker: Broker, hub: Hub, channel: Channel, permit: Permit) -> None:
        self.broker = broker
        self._hub = hub
        self._channel = channel
        self._permit = permit
        self._reader = permit.wake
        self._position = 0
        hub.permits.open.add(permit)
        self._open = True

    async def begin(self, after: int) -> None:
        """Start after an id, which may be newer than the channel's: rows are committed before they are published."""
        if after > self._channel.newest:
            after = min(after, await asyncio.to_thread(self._channel.newest_committed))
        self._position = after

    def is_finished(self) -> bool:
        """Whether all jobs have ended and every row was sent."""
        return self._channel.ended and self._position == self._channel.newest

    def close(self) -> None:
        """Release the stream; may be called repeatedly."""
        if self._open:
            self._open = False
            self._hub.leave(self._channel, self._reader)
            self._hub.streams[self._permit.owner] -= 1
            self._hub.permits.open.discard(self._permit)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes to send, from the first id to the last event."""
        yield b"id: %d\nretry: %d\n\n" % (self._position, random.randint(*_RETRY_MS))
        while not self._must_end():
            self._reader.clear()
            if self._position < self._channel.newest:
                page = await self._hub.page(self._channel, self._position)
                if not page.ids:  # the job was deleted in the meantime
                    return
                for piece in page.pieces():
                    yield piece
                    if self._must_end():
                        break
                self._position = page.ids[-1]
            elif self.is_finished():
                yield self._end_event()
                return
            else:
                await self._reader.wait()
                if self._position == self._channel.newest and not self._must_end():
                    yield _PING
        yield _RESTARTING if self.broker.closing else _CLOSED

    def _must_end(self) -> bool:
        return self.broker.closing or self._permit.lost

    def _end_event(self) -> bytes:
        states: Mapping[str, str] = self._channel.states
        single = self._channel.numbering == "job_seq"
        data = {"state": states[self._channel.job_ids[0]]} if single else {"states": states}
        return f"event: stream.end\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


class EventStream(StreamingResponse):
    """A subscription as a response; closes the subscription however the response ends."""

    def __init__(self, subscription: Subscription) -> None:
        super().__init__(subscription.chunks(), media_type="text/event-stream", headers=_HEADERS)
        self._subscription = subscription

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the stream ends, the client disconnects, or the client stops reading."""

        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(self._subscription.broker.stall_seconds):
                await send(message)

        try:
            await super().__call__(scope, receive, send_in_time)
        except TimeoutError:  # the client does not read; the server closes the connection
            pass
        finally:
            self._subscription.close()
