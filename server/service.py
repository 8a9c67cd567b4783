"""The parts of a running service, put together once by whoever starts it."""

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
from server.images.image_cache import Derived
from server.ingest.indexer import Indexer
from server.settings import Settings
from server.store import heartbeat
from server.store.store import Store
from server.streams.broker import Broker
from server.supervision.scheduler import Engine, Scheduler


@dataclass
class Service:
    """A service over one data directory. `start` takes up what an earlier one left; `stop` leaves attempts running."""

    settings: Settings
    store: Store
    executor: Executor
    engine: Engine
    broker: Broker
    derived: Derived
    lock: int

    @classmethod
    def open(cls, settings: Settings, executor: Executor | None = None) -> Self:
        """Take the data directory and bring its database up to date. StartRefused when either cannot be done."""
        lock = _take(settings.data_dir)
        try:
            store = Store(settings.database)
            store.migrate()
            store.read(heartbeat.check)
        except BaseException:
            os.close(lock)
            raise
        executor = executor or local_executor(settings)
        scheduler = Scheduler(store, settings, executor, Indexer(store, settings))
        broker = Broker(store)
        store.subscribe(broker.publish)
        return cls(settings, store, executor, Engine(scheduler), broker, Derived(settings.derived), lock)

    def start(self) -> None:
        """Begin to schedule and to read what runs say."""
        self.engine.start()

    def stop(self) -> None:
        """Stop scheduling and give the data directory back; once. Attempts go on without us."""
        if self.lock >= 0:
            self.engine.stop()
            self.store.close()
            os.close(self.lock)
            self.lock = -1


def local_executor(settings: Settings) -> LocalExecutor:
    """Processes on this machine, as the settings have them."""
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


def _take(data_dir: Path) -> int:
    """Hold the data directory for this process. The lock goes with the process, however that ends."""
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
