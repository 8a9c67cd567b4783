"""A running service: its components, created once by the process that starts it."""

import fcntl
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from server.errors import StartRefused
from server.executors.base import Executor
from server.executors.devices import NvidiaSmi
from server.executors.local import LocalExecutor
from server.images.image_cache import ImageCache
from server.ingest.deletion import job_directories
from server.ingest.indexer import Indexer
from server.settings import Settings
from server.store import heartbeat
from server.store.store import Store
from server.streams.broker import Broker
from server.supervision.engine import Engine
from server.supervision.scheduler import Scheduler


@dataclass
class Service:
    """A service with one data directory. `start` adopts attempts of an earlier service; `stop` leaves them running."""

    settings: Settings
    store: Store
    executor: Executor
    engine: Engine
    broker: Broker
    image_cache: ImageCache
    lock: int

    @classmethod
    def open(cls, settings: Settings, executor: Executor | None = None) -> Self:
        """Lock the data directory and migrate its database.

        Raises StartRefused if either fails, or if there are files of jobs and the database is missing or empty.
        """
        lock = _lock(settings.data_dir)
        try:
            store = Store(settings.database)
            _check_not_lost(store, settings)
            store.migrate()
            store.read(heartbeat.check)
        except BaseException:
            os.close(lock)
            raise
        executor = executor or local_executor(settings)
        scheduler = Scheduler(store, settings, executor, Indexer(store, settings))
        broker = Broker(store)
        store.subscribe(broker.publish)
        return cls(settings, store, executor, Engine(scheduler), broker, ImageCache(settings.image_cache), lock)

    def start(self) -> None:
        """Start scheduling and reading events."""
        self.engine.start()

    def stop(self) -> None:
        """Stop scheduling and release the data directory. Attempts keep running. May be called repeatedly."""
        if self.lock >= 0:
            self.engine.stop()
            self.store.close()
            os.close(self.lock)
            self.lock = -1


def _check_not_lost(store: Store, settings: Settings) -> None:
    """StartRefused if the database is new while there are files of jobs: it was lost, and with it jobs and keys."""
    found = job_directories(settings)
    if found and store.is_new():
        raise StartRefused(
            f"{settings.job_dir('')} has the files of {len(found)} jobs and tasks, but the database "
            f"{settings.database} is missing or empty. No file of a job was changed. Put a copy of the database there, "
            "or start with another data directory and import the folders `run` of the jobs through its inbox"
        )


def local_executor(settings: Settings) -> LocalExecutor:
    """An executor for this machine, configured by the settings."""
    return LocalExecutor(
        cpu_slots=settings.cpu_slots,
        threads_per_slot=settings.threads_per_slot,
        task_slots=settings.task_slots,
        cuda_slots_per_device=settings.cuda_slots_per_device,
        cuda_memory_bytes_per_slot=settings.cuda_memory_bytes_per_slot,
        devices=NvidiaSmi(),
        worker_command=settings.worker_command,
        worker_niceness=settings.worker_niceness,
    )


def _lock(data_dir: Path) -> int:
    """Lock the data directory; the lock is released when the process ends, in whatever way."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(data_dir / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StartRefused(f"cannot write to the data directory {data_dir}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = ""
        with suppress(OSError):
            holder = os.pread(descriptor, 100, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise StartRefused(
            f"the data directory {data_dir} is in use by another server ({holder or 'unknown'})"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    return descriptor
