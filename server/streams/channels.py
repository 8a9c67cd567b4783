"""State shared by streams of the same jobs: the newest journal rows, encoded once, and pages of older ones."""

import asyncio
import json
from bisect import bisect_right
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal
from weakref import WeakValueDictionary

from sqlalchemy import Connection

from server.clock import rfc3339
from server.queue import queue
from server.queue.states import TERMINAL
from server.store import journal
from server.store.rows import JournalRow
from server.store.store import Store
from server.streams.permits import Permits

# The ids of a stream number the rows of its one job, or all rows of the journal.
Numbering = Literal["job_seq", "seq"]

RING_ROWS = 512  # encoded rows kept for each followed set of jobs, up to twice as many
RING_BYTES = 2**20  # of their text, with KEPT_ROWS rows at least
KEPT_ROWS = 8
PAGE_ROWS = 256  # rows read from the journal for one page
PAGE_BYTES = 2**20  # of their text: a page ends with the query that passes this
_QUERY_ROWS = 32
_CHUNK_BYTES = 256 * 1024  # bytes in one write: limits what waits in the socket buffer of a slow reader
_CACHED_PAGES = 64
_CACHED_BYTES = 32 * 2**20  # in these pages
_IDLE_CHANNELS = 32
_IDLE_BYTES = 32 * 2**20  # in these channels


def event_document(row: JournalRow) -> dict[str, Any]:
    """A journal row as sent to clients; `seq` numbers the job's own rows without gaps."""
    return {
        "job_id": row["job_id"],
        "seq": row["job_seq"],
        "time": rfc3339(row["time"]),
        "type": row["type"],
        "data": row["data"],
    }


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Message:
    """A journal row as sent, without its id line. `state`: the job's new state if the row is a state change.

    Every channel of an event loop that has the row holds the same object.
    """

    job_id: str
    job_seq: int
    seq: int
    state: str | None
    text: bytes


def encode(row: JournalRow) -> Message:
    """Encode a row for sending."""
    state = row["data"]["state"] if row["type"] == "job.state" else None
    data = json.dumps(event_document(row), separators=(",", ":"))
    text = f"event: {row['type']}\ndata: {data}\n\n".encode()
    return Message(row["job_id"], row["job_seq"], row["seq"], state, text)


@dataclass(frozen=True)
class Page:
    """Consecutive rows, and their ids in ascending order."""

    ids: Sequence[int]
    messages: Sequence[Message]

    @cached_property
    def size(self) -> int:
        """Bytes of text."""
        return sum(len(message.text) for message in self.messages)

    def pieces(self) -> Iterator[bytes]:
        """The page, divided into writes of moderate size."""
        parts, size = [], 0
        for identity, message in zip(self.ids, self.messages, strict=True):
            parts.append(b"id: %d\n%b" % (identity, message.text))
            size += len(message.text)
            if size >= _CHUNK_BYTES:
                yield b"".join(parts)
                parts, size = [], 0
        if parts:
            yield b"".join(parts)


