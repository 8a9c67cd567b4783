"""The broker: every stream sends every event exactly once."""

import asyncio
import gc
import json
import random
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection
from structlog.testing import capture_logs

from server.errors import NotFound, TooManyStreams
from server.queue import queue, removal
from server.queue.states import State
from server.store import journal
from server.store.store import Store
from server.streams.broker import Broker, EventStream, Subscription
from server.streams.channels import PAGE_ROWS, RING_BYTES, RING_ROWS

DEADLINE = 10.0


def submit(store: Store) -> str:
    new = queue.NewJob(project="p", request={}, request_sha256="0")
    return str(store.write(lambda connection: queue.create(connection, new))["id"])


def move(store: Store, job_id: str, *states: State) -> None:
    for state in states:
        store.write(partial(move_to, job_id, state))


def move_to(job_id: str, state: State, connection: Connection) -> None:
    queue.move(connection, queue.get(connection, job_id), state)


def end(store: Store, job_id: str) -> None:
    store.write(lambda connection: queue.cancel(connection, queue.get(connection, job_id)))


def report(store: Store, job_id: str, count: int = 1) -> None:
    def work(connection: Connection) -> None:
        for _ in range(count):
            journal.append(connection, job_id, "metric.batch", {"points": []})

    store.write(work, durable=False)


def broker_of(store: Store, **options: float) -> Broker:
    broker = Broker(store, **options)
    store.subscribe(broker.publish)
    return broker


@asynccontextmanager
async def stream(
    broker: Broker, *job_ids: str, after: int | None = None, numbering: Any = "job_seq", owner: str = "k"
) -> AsyncIterator[Subscription]:
    subscription = await broker.open(job_ids, numbering, after=after, owner=owner, limit=1000)
    assert subscription is not None
    try:
        yield subscription
    finally:
        subscription.close()


class Reader:
    """Reads one subscription to its end, or until a condition holds."""

    def __init__(self, subscription: Subscription) -> None:
        self._chunks = subscription.chunks()
        self.text = ""

    async def until(self, enough: Callable[["Reader"], bool]) -> "Reader":
        async with asyncio.timeout(DEADLINE):
            while not enough(self):
                self.text += (await anext(self._chunks)).decode()
        return self

    async def to_the_end(self) -> "Reader":
        async with asyncio.timeout(DEADLINE):
            async for chunk in self._chunks:
                self.text += chunk.decode()
        return self

    @property
    def messages(self) -> list[dict[str, str]]:
        blocks = [block for block in self.text.split("\n\n") if "event: " in block]
        return [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks]

    @property
    def ids(self) -> list[int]:
        return [int(message["id"]) for message in self.messages if "id" in message]


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


@contextmanager
def counted_reads(store: Store) -> Iterator[list[int]]:
    reads, read = [0], store.read
    store.read = lambda work: (reads.__setitem__(0, reads[0] + 1), read(work))[1]  # type: ignore[method-assign]
    yield reads
    store.read = read  # type: ignore[method-assign]


def test_a_stream_replays_the_history_then_follows(store: Store) -> None:
    async def scenario() -> None:
        broker, job = broker_of(store), submit(store)
        report(store, job, 3)
        async with stream(broker, job) as subscription:
            reader = await Reader(subscription).until(lambda r: len(r.ids) == 4)
            await asyncio.to_thread(report, store, job, 2)
            await reader.until(lambda r: len(r.ids) == 6)
        assert reader.ids == [1, 2, 3, 4, 5, 6]

    run(scenario())


def test_a_message_has_id_type_and_the_rows_envelope(store: Store) -> None:
    async def scenario() -> None:
        broker, job = broker_of(store), submit(store)
        async with stream(broker, job) as subscription:
            reader = await Reader(subscription).until(lambda r: bool(r.messages))
        message = reader.messages[0]
        assert message["id"] == "1" and message["event"] == "job.state"
        envelope = json.loads(message["data"])
        assert envelope.keys() == {"job_id", "seq", "time", "type", "data"}
        assert envelope["job_id"] == job and envelope["seq"] == 1 and envelope["time"].endswith("Z")
        assert envelope["data"]["state"] == "queued"

    run(scenario())


