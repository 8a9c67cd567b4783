"""State shared by streams of the same jobs: the newest journal rows, encoded once, and pages of older ones."""

import asyncio
import json
from bisect import bisect_right
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection

from server.clock import rfc3339
from server.queue import queue
from server.queue.states import TERMINAL
from server.store import journal
from server.store.rows import JournalRow
from server.store.store import Store

# The ids of a stream number the rows of its one job, or all rows of the journal.
Numbering = Literal["job_seq", "seq"]

RING_ROWS = 512  # minimum number of encoded rows kept for each followed job
PAGE_ROWS = 256  # rows read from the journal in one query
_CHUNK_BYTES = 256 * 1024  # bytes in one write: limits what waits in the socket buffer of a slow reader
_CACHED_PAGES = 64
_IDLE_CHANNELS = 32


def event_document(row: JournalRow) -> dict[str, Any]:
    """A journal row as sent to clients; `seq` numbers the job's own rows without gaps."""
    return {
        "job_id": row["job_id"],
        "seq": row["job_seq"],
        "time": rfc3339(row["time"]),
        "type": row["type"],
        "data": row["data"],
    }


class Message(NamedTuple):
    """A journal row as sent, without its id line. `state`: the job's new state if the row is a state change."""

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
    """Consecutive rows: their ids in ascending order, and the bytes sent for each."""

    ids: Sequence[int]
    texts: Sequence[bytes]

    def pieces(self) -> Iterator[bytes]:
        """The page, divided into writes of moderate size."""
        start, size = 0, 0
        for end, text in enumerate(self.texts, 1):
            size += len(text)
            if size >= _CHUNK_BYTES or end == len(self.texts):
                yield b"".join(self.texts[start:end])
                start, size = end, 0


class Channel:
    """State shared by all streams of the same jobs: the newest rows, encoded, and the states of the jobs."""

    def __init__(self, store: Store, job_ids: tuple[str, ...], numbering: Numbering) -> None:
        self._store = store
        self.job_ids = job_ids
        self.numbering = numbering
        self.readers: set[asyncio.Event] = set()
        self.newest = 0
        self.ended = False
        self.states: dict[str, str] = {}
        self._ids: list[int] = []
        self._texts: list[bytes] = []
        self._floor = 0  # all rows with a greater id are in the ring
        self._early: list[Message] | None = []  # rows that arrived while the past was being read
        self._ready = asyncio.create_task(self._load())

    async def ready(self) -> None:
        """Wait until the ring contains the past rows. Raises NotFound if one of the jobs does not exist."""
        await asyncio.shield(self._ready)

    async def _load(self) -> None:
        rows, states = await asyncio.to_thread(self._store.read, self._past)
        messages = [encode(row) for row in rows]
        for message in messages:
            self._add(message)
        if len(rows) == RING_ROWS:
            self._floor = self._ids[0] - 1
        self.states = states
        early, self._early = self._early or [], None
        self.ended = all(state in TERMINAL for state in states.values())
        self.append(early)

    def _past(self, connection: Connection) -> tuple[Sequence[JournalRow], dict[str, str]]:
        states = {job_id: queue.get(connection, job_id)["state"] for job_id in self.job_ids}
        return journal.tail(connection, self.job_ids, limit=RING_ROWS), states

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

    def _text(self, message: Message) -> bytes:
        return b"id: %d\n%b" % (self._number(message), message.text)

    def _add(self, message: Message) -> None:
        self.newest = self._number(message)
        self._ids.append(self.newest)
        self._texts.append(self._text(message))
        if len(self._ids) >= 2 * RING_ROWS:
            self._floor = self._ids[RING_ROWS - 1]
            del self._ids[:RING_ROWS], self._texts[:RING_ROWS]

    def wake(self) -> None:
        """Wake all readers."""
        for reader in self.readers:
            reader.set()

    def in_ring(self, after: int) -> Page | None:
        """All rows after an id; None if the ring does not reach back that far."""
        if after < self._floor:
            return None
        start = bisect_right(self._ids, after)
        return Page(self._ids[start:], self._texts[start:])

    def from_journal(self, after: int) -> Page:
        """A page of rows after an id. Thread-safe."""
        messages = [encode(row) for row in self._store.read(lambda connection: self._rows(connection, after))]
        return Page([self._number(message) for message in messages], [self._text(message) for message in messages])

    def newest_committed(self) -> int:
        """The newest id in the journal, which may not have reached the ring yet. Thread-safe."""
        [row] = self._store.read(lambda connection: journal.tail(connection, self.job_ids, limit=1))
        return self._number(encode(row))

    def _rows(self, connection: Connection, after: int) -> Sequence[JournalRow]:
        if self.numbering == "job_seq":
            return journal.of_job(connection, self.job_ids[0], after=after, limit=PAGE_ROWS)
        return journal.of_jobs(connection, self.job_ids, after=after, limit=PAGE_ROWS)


_Key = tuple[Numbering, tuple[str, ...]]


class Hub:
    """All channels of one event loop; used only from that loop."""

    def __init__(self, store: Store, ping_seconds: float) -> None:
        self._store = store
        self._ping_seconds = ping_seconds
        self._channels: dict[_Key, Channel] = {}
        self._idle: OrderedDict[_Key, None] = OrderedDict()  # channels without readers, the longest idle first
        self._pages: OrderedDict[tuple[_Key, int], asyncio.Task[Page]] = OrderedDict()
        self._ping: asyncio.TimerHandle | None = None
        self.by_job: defaultdict[str, list[Channel]] = defaultdict(list)
        self.streams: Counter[str] = Counter()

    async def enter(self, numbering: Numbering, job_ids: tuple[str, ...], reader: asyncio.Event) -> Channel:
        """The filled channel of these jobs, with one more reader."""
        key = (numbering, job_ids)
        channel = self._channels.get(key)
        if channel is None:
            # Registered before the past is read, so that no row is missed in between.
            channel = self._channels[key] = Channel(self._store, job_ids, numbering)
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
        while len(self._idle) > _IDLE_CHANNELS:
            self._forget(self._channels[next(iter(self._idle))])

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
        for message in messages:
            for channel in self.by_job.get(message.job_id, ()):
                for_channel[channel].append(message)
        for channel, rows in for_channel.items():
            channel.append(rows)

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
        if len(self._pages) > _CACHED_PAGES:
            self._pages.popitem(last=False)
        return await asyncio.shield(task)

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
            self._keep_pinging()
