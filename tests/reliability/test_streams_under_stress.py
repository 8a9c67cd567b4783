"""Many readers that connect and disconnect, readers that never read, and a server that stops while they listen."""

import asyncio
import json
import random
import signal
import time

import pytest

from tests.support.audit import audit
from tests.support.server_process import Server


class Reader:
    """A client that is repeatedly disconnected and continues after its last id."""

    def __init__(self, address: str, job_id: str) -> None:
        self.port = int(address.rsplit(":", 1)[1])
        self.path = f"/v1/jobs/{job_id}/stream"
        self.ids: list[int] = []
        self.names: list[str] = []
        self.ended = False

    async def read(self, seconds: float) -> None:
        """One connection, closed after this many seconds."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return
        last = f"Last-Event-ID: {self.ids[-1]}\r\n" if self.ids else ""
        writer.write(f"GET {self.path} HTTP/1.1\r\nHost: localhost\r\n{last}\r\n".encode())
        try:
            async with asyncio.timeout(seconds):
                await self._consume(reader)
        except (TimeoutError, OSError):
            pass
        finally:
            writer.close()

    async def _consume(self, reader: asyncio.StreamReader) -> None:
        status = await reader.readline()
        if b" 204 " in status:
            self.ended = True
        identity: int | None = None
        while line := await reader.readline():
            if line.startswith(b"id: "):
                identity = int(line[4:])
            elif line.startswith(b"event: "):
                self.names.append(line[7:].strip().decode())
                if self.names[-1] == "stream.end":
                    self.ended = True
                    return
            elif line.startswith(b"data: ") and identity is not None:
                self.ids.append(identity)
                identity = None


async def read_with_cuts(server: Server, job_id: str, readers: int, seconds: float, cut_after: float) -> list[Reader]:
    """Readers that are disconnected at random moments for some time, and then read to the end."""
    crowd = [Reader(server.address, job_id) for _ in range(readers)]
    deadline = time.monotonic() + seconds

    async def one(reader: Reader) -> None:
        while time.monotonic() < deadline and not reader.ended:
            await reader.read(random.uniform(0.1, cut_after))
        while not reader.ended:
            await reader.read(30)

    await asyncio.gather(*(one(reader) for reader in crowd))
    return crowd


@pytest.mark.parametrize(
    ("readers", "seconds"), [(60, 3.0), pytest.param(1000, 60.0, marks=[pytest.mark.soak, pytest.mark.timeout(900)])]
)
def test_readers_that_are_repeatedly_disconnected_get_every_event_once(
    server: Server, readers: int, seconds: float
) -> None:
    server.environment["FAKE_WORKER_STEP_SECONDS"] = "0.05"
    server.start()
    job_id = server.submit(int(seconds / 0.05))
    crowd = asyncio.run(read_with_cuts(server, job_id, readers, seconds, cut_after=2.0 if readers > 100 else 0.6))
    server.wait_for(job_id, "succeeded", seconds=60)
    [row] = server.rows("SELECT journal_seq FROM jobs WHERE id = ?", job_id)
    expected = list(range(1, row["journal_seq"] + 1))
    assert all(reader.ids == expected for reader in crowd)
    audit(server)


def test_readers_that_never_read_do_not_delay_others(server: Server) -> None:
    server.start()
    job_id = server.submit(100)

    async def scenario() -> Reader:
        port = int(server.address.rsplit(":", 1)[1])
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(50)]
        for _, writer in silent:
            writer.write(f"GET /v1/jobs/{job_id}/stream HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        reader = Reader(server.address, job_id)
        await reader.read(30)
        for _, writer in silent:
            writer.close()
        return reader

    reader = asyncio.run(scenario())
    assert reader.ended and reader.ids == list(range(1, len(reader.ids) + 1))


def test_a_stopping_server_ends_its_streams_and_exits_within_two_seconds(server: Server) -> None:
    server.start()
    job_id = server.submit(400)
    server.wait_for(job_id, "running", step=1)

    async def scenario() -> tuple[list[Reader], float]:
        crowd = [Reader(server.address, job_id) for _ in range(30)]
        reading = [asyncio.create_task(reader.read(30)) for reader in crowd]
        await asyncio.sleep(1)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(server.process.wait, 10)
        taken = time.monotonic() - began
        await asyncio.gather(*reading)
        return crowd, taken

    crowd, taken = asyncio.run(scenario())
    assert taken < 2.0 and server.process.returncode == 0
    assert all(reader.names[-1] == "server.restarting" for reader in crowd)
    server.start()
    server.wait_for(job_id, "succeeded")
    asyncio.run(asyncio.wait_for(read_to_the_end(crowd, server.address), 30))
    [row] = server.rows("SELECT journal_seq FROM jobs WHERE id = ?", job_id)
    assert all(reader.ids == list(range(1, row["journal_seq"] + 1)) for reader in crowd)
    audit(server)


async def read_to_the_end(crowd: list[Reader], address: str) -> None:
    port = int(address.rsplit(":", 1)[1])
    for reader in crowd:
        reader.port = port
        await reader.read(10)
        assert reader.ended


def test_a_stream_carries_the_same_events_as_the_history(server: Server) -> None:
    server.start()
    job_id = server.submit(30)
    server.wait_for(job_id, "succeeded")
    history = server.request("GET", f"/v1/jobs/{job_id}/events?limit=200").json()["data"]
    text = server.request("GET", f"/v1/jobs/{job_id}/stream").text
    streamed = [json.loads(line[6:]) for line in text.splitlines() if line.startswith('data: {"job_id"')]
    assert streamed == history
