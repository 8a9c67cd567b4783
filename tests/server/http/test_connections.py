"""Clients that say nothing, or say it slowly, over sockets to the real web server; limits are fractions of a second."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import uvicorn

from server.http.connections import CROWDED, RESERVE, Limits, bounded

DEADLINE = 20.0
LIMITS = Limits(head=0.3, body=0.6, stall=0.3, connections=2)
HEAD = b"GET /%b HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"
MANY = 64 * 2**20  # more than the kernel keeps of an answer that nobody reads


class Site:
    """A web server whose answers the test controls. held: requests for /held that wait for `release`."""

    def __init__(self, limits: Limits) -> None:
        self.held = 0
        self.cut = 0
        self.release = asyncio.Event()
        options: Any = {"lifespan": "off", "log_level": "critical", "ws": "none", "interface": "asgi3"}
        config = uvicorn.Config(self.app, port=0, http=bounded(limits), **options)
        self.server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self.server.run)
        self._thread.start()
        wait_until(lambda: self.server.started)
        self.address = self.server.servers[0].sockets[0].getsockname()
        self.loop = self.server.servers[0].get_loop()

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        """Read the body; answer with whether the service is crowded, with many bytes, or only when released."""
        while (message := await receive()).get("more_body"):
            pass
        if message["type"] == "http.disconnect":
            self.cut += 1
            return
        if scope["path"] == "/held":
            self.held += 1
            await self.release.wait()
        body = b"crowded" if scope["state"][CROWDED] else b"answered"
        size = MANY if scope["path"] == "/many" else len(body)
        headers = [(b"content-length", b"%d" % size)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _ in range(size // 2**20):
            await send({"type": "http.response.body", "body": bytes(2**20), "more_body": True})
        await send({"type": "http.response.body", "body": b"" if size == MANY else body})

    def let_go(self) -> None:
        self.loop.call_soon_threadsafe(self.release.set)

    def connect(self, data: bytes = b"") -> socket.socket:
        connection = socket.create_connection(self.address, timeout=DEADLINE)
        connection.sendall(data)
        return connection

    def stop(self) -> None:
        self.let_go()
        self.server.should_exit = True
        self._thread.join(DEADLINE)


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def received(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection; a reset closes it too."""
    found = b""
    try:
        while part := connection.recv(2**20):
            found += part
    except ConnectionResetError:
        pass
    return found


def answer(connection: socket.socket) -> bytes:
    """One short answer on a connection that stays open."""
    found = b""
    while not found.endswith((b"answered", b"crowded")):
        part = connection.recv(4096)
        assert part, found
        found += part
    return found


@pytest.fixture
def site() -> Iterator[Site]:
    opened = Site(LIMITS)
    yield opened
    opened.stop()


def test_a_silent_connection_is_closed(site: Site) -> None:
    with site.connect() as connection:
        assert received(connection) == b""


@pytest.mark.parametrize("before", [b"", HEAD % b"first"])
def test_a_head_that_comes_byte_by_byte_is_refused_with_a_reason(site: Site, before: bytes) -> None:
    with site.connect(before) as connection:
        if before:
            answer(connection)
        found = trickle(connection, b"GET / HTTP/1.1\r\n" + b"X: " + b"x" * 60_000)
    assert found.startswith(b"HTTP/1.1 408 ") and b"expected its head within 0.3 s" in found


def trickle(connection: socket.socket, data: bytes) -> bytes:
    """Send a byte a moment until the server closes the connection; what it had said by then."""
    connection.settimeout(0.02)
    found = b""
    for byte in data:
        try:
            connection.sendall(bytes([byte]))
            part = connection.recv(4096)
        except TimeoutError:
            continue
        except OSError:
            return found
        if not part:
            return found
        found += part
    raise AssertionError("the server read all of it")


def test_a_body_that_stops_is_refused_with_a_reason(site: Site) -> None:
    with site.connect(POST + b"x") as connection:
        assert received(connection).startswith(b"HTTP/1.1 408 ")
    wait_until(lambda: site.cut == 1)


def test_a_body_that_comes_byte_by_byte_is_refused_in_the_end(site: Site) -> None:
    endless = POST.replace(b"100", b"100000")
    with site.connect(endless) as connection:
        assert trickle(connection, b"x" * 60_000).startswith(b"HTTP/1.1 408 ")


def test_a_body_that_comes_in_time_is_read(site: Site) -> None:
    with site.connect(POST + b"x" * 50) as connection:
        connection.sendall(b"x" * 50)
        assert answer(connection).endswith(b"answered")


def test_a_client_that_takes_no_answer_is_disconnected(site: Site) -> None:
    with site.connect(HEAD % b"many") as connection:
        begun = connection.recv(100)
        assert begun.startswith(b"HTTP/1.1 200 ")
        wait_until(lambda: not site.server.server_state.connections)
        assert len(received(connection)) < MANY // 2


def test_a_client_that_takes_a_long_answer_slowly_gets_all_of_it() -> None:
    site = Site(Limits(head=0.3, body=1.5, stall=1.5, connections=2))
    try:
        with site.connect(HEAD % b"many") as reader:
            left = MANY
            for _ in range(6):  # longer together than the client may be without progress
                with site.connect() as silent:
                    received(silent)
                left -= taken(reader, 4 * 2**20)
            assert taken(reader, left) >= left
    finally:
        site.stop()


def taken(connection: socket.socket, size: int) -> int:
    """Read at least so many bytes, or to the end; the number read."""
    count = 0
    while count < size and (part := connection.recv(2**20)):
        count += len(part)
    return count


def test_a_request_that_the_service_answers_late_is_not_cut(site: Site) -> None:
    with site.connect(HEAD % b"held") as patient, site.connect(POST) as silent:
        received(silent)  # it came later and is closed already
        site.let_go()
        assert answer(patient).endswith(b"answered")


def test_silent_connections_beyond_the_limit_keep_nobody_out() -> None:
    site = Site(Limits(head=600, body=600, stall=600, connections=2))
    try:
        with ExitStack() as opened:
            silent = [opened.enter_context(site.connect()) for _ in range(2 * RESERVE)]
            with site.connect(HEAD % b"new") as connection:
                assert answer(connection).endswith(b"answered")
            assert received(silent[0]) == b""  # the oldest gave way
    finally:
        site.stop()


def test_a_connection_with_a_request_in_progress_does_not_give_way() -> None:
    site = Site(Limits(head=600, body=600, stall=600, connections=2))
    try:
        with ExitStack() as opened, site.connect(HEAD % b"held") as busy:
            wait_until(lambda: site.held)
            for _ in range(2 * RESERVE):
                opened.enter_context(site.connect())
            site.let_go()
            assert answer(busy).endswith(b"answered")
    finally:
        site.stop()


def test_requests_beyond_the_limit_are_marked(site: Site) -> None:
    with ExitStack() as opened:
        for count in range(1, 3):
            opened.enter_context(site.connect(HEAD % b"held"))
            wait_until(lambda count=count: site.held == count)
        with site.connect(HEAD % b"third") as third:
            assert answer(third).endswith(b"crowded")