def test_the_first_message_is_an_id_alone_with_a_jittered_retry(store: Store) -> None:
    async def scenario() -> None:
        broker, job = broker_of(store), submit(store)
        primers = []
        for _ in range(20):
            async with stream(broker, job, after=1) as subscription:
                primers.append((await anext(subscription.chunks())).decode())
        retries = {int(primer.split("retry: ")[1]) for primer in primers}
        assert all(primer.startswith("id: 1\nretry: ") and primer.endswith("\n\n") for primer in primers)
        assert len(retries) > 1 and min(retries) >= 1000 and max(retries) <= 5000

    run(scenario())


def test_a_stream_continues_after_the_last_id(store: Store) -> None:
    async def scenario() -> None:
        broker, job = broker_of(store), submit(store)
        report(store, job, 5)
        async with stream(broker, job, after=4) as subscription:
            reader = await Reader(subscription).until(lambda r: len(r.ids) == 2)
        assert reader.ids == [5, 6]

    run(scenario())


def test_an_id_beyond_the_newest_row_starts_at_the_newest_row(store: Store) -> None:
    async def scenario() -> None:
        broker, job = broker_of(store), submit(store)
        async with stream(broker, job, after=10**12) as subscription:
            reader = await Reader(subscription).until(lambda r: bool(r.text))
            await asyncio.to_thread(report, store, job)
            await reader.until(lambda r: bool(r.ids))
        assert reader.ids == [2]

    run(scenario())


def test_an_id_that_is_committed_but_not_yet_published_is_valid(store: Store) -> None:
    async def scenario() -> None:
        broker, job = Broker(store), submit(store)
        committed: list[Any] = []
        store.subscribe(committed.extend)
        async with stream(broker, job):
            move(store, job, State.FAILED)
            broker.publish(committed)
            await asyncio.sleep(0)
            committed.clear()
            store.write(lambda connection: queue.retry(connection, queue.get(connection, job)))
            async with stream(broker, job, after=3) as subscription:  # seen elsewhere, before its publication
                reader = await Reader(subscription).until(lambda r: bool(r.text))
                report(store, job)
                broker.publish(committed)
                await reader.until(lambda r: bool(r.ids))
        assert reader.ids == [4]
        assert "stream.end" not in reader.text

    run(scenario())


def test_a_history_longer_than_the_ring_is_replayed_from_the_journal(store: Store) -> None:
    async def scenario() -> None:
        broker, job = broker_of(store), submit(store)
        total = RING_ROWS + 3 * PAGE_ROWS + 17
        report(store, job, total - 1)
        async with stream(broker, job) as subscription:
            reader = await Reader(subscription).until(lambda r: len(r.ids) >= total)
        assert reader.ids == list(range(1, total + 1))

    run(scenario())


def test_a_reader_that_fell_behind_the_ring_misses_nothing(store: Store) -> None:
    async def scenario() -> None:
        broker, job = broker_of(store), submit(store)
        async with stream(broker, job) as subscription:
            reader = await Reader(subscription).until(lambda r: r.ids == [1])
            for _ in range(6):
                await asyncio.to_thread(report, store, job, RING_ROWS)
            total = 1 + 6 * RING_ROWS
            await reader.until(lambda r: bool(r.ids) and r.ids[-1] == total)
        assert reader.ids == list(range(1, total + 1))

    run(scenario())


def test_readers_of_followed_rows_do_not_read_the_database_again(store: Store) -> None:
    async def scenario() -> None:
        broker, job = broker_of(store), submit(store)
        report(store, job, 50)
        async with stream(broker, job):
            pass
        with counted_reads(store) as reads:
            for after in range(1, 51):
                async with stream(broker, job, after=after) as subscription:
                    await Reader(subscription).until(lambda r: 51 in r.ids)
        assert reads == [0]

    run(scenario())


