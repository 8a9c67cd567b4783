"""The service as a process: refuses unsafe starts, prints its address, and shuts down quickly."""

import asyncio
import os
import resource
import socket
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from types import FrameType

import uvicorn
from sqlalchemy.exc import DatabaseError

from gan_mhe.errors import StorageError, nearest
from gan_mhe.files import write_json
from server import logs, startup
from server.app import create_app
from server.errors import StartRefused
from server.http.connections import Limits, bounded
from server.private import close_to_others, private_files
from server.queue import admission
from server.service import Service
from server.settings import Settings
from server.store import keys

GRACEFUL_SHUTDOWN_SECONDS = 5
# Requests in addition to event streams that are answered at a time; further ones get 503.
_MAX_CONCURRENT_REQUESTS = 1000
_OTHER_OPEN_FILES = 1024
_BACKLOG = 2048
_WILDCARD_HOSTS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def serve(settings: Settings) -> None:
    """Serve until a signal requests shutdown. Raises StartRefused if the service cannot start, or not safely."""
    _require_offers(settings)
    logs.configure(settings.log_json)
    with private_files() if settings.private_files else nullcontext():
        _serve(settings)


def _serve(settings: Settings) -> None:
    service = _open(settings)
    announced = settings.data_dir / "server.json"
    try:
        _require_keys(service)
        with _listen(settings) as listener:
            connections = settings.max_streams_per_key + _MAX_CONCURRENT_REQUESTS
            _allow_open_files(connections + _OTHER_OPEN_FILES)
            url = _url(settings.host, listener.getsockname()[1])
            _run(service, listener, connections, lambda: _announce(settings, announced, url))
    finally:
        announced.unlink(missing_ok=True)
        service.stop()


def _require_offers(settings: Settings) -> None:
    """Raise StartRefused unless everything exists that the settings offer to jobs by name."""
    roots = {f"GAN_MHE_DATA_ROOTS: {name!r} is {path}": path for name, path in settings.data_roots.items()}
    weights = {f"GAN_MHE_WEIGHTS: {name!r} is {path}": path for name, path in settings.weights.items()}
    problems = [f"{entry}, which is not a folder" for entry, path in roots.items() if not path.is_dir()]
    problems += [f"{entry}, which is not a file" for entry, path in weights.items() if not path.is_file()]
    problems += [
        f"GAN_MHE_PRESETS: unknown preset {name!r}{nearest(name, admission.PRESET_FILES)}"
        for name in settings.presets or ()
        if name not in admission.PRESET_FILES
    ]
    if problems:
        raise StartRefused("; ".join(problems))


def _open(settings: Settings) -> Service:
    try:
        return startup.open_service(settings)
    except DatabaseError as error:
        raise StartRefused(f"cannot use the database {settings.database}: {error.orig}") from error
    except (OSError, StorageError) as error:
        raise StartRefused(f"cannot write to the data directory {settings.data_dir}: {error}") from error


def _require_keys(service: Service) -> None:
    if service.settings.is_loopback:
        return
    if not any(key["revoked_at"] is None for key in keys.listing(service.store)):
        raise StartRefused(
            f"listening on {service.settings.host} requires an API key, but there are none: create one with "
            "`gan-mhe keys create`, or listen on 127.0.0.1"
        )


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
        # Connections inherit it. asyncio sets it only on sockets made with the number of the TCP protocol, and this one
        # has 0; head and body of an answer are two writes, of which the second would wait 40 ms for an acknowledgment.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        raise StartRefused(
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror or error}; "
            "choose another port with --port (0 selects a free one)"
        ) from error


def _allow_open_files(count: int) -> None:
    """Raise the limit on open files: every connection is one, and the default of 1024 is too low for the streams."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def _url(host: str, port: int) -> str:
    host = _WILDCARD_HOSTS.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _announce(settings: Settings, path: Path, url: str) -> None:
    write_json(path, {"url": url, "pid": os.getpid()})
    sys.stdout.write(f"{url}/\n")
    sys.stdout.flush()
    if settings.private_files:
        close_to_others(settings.data_dir)  # not earlier: it logs, and the first line is the address


def _run(service: Service, listener: socket.socket, connections: int, announce: Callable[[], None]) -> None:
    settings = service.settings
    limits = Limits(settings.request_head_seconds, settings.request_body_seconds, settings.stall_seconds, connections)
    config = uvicorn.Config(
        create_app(service),
        http=bounded(limits),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACEFUL_SHUTDOWN_SECONDS,
    )
    server = _Server(config, service, announce)
    server.run(sockets=[listener])
    if not server.started:
        raise StartRefused("the service did not start; see its log")


class _Server(uvicorn.Server):
    """Ends open event streams at shutdown; uvicorn alone would wait until their clients disconnect."""

    def __init__(self, config: uvicorn.Config, service: Service, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._service = service
        self._announce = announce
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, then announce the address."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started:
            self._announce()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal requests shutdown, the second forces it. Not passed on: the process exits normally.

        The broker is notified through the event loop, since this handler may interrupt code that holds its lock.
        """
        if self._loop is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._service.broker.shutdown)
        self.force_exit = self.should_exit
        self.should_exit = True