class Channel:
    """State shared by all streams of the same jobs: the newest rows, encoded, and the states of the jobs.

    share: gives the message of a row that the event loop has already, or else the given one.
    """

    def __init__(
        self, store: Store, job_ids: tuple[str, ...], numbering: Numbering, share: Callable[[Message], Message]
    ) -> None:
        self._store = store
        self._share = share
        self.job_ids = job_ids
        self.numbering = numbering
        self.readers: set[asyncio.Event] = set()
        self.newest = 0
        self.ended = False
        self.states: dict[str, str] = {}
        self.size = 0  # bytes of text in the ring
        self._ids: list[int] = []
        self._messages: list[Message] = []
        self._floor = 0  # all rows with a greater id are in the ring
        self._early: list[Message] | None = []  # rows that arrived while the past was being read
        self._ready = asyncio.create_task(self._load())

    async def ready(self) -> None:
        """Wait until the ring contains the past rows. Raises NotFound if one of the jobs does not exist."""
        await asyncio.shield(self._ready)

    async def _load(self) -> None:
        messages, whole, states = await asyncio.to_thread(self._store.read, self._past)
        for message in messages:
            self._add(self._share(message))
        if not whole and not self._floor:
            self._floor = self._ids[0] - 1
        self.states = states
        early, self._early = self._early or [], None
        self.ended = all(state in TERMINAL for state in states.values())
        self.append(early)

    def _past(self, connection: Connection) -> tuple[Sequence[Message], bool, dict[str, str]]:
        """The newest rows, oldest first; whether these are all; and the states of the jobs."""
        states = {job_id: queue.get(connection, job_id)["state"] for job_id in self.job_ids}
        newest: list[Message] = []
        size, before = 0, None
        while len(newest) < RING_ROWS and (size < RING_BYTES or len(newest) < KEPT_ROWS):
            rows = journal.tail(connection, self.job_ids, limit=_QUERY_ROWS, before=before)
            newest += map(encode, reversed(rows))
            if len(rows) < _QUERY_ROWS:
                return newest[::-1], True, states
            size += sum(len(message.text) for message in newest[-_QUERY_ROWS:])
            before = rows[0]["seq"]
        return newest[::-1], False, states

    def append(self, messages: Sequence[Message]) -> None:
        """Append new rows of these jobs, in order; skips rows that are in the ring already."""
        if self._early is not None:
            self._early += messages
            return
        for message in messages:
            if self._number(message) <= self.newest:
                continue
            self._add(message)
            if message.state is not None:
                self.states[message.job_id] = message.state
                self.ended = all(state in TERMINAL for state in self.states.values())
        self.wake()

    def _number(self, message: Message) -> int:
        return message.job_seq if self.numbering == "job_seq" else message.seq

    def _add(self, message: Message) -> None:
        self.newest = self._number(message)
        self._ids.append(self.newest)
        self._messages.append(message)
        self.size += len(message.text)
        if len(self._ids) >= 2 * RING_ROWS or (self.size > RING_BYTES and len(self._ids) > KEPT_ROWS):
            self._shorten()

    def _shorten(self) -> None:
        """Drop the oldest rows, more than necessary, so that it happens seldom."""
        dropped = max(0, len(self._ids) - RING_ROWS)
        size = self.size - sum(len(message.text) for message in self._messages[:dropped])
        while size > RING_BYTES // 2 and len(self._ids) - dropped > KEPT_ROWS:
            size -= len(self._messages[dropped].text)
            dropped += 1
        self.size, self._floor = size, self._ids[dropped - 1]
        del self._ids[:dropped], self._messages[:dropped]

    def wake(self) -> None:
        """Wake all readers."""
        for reader in self.readers:
            reader.set()

    def in_ring(self, after: int) -> Page | None:
        """All rows after an id; None if the ring does not reach back that far."""
        if after < self._floor:
            return None
        start = bisect_right(self._ids, after)
        return Page(self._ids[start:], self._messages[start:])

    def from_journal(self, after: int) -> Page:
        """A page of rows after an id. Thread-safe."""
        messages = self._store.read(lambda connection: self._page(connection, after))
        return Page([self._number(message) for message in messages], messages)

    def _page(self, connection: Connection, after: int) -> list[Message]:
        messages: list[Message] = []
        size = 0
        while len(messages) < PAGE_ROWS and size < PAGE_BYTES:
            rows = self._rows(connection, after)
            messages += map(encode, rows)
            if len(rows) < _QUERY_ROWS:
                break
            after = self._number(messages[-1])
            size += sum(len(message.text) for message in messages[-_QUERY_ROWS:])
        return messages

    def newest_committed(self) -> int:
        """The newest id in the journal, which may not have reached the ring yet. Thread-safe."""
        [row] = self._store.read(lambda connection: journal.tail(connection, self.job_ids, limit=1))
        return self._number(encode(row))

    def _rows(self, connection: Connection, after: int) -> Sequence[JournalRow]:
        if self.numbering == "job_seq":
            return journal.of_job(connection, self.job_ids[0], after=after, limit=_QUERY_ROWS)
        return journal.of_jobs(connection, self.job_ids, after=after, limit=_QUERY_ROWS)


_Key = tuple[Numbering, tuple[str, ...]]


def _size(task: asyncio.Task[Page]) -> int:
    """Bytes of a page; 0 while it is read, or if that failed."""
    return 0 if not task.done() or task.cancelled() or task.exception() is not None else task.result().size