def test_the_same_jobs_in_another_order_are_read_once(store: Store) -> None:
    async def scenario() -> None:
        broker, one, two = broker_of(store), submit(store), submit(store)
        with counted_reads(store) as reads:
            for jobs in ((one, two), (two, one), (two, one, two)):
                async with stream(broker, *jobs, numbering="seq") as subscription:
                    await Reader(subscription).until(lambda r: len(r.ids) == 2)
        assert reads == [1]

    run(scenario())


def test_idle_channels_are_dropped_oldest_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.streams.channels._IDLE_CHANNELS", 2)

    async def scenario() -> None:
        broker, jobs = broker_of(store), [submit(store) for _ in range(3)]
        for job in jobs:
            async with stream(broker, job):
                pass
        with counted_reads(store) as reads:
            for job in (jobs[2], jobs[1]):
                async with stream(broker, job):
                    pass
            assert reads == [0]
            async with stream(broker, jobs[0]):
                pass
            assert reads == [1]

    run(scenario())


def test_cached_pages_are_dropped_oldest_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.streams.channels._CACHED_PAGES", 1)

    async def scenario() -> None:
        broker, job = broker_of(store), submit(store)
        report(store, job, RING_ROWS + PAGE_ROWS)

        async def read(after: int) -> None:
            async with stream(broker, job, after=after) as subscription:
                await Reader(subscription).until(lambda r: after + 1 in r.ids)

        await read(0)
        with counted_reads(store) as reads:
            await read(0)
            assert reads == [0]
            await read(1)
            await read(0)
            assert reads == [2]

    run(scenario())


def test_readers_of_the_same_old_page_share_one_query(store: Store) -> None:
    async def scenario() -> None:
        broker, job = broker_of(store), submit(store)
        total = RING_ROWS + PAGE_ROWS
        report(store, job, total - 1)

        async def read_all() -> list[int]:
            async with stream(broker, job) as subscription:
                return (await Reader(subscription).until(lambda r: total in r.ids)).ids

        with counted_reads(store) as reads:
            found = await asyncio.gather(*(read_all() for _ in range(20)))
        assert all(ids == list(range(1, total + 1)) for ids in found)
        assert reads == [2]  # the newest rows for the ring, and the one older page

    run(scenario())


def test_a_stream_ends_when_the_job_does(store: Store) -> None:
    async def scenario() -> None:
        broker, job = broker_of(store), submit(store)
        async with stream(broker, job) as subscription:
            reader = await Reader(subscription).until(lambda r: r.ids == [1])
            await asyncio.to_thread(end, store, job)
            await reader.to_the_end()
        last = reader.messages[-1]
        assert reader.ids == [1, 2]
        assert last == {"event": "stream.end", "data": '{"state":"cancelled"}'}

    run(scenario())


def test_a_stream_of_an_ended_job_replays_and_ends(store: Store) -> None:
    async def scenario() -> None:
        broker, job = broker_of(store), submit(store)
        end(store, job)
        async with stream(broker, job) as subscription:
            reader = await Reader(subscription).to_the_end()
        assert [message["event"] for message in reader.messages] == ["job.state", "job.state", "stream.end"]

    run(scenario())


@pytest.mark.parametrize("after", [2, 3, 10**6])
def test_no_stream_is_opened_at_the_end_of_an_ended_job(store: Store, after: int) -> None:
    async def scenario() -> None:
        broker, job = broker_of(store), submit(store)
        end(store, job)
        assert await broker.open([job], "job_seq", after=after, owner="k", limit=1) is None
        assert await broker.open([job], "job_seq", after=after, owner="k", limit=1) is None  # the stream is released

    run(scenario())


def test_the_stream_of_a_retried_job_continues_past_the_failure(store: Store) -> None:
    async def scenario() -> None:
        broker, job = broker_of(store), submit(store)
        move(store, job, State.FAILED)
        store.write(lambda connection: queue.retry(connection, queue.get(connection, job)))
        async with stream(broker, job) as subscription:
            reader = await Reader(subscription).until(lambda r: len(r.ids) == 3)
            await asyncio.to_thread(end, store, job)
            await reader.to_the_end()
        assert [message["event"] for message in reader.messages] == ["job.state"] * 4 + ["stream.end"]

    run(scenario())


