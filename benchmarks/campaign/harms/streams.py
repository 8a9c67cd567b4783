"""Readers of event streams that stall, disconnect and come back while the server is killed."""

import asyncio
import threading
import time
from collections.abc import Sequence
from random import Random

from benchmarks.campaign.harms.base import Harm, Scene
from benchmarks.campaign.service import Service

_READERS = 40
_END_SECONDS = 240.0


class Reader:
    """A client that follows one job to its end, over as many connections as it takes."""

    def __init__(self, service: Service, job_id: str, random: Random) -> None:
        self.job_id = job_id
        self.ids: list[int] = []
        self.ended = False
        self._service = service
        self._random = random

    async def follow(self) -> None:
        """Read until the stream ends. Each connection is cut after a random time, and half of them stall before."""
        deadline = time.monotonic() + _END_SECONDS
        while not self.ended and time.monotonic() < deadline:
            try:
                async with asyncio.timeout(self._random.uniform(0.2, 6.0)):
                    await self._connection()
            except (TimeoutError, OSError):
                await asyncio.sleep(self._random.uniform(0.0, 1.0))

    async def _connection(self) -> None:
        port = int(self._service.address.rsplit(":", 1)[1])  # another one after each start
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            last = f"Last-Event-ID: {self.ids[-1]}\r\n" if self.ids else ""
            writer.write(f"GET /v1/jobs/{self.job_id}/stream HTTP/1.1\r\nHost: localhost\r\n{last}\r\n".encode())
            if self._random.random() < 0.5:
                await asyncio.sleep(self._random.uniform(0.0, 3.0))
            await self._read(reader)
        finally:
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        if b" 204 " in await reader.readline():
            self.ended = True
            return
        identity: int | None = None
        while line := await reader.readline():
            if line.startswith(b"id: "):
                identity = int(line[4:])
            elif line.startswith(b"data: ") and identity is not None:
                self.ids.append(identity)
                identity = None
            elif line.startswith(b"event: stream.end"):
                self.ended = True
                return


class RestlessReaders(Harm):
    """Dozens of readers over two deaths of the server: each gets every event once and in order."""

    group = "streams"
    name = "restless readers"

    def inflict(self, scene: Scene) -> str:
        jobs: Sequence[str] = scene.jobs
        self._readers = [
            Reader(scene.service, jobs[index % len(jobs)], Random(scene.random.random())) for index in range(_READERS)
        ]
        self._thread = threading.Thread(target=lambda: asyncio.run(self._follow()))
        self._thread.start()
        for _ in range(2):
            scene.pause(1.0, 5.0)
            scene.kill_server()
            scene.pause(0.0, 1.0)
            scene.service.revive()
        return f"{_READERS} readers, 2 kills"

    async def _follow(self) -> None:
        await asyncio.gather(*(reader.follow() for reader in self._readers))

    def verify(self, scene: Scene) -> None:
        self._thread.join()
        for job_id in scene.jobs:
            [row] = scene.service.rows("SELECT journal_seq FROM jobs WHERE id = ?", job_id)
            expected = list(range(1, row["journal_seq"] + 1))
            readers = [reader for reader in self._readers if reader.job_id == job_id]
            wrong = [reader for reader in readers if not reader.ended or reader.ids != expected]
            assert not wrong, (
                f"{len(wrong)} of {len(readers)} readers of {job_id} missed or doubled events: "
                f"{_difference(wrong[0].ids, expected)}"
            )


def _difference(found: list[int], expected: list[int]) -> str:
    missed, extra = sorted(set(expected) - set(found)), len(found) - len(set(found))
    return f"missed {missed[:5]}, {extra} doubled, in order: {found == sorted(found)}"