class Hub:
    """All channels of one event loop; used only from that loop."""

    def __init__(self, store: Store, ping_seconds: float) -> None:
        self._store = store
        self._ping_seconds = ping_seconds
        self._channels: dict[_Key, Channel] = {}
        self._idle: OrderedDict[_Key, None] = OrderedDict()  # channels without readers, the longest idle first
        self._messages: WeakValueDictionary[int, Message] = WeakValueDictionary()  # by seq
        self._pages: OrderedDict[tuple[_Key, int], asyncio.Task[Page]] = OrderedDict()
        self._ping: asyncio.TimerHandle | None = None
        self.by_job: defaultdict[str, list[Channel]] = defaultdict(list)
        self.streams: Counter[str] = Counter()
        self.permits = Permits()

    async def enter(self, numbering: Numbering, job_ids: tuple[str, ...], reader: asyncio.Event) -> Channel:
        """The filled channel of these jobs, with one more reader."""
        key = (numbering, job_ids)
        channel = self._channels.get(key)
        if channel is None:
            # Registered before the past is read, so that no row is missed in between.
            channel = self._channels[key] = Channel(self._store, job_ids, numbering, self._share)
            for job_id in job_ids:
                self.by_job[job_id].append(channel)
        channel.readers.add(reader)
        self._idle.pop(key, None)
        self._keep_pinging()
        try:
            await channel.ready()
        except BaseException as error:
            self.leave(channel, reader)
            if not isinstance(error, asyncio.CancelledError):
                self._forget(channel)
            raise
        return channel

    def leave(self, channel: Channel, reader: asyncio.Event) -> None:
        """Remove a reader; an idle channel is kept for a while for readers that return."""
        channel.readers.discard(reader)
        key = (channel.numbering, channel.job_ids)
        if not channel.readers and self._channels.get(key) is channel:
            self._idle[key] = None
        self._forget_idle()

    def _forget_idle(self) -> None:
        size = sum(self._channels[key].size for key in self._idle)
        while len(self._idle) > _IDLE_CHANNELS or size > _IDLE_BYTES:
            longest_idle = self._channels[next(iter(self._idle))]
            size -= longest_idle.size
            self._forget(longest_idle)

    def _forget(self, channel: Channel) -> None:
        key = (channel.numbering, channel.job_ids)
        if self._channels.get(key) is channel:
            del self._channels[key]
            self._idle.pop(key, None)
            for job_id in channel.job_ids:
                self.by_job[job_id].remove(channel)
                if not self.by_job[job_id]:
                    del self.by_job[job_id]

    def deliver(self, messages: Sequence[Message]) -> None:
        """Append each row to the channels of its job."""
        for_channel: dict[Channel, list[Message]] = defaultdict(list)
        for message in map(self._share, messages):
            for channel in self.by_job.get(message.job_id, ()):
                for_channel[channel].append(message)
        for channel, rows in for_channel.items():
            channel.append(rows)
        self._forget_idle()

    def _share(self, message: Message) -> Message:
        """The message of this row that a channel has already, or else this one, for the others."""
        return self._messages.setdefault(message.seq, message)

    async def page(self, channel: Channel, after: int) -> Page:
        """Rows after an id, from the ring or else from the journal; readers at the same position share one query."""
        page = channel.in_ring(after)
        if page is not None:
            return page
        # The journal is append-only, so a page stays valid once it was read.
        key = ((channel.numbering, channel.job_ids), after)
        task = self._pages.get(key)
        if task is None or (task.done() and task.exception() is not None):
            task = self._pages[key] = asyncio.create_task(asyncio.to_thread(channel.from_journal, after))
        self._pages.move_to_end(key)
        page = await asyncio.shield(task)
        self._drop_pages()
        return page

    def _drop_pages(self) -> None:
        read = {key: _size(task) for key, task in self._pages.items()}
        size = sum(read.values())
        while len(self._pages) > _CACHED_PAGES or size > _CACHED_BYTES:
            key, _ = self._pages.popitem(last=False)
            size -= read[key]

    def wake(self) -> None:
        """Wake all readers."""
        for channel in self._channels.values():
            channel.wake()

    def _keep_pinging(self) -> None:
        if self._ping is None:
            self._ping = asyncio.get_running_loop().call_later(self._ping_seconds, self._send_pings)

    def _send_pings(self) -> None:
        self._ping = None
        if len(self._idle) < len(self._channels):
            self.wake()
            self.permits.ask_again()
            self._keep_pinging()