def test_a_job_retried_before_its_end_was_sent_does_not_end_the_stream(store: Store) -> None:
    async def scenario() -> None:
        broker, job = broker_of(store), submit(store)
        async with stream(broker, job) as subscription:
            reader = await Reader(subscription).until(lambda r: r.ids == [1])
            move(store, job, State.FAILED)
            store.write(lambda connection: queue.retry(connection, queue.get(connection, job)))
            await reader.until(lambda r: len(r.ids) == 3)
        assert "stream.end" not in reader.text

    run(scenario())


def test_a_stream_of_several_jobs_has_the_journals_order_and_numbers(store: Store) -> None:
    async def scenario() -> None:
        broker, one, two, other = broker_of(store), submit(store), submit(store), submit(store)
        report(store, one)
        report(store, other)
        report(store, two)
        async with stream(broker, two, one, numbering="seq") as subscription:
            reader = await Reader(subscription).until(lambda r: len(r.ids) == 4)
            await asyncio.to_thread(report, store, two)
            await reader.until(lambda r: len(r.ids) == 5)
        assert reader.ids == [1, 2, 4, 6, 7]
        assert [json.loads(message["data"])["job_id"] for message in reader.messages] == [one, two, one, two, two]
        assert [json.loads(message["data"])["seq"] for message in reader.messages] == [1, 1, 2, 2, 3]

    run(scenario())


def test_a_stream_of_several_jobs_ends_with_the_last_of_them(store: Store) -> None:
    async def scenario() -> None:
        broker, one, two = broker_of(store, ping_seconds=0.05), submit(store), submit(store)
        async with stream(broker, one, two, numbering="seq") as subscription:
            reader = await Reader(subscription).until(lambda r: len(r.ids) == 2)
            await asyncio.to_thread(end, store, one)
            await reader.until(lambda r: len(r.ids) == 3)
            await asyncio.to_thread(report, store, two)
            await reader.until(lambda r: len(r.ids) == 4)
            pings = reader.text.count(": ping")
            await reader.until(lambda r: r.text.count(": ping") > pings)  # it continues
            await asyncio.to_thread(move, store, two, State.FAILED)
            await reader.to_the_end()
        last = reader.messages[-1]
        assert last["event"] == "stream.end"
        assert json.loads(last["data"]) == {"states": {one: "cancelled", two: "failed"}}

    run(scenario())


def test_a_long_history_of_several_jobs_is_replayed_from_the_journal(store: Store) -> None:
    async def scenario() -> None:
        broker, jobs = broker_of(store), [submit(store) for _ in range(3)]
        for _ in range(4):
            for job in jobs:
                report(store, job, 97)
        total = 3 + 4 * 3 * 97
        async with stream(broker, *jobs[:2], numbering="seq") as subscription:
            reader = await Reader(subscription).until(lambda r: len(r.ids) >= total - 1 - 4 * 97)
        assert reader.ids == sorted(set(reader.ids))
        seqs: dict[str, list[int]] = {}
        for message in reader.messages:
            envelope = json.loads(message["data"])
            seqs.setdefault(envelope["job_id"], []).append(envelope["seq"])
        assert seqs == {job: list(range(1, 2 + 4 * 97)) for job in jobs[:2]}

    run(scenario())


def write_large(store: Store, job_id: str, count: int, size: int) -> None:
    def work(connection: Connection) -> None:
        for _ in range(count):
            journal.append(connection, job_id, "log.lines", {"text": "x" * size})

    store.write(work, durable=False)


def test_a_reader_of_large_rows_misses_none_of_them(store: Store) -> None:
    async def scenario() -> None:
        broker, job = broker_of(store), submit(store)
        write_large(store, job, 40, RING_BYTES // 16)
        async with stream(broker, job) as behind, stream(broker, job, after=41) as ahead:
            readers = [Reader(behind), Reader(ahead)]
            for _ in range(4):
                await asyncio.to_thread(write_large, store, job, 10, RING_BYTES // 16)
                await readers[1].until(lambda r: bool(r.ids))
            for reader in readers:
                await reader.until(lambda r: bool(r.ids) and r.ids[-1] == 81)
        assert [reader.ids for reader in readers] == [list(range(1, 82)), list(range(42, 82))]

    run(scenario())


@pytest.mark.parametrize("followed", ["before", "after"])
def test_streams_of_overlapping_jobs_keep_one_copy_of_the_rows_that_they_share(store: Store, followed: str) -> None:
    rows, size = 20, 30_000

    async def scenario() -> None:
        broker, big = broker_of(store), submit(store)
        others = [submit(store) for _ in range(20)]
        if followed == "after":
            write_large(store, big, rows, size)
        await stack.enter_async_context(stream(broker, big, others[0], after=2**53, numbering="seq"))
        tracemalloc.start()
        for other in others:
            await stack.enter_async_context(stream(broker, big, other, after=2**53, numbering="seq"))
        if followed == "before":
            await asyncio.to_thread(write_large, store, big, rows, size)
            async with stream(broker, big, numbering="seq") as newest:
                await Reader(newest).until(lambda r: len(r.ids) == rows + 1)
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
        assert kept < 4 * rows * size  # each stream's own copy would be 20 of them

    async def closed() -> None:
        async with stack:
            await scenario()

    stack = AsyncExitStack()
    try:
        run(closed())
    finally:
        tracemalloc.stop()


def test_rows_are_kept_up_to_a_number_of_bytes(store: Store) -> None:
    async def scenario() -> None:
        broker, job = broker_of(store), submit(store)
        async with stream(broker, job) as subscription:
            reader = Reader(subscription)
            tracemalloc.start()
            for number in range(6):
                await asyncio.to_thread(write_large, store, job, 8, RING_BYTES // 16)
                await reader.until(lambda r, last=9 + 8 * number: bool(r.ids) and r.ids[-1] == last)  # type: ignore[misc]
                reader.text = ""
            gc.collect()
            kept, _ = tracemalloc.get_traced_memory()
        assert kept < 2 * RING_BYTES  # 3 MiB were sent

    try:
        run(scenario())
    finally:
        tracemalloc.stop()


def test_idle_channels_are_dropped_when_they_keep_too_many_bytes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.streams.channels._IDLE_BYTES", 100_000)

    async def scenario() -> None:
        broker, jobs = broker_of(store), [submit(store) for _ in range(2)]
        for job in jobs:
            write_large(store, job, 1, 60_000)
            async with stream(broker, job):
                pass
        with counted_reads(store) as reads:
            async with stream(broker, jobs[1]):
                pass
            assert reads == [0]
            async with stream(broker, jobs[0]):
                pass
            assert reads == [1]

    run(scenario())


def test_cached_pages_are_dropped_when_they_keep_too_many_bytes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.streams.channels._CACHED_BYTES", 1)

    async def scenario() -> None:
        broker, job = broker_of(store), submit(store)
        report(store, job, RING_ROWS + PAGE_ROWS)
        with counted_reads(store) as reads:
            for _ in range(2):
                async with stream(broker, job, after=0) as subscription:
                    await Reader(subscription).until(lambda r: 1 in r.ids)
        assert reads == [3]  # the newest rows once, and the page twice

    run(scenario())


def test_a_stream_whose_key_no_longer_holds_ends_with_the_reason(store: Store) -> None:
    async def scenario() -> None:
        broker, job, held = broker_of(store, ping_seconds=0.02), submit(store), {"mine": True, "another": True}
        readers = {}
        for owner in held:
            permission = partial(held.__getitem__, owner)
            subscription = await broker.open([job], "job_seq", after=None, owner=owner, limit=1, holds=permission)
            assert subscription is not None
            readers[owner] = await Reader(subscription).until(lambda r: ": ping" in r.text)
        held["mine"] = False
        await readers["mine"].to_the_end()
        last = readers["mine"].messages[-1]
        assert (last["event"], json.loads(last["data"])["code"]) == ("stream.closed", "unauthenticated")
        await asyncio.to_thread(report, store, job)
        await readers["another"].until(lambda r: r.ids == [1, 2])

    run(scenario())


def test_a_busy_stream_whose_key_no_longer_holds_ends_too(store: Store) -> None:
    async def scenario() -> None:
        broker, job, held = broker_of(store, ping_seconds=0.02), submit(store), [True]
        subscription = await broker.open([job], "job_seq", after=None, owner="k", limit=1, holds=lambda: held[0])
        assert subscription is not None
        reader = await Reader(subscription).until(lambda r: bool(r.ids))
        held[0] = False
        async with asyncio.timeout(DEADLINE):
            while "stream.closed" not in reader.text:
                await asyncio.to_thread(report, store, job)
                seen = len(reader.ids)
                await reader.until(lambda r, seen=seen: len(r.ids) > seen or "stream.closed" in r.text)  # type: ignore[misc]
        assert reader.ids == list(range(1, len(reader.ids) + 1))

    run(scenario())


def test_a_question_about_keys_that_fails_is_asked_again(store: Store) -> None:
    async def scenario() -> None:
        broker, job, answers = broker_of(store, ping_seconds=0.02), submit(store), iter((True, OSError, True, False))

        def holds() -> bool:
            answer = next(answers)
            if answer is OSError:
                raise OSError("the database is busy")
            return bool(answer)

        subscription = await broker.open([job], "job_seq", after=None, owner="k", limit=1, holds=holds)
        assert subscription is not None
        with capture_logs() as logged:
            reader = await Reader(subscription).to_the_end()
        assert reader.messages[-1]["event"] == "stream.closed"
        assert [entry["error"] for entry in logged] == ["the database is busy"]
        assert list(answers) == []

    run(scenario())


def test_an_idle_stream_gets_pings(store: Store) -> None:
    async def scenario() -> None:
        broker, job = broker_of(store, ping_seconds=0.02), submit(store)
        async with stream(broker, job) as subscription:
            reader = await Reader(subscription).until(lambda r: r.text.count(": ping\n\n") == 3)
        assert reader.ids == [1]

    run(scenario())


def test_a_shutdown_ends_every_stream_with_an_announcement(store: Store) -> None:
    async def scenario() -> None:
        broker, jobs = broker_of(store), [submit(store) for _ in range(10)]
        readers = []
        for _ in range(100):
            subscription = await broker.open([random.choice(jobs)], "job_seq", after=None, owner="k", limit=1000)
            assert subscription is not None
            readers.append(await Reader(subscription).until(lambda r: bool(r.ids)))
        endings = asyncio.gather(*(reader.to_the_end() for reader in readers))
        await asyncio.sleep(0.01)
        threading.Thread(target=broker.shutdown).start()
        async with asyncio.timeout(2):
            await endings
        assert all(reader.text.endswith("event: server.restarting\ndata: {}\n\n") for reader in readers)

    run(scenario())


def test_a_shutdown_does_not_wait_for_a_long_replay(store: Store) -> None:
    async def scenario() -> None:
        broker, job = broker_of(store), submit(store)
        for _ in range(10):
            store.write(lambda connection: journal.append(connection, job, "log.lines", {"text": "x" * 200_000}))
        async with stream(broker, job) as subscription:
            reader = await Reader(subscription).until(lambda r: bool(r.ids))
            broker.shutdown()
            await reader.to_the_end()
        assert len(reader.ids) < 5 and reader.text.endswith("event: server.restarting\ndata: {}\n\n")

    run(scenario())


def test_a_stream_opened_during_a_shutdown_ends_immediately(store: Store) -> None:
    async def scenario() -> None:
        broker, job = broker_of(store), submit(store)
        broker.shutdown()
        async with stream(broker, job) as subscription:
            reader = await Reader(subscription).to_the_end()
        assert [message["event"] for message in reader.messages] == ["server.restarting"]

    run(scenario())


def test_the_number_of_streams_of_a_key_is_limited(store: Store) -> None:
    async def scenario() -> None:
        broker, job = broker_of(store), submit(store)
        opened = [await broker.open([job], "job_seq", after=None, owner="mine", limit=2) for _ in range(2)]
        with pytest.raises(TooManyStreams, match="at most 2 open streams"):
            await broker.open([job], "job_seq", after=None, owner="mine", limit=2)
        assert await broker.open([job], "job_seq", after=None, owner="another", limit=2) is not None
        assert opened[0] is not None
        opened[0].close()
        opened[0].close()
        assert await broker.open([job], "job_seq", after=None, owner="mine", limit=2) is not None
        with pytest.raises(TooManyStreams):
            await broker.open([job], "job_seq", after=None, owner="mine", limit=2)

    run(scenario())


def test_a_deleted_job_is_not_found_and_counts_no_stream(store: Store) -> None:
    async def scenario() -> None:
        broker = broker_of(store)
        for _ in range(3):
            with pytest.raises(NotFound):
                await broker.open(["job_gone"], "job_seq", after=None, owner="k", limit=1)

    run(scenario())


def test_a_stream_ends_when_its_job_is_deleted_during_the_replay(store: Store) -> None:
    async def scenario() -> None:
        broker, job = broker_of(store), submit(store)
        report(store, job, RING_ROWS + PAGE_ROWS)
        end(store, job)
        async with stream(broker, job) as subscription:
            reader = await Reader(subscription).until(lambda r: bool(r.text))
            store.write(lambda connection: removal.remove(connection, queue.get(connection, job)))
            await reader.to_the_end()
        assert reader.messages == []

    run(scenario())


def test_rows_committed_while_a_stream_opens_are_sent_once(store: Store) -> None:
    async def scenario() -> None:
        broker, job = broker_of(store), submit(store)
        read = store.read

        def slow_read(work: Any) -> Any:
            report(store, job, 3)  # before the snapshot: in it, and published too
            found = read(work)
            report(store, job, 3)  # after the snapshot, before the ring is filled from it
            return found

        store.read = slow_read  # type: ignore[method-assign]
        async with stream(broker, job) as subscription:
            reader = await Reader(subscription).until(lambda r: bool(r.ids) and r.ids[-1] == 7)
        assert reader.ids == [1, 2, 3, 4, 5, 6, 7]

    run(scenario())


def test_a_reader_that_disconnects_while_a_stream_opens_does_not_affect_others(store: Store) -> None:
    async def scenario() -> None:
        broker, job = broker_of(store), submit(store)
        reading, read = threading.Event(), store.read
        store.read = lambda work: (reading.wait(DEADLINE), read(work))[1]  # type: ignore[method-assign]
        impatient, patient = (
            asyncio.create_task(broker.open([job], "job_seq", after=None, owner="k", limit=2)) for _ in range(2)
        )
        await asyncio.sleep(0.01)
        impatient.cancel()
        await asyncio.wait([impatient])
        reading.set()
        subscription = await patient
        assert subscription is not None
        reader = await Reader(subscription).until(lambda r: r.ids == [1])
        await asyncio.to_thread(report, store, job)
        await reader.until(lambda r: r.ids == [1, 2])

    run(scenario())


def test_waiting_for_a_job_returns_as_it_ends(store: Store) -> None:
    async def scenario() -> None:
        broker, job = broker_of(store), submit(store)
        waiting = asyncio.create_task(broker.wait_until_ended(job, 60))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await asyncio.to_thread(end, store, job)
        async with asyncio.timeout(DEADLINE):
            await waiting

    run(scenario())


def test_waiting_for_a_job_returns_when_the_time_is_over(store: Store) -> None:
    async def scenario() -> None:
        broker, job = broker_of(store), submit(store)
        async with asyncio.timeout(DEADLINE):
            await broker.wait_until_ended(job, 0.05)

    run(scenario())


def test_streams_in_several_event_loops_are_all_served(store: Store) -> None:
    broker, job = broker_of(store), submit(store)
    found: list[list[int]] = []
    ready = threading.Barrier(3)

    async def follow() -> None:
        async with stream(broker, job) as subscription:
            reader = await Reader(subscription).until(lambda r: r.ids == [1])
            await asyncio.to_thread(ready.wait, DEADLINE)
            found.append((await reader.until(lambda r: len(r.ids) == 2)).ids)

    threads = [threading.Thread(target=run, args=(follow(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    ready.wait(DEADLINE)
    report(store, job)
    for thread in threads:
        thread.join(DEADLINE)
    report(store, job)  # their loops are closed now
    assert found == [[1, 2], [1, 2]]


def test_rows_of_a_job_without_streams_are_not_encoded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        broker, followed, other = broker_of(store), submit(store), submit(store)
        async with stream(broker, followed):
            encoded: list[Any] = []
            monkeypatch.setattr("server.streams.broker.encode", encoded.append)
            report(store, other, 10)
            assert encoded == []

    run(scenario())


def has(rows: int, reader: Reader) -> bool:
    return len(reader.ids) >= rows


class Client:
    """An ASGI client of one response; `taking`: whether it reads."""

    def __init__(self) -> None:
        self.taking = asyncio.Event()
        self.taking.set()
        self.gone = asyncio.Event()
        self.body = b""

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        await self.taking.wait()
        self.body += message.get("body", b"")


async def open_response(broker: Broker, job: str) -> tuple[Client, asyncio.Task[None]]:
    subscription = await broker.open([job], "job_seq", after=None, owner="k", limit=1)
    assert subscription is not None
    client = Client()
    scope = {"type": "http", "method": "GET", "asgi": {"spec_version": "2.3"}}
    return client, asyncio.create_task(EventStream(subscription)(scope, client.receive, client.send))


async def has_place(broker: Broker, job: str) -> bool:
    try:
        subscription = await broker.open([job], "job_seq", after=None, owner="k", limit=1)
    except TooManyStreams:
        return False
    assert subscription is not None
    subscription.close()
    return True


def test_a_client_that_disconnects_releases_its_stream(store: Store) -> None:
    async def scenario() -> None:
        broker, job = broker_of(store), submit(store)
        client, response = await open_response(broker, job)
        while b"job.state" not in client.body:
            await asyncio.sleep(0.005)
        assert not await has_place(broker, job)
        client.gone.set()
        await asyncio.wait_for(response, 1)
        assert await has_place(broker, job)

    run(scenario())


def test_a_client_that_does_not_read_is_disconnected_and_delays_no_other(store: Store) -> None:
    async def scenario() -> None:
        broker, job = broker_of(store, stall_seconds=0.1), submit(store)
        client, response = await open_response(broker, job)
        client.taking.clear()
        await asyncio.to_thread(report, store, job, 10)
        await asyncio.wait_for(response, 1)
        assert await has_place(broker, job)

    run(scenario())


def test_200_readers_reconnecting_while_rows_are_written_each_get_all_of_them_once(store: Store) -> None:
    async def scenario() -> None:
        broker, jobs = broker_of(store), [submit(store) for _ in range(2)]
        rows_each = 600

        def write(job: str) -> None:
            for _ in range(rows_each // 5):
                report(store, job, 5)
            end(store, job)

        async def follow(job: str, patience: random.Random) -> list[int]:
            ids: list[int] = []
            while True:
                subscription = await broker.open([job], "job_seq", after=max(ids, default=0), owner="k", limit=200)
                if subscription is None:
                    return ids
                reader = Reader(subscription)
                rows = patience.randrange(1, 60)
                try:
                    await reader.until(partial(has, rows))
                except StopAsyncIteration:
                    pass
                finally:
                    subscription.close()
                ids += reader.ids

        writers = [threading.Thread(target=write, args=(job,)) for job in jobs]
        for writer in writers:
            writer.start()
        found = await asyncio.gather(*(follow(jobs[n % 2], random.Random(n)) for n in range(200)))
        for writer in writers:
            writer.join()
        assert all(ids == list(range(1, rows_each + 3)) for ids in found)

    run(scenario())
