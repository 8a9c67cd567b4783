"""A running service: its components, created once by the process that starts it."""

import os
from dataclasses import dataclass
from typing import Self

from server.executors.base import Executor
from server.executors.devices import NvidiaSmi
from server.executors.local import LocalExecutor
from server.images.image_cache import ImageCache
from server.ingest.indexer import Indexer
from server.settings import WORKER_COMMAND, Settings
from server.store.store import Store
from server.streams.broker import Broker
from server.supervision.engine import Engine
from server.supervision.scheduler import Scheduler
from server.upkeep.integrity_watch import IntegrityWatch

# What attempts load: PyTorch by way of the library, and the packages that it imports where they are used.
_PRELOADED = (
    *(WORKER_COMMAND[-1], "gan_mhe.run.loop", "gan_mhe.run.sample", "gan_mhe.run.score"),
    *("sklearn.datasets", "scipy.linalg"),
)


@dataclass
class Service:
    """A service with one data directory. `start` adopts attempts of an earlier service; `stop` leaves them running.

    `server.startup` opens it.
    """

    settings: Settings
    store: Store
    executor: Executor
    engine: Engine
    broker: Broker
    image_cache: ImageCache
    watch: IntegrityWatch
    lock: int

    @classmethod
    def over(cls, settings: Settings, store: Store, lock: int, executor: Executor | None = None) -> Self:
        """A service over an opened store, not started. lock: the descriptor that holds the data directory."""
        executor = executor or local_executor(settings)
        scheduler = Scheduler(store, settings, executor, Indexer(store, settings))
        broker = Broker(store)
        store.subscribe(broker.publish)
        watch = IntegrityWatch(store)
        return cls(settings, store, executor, Engine(scheduler), broker, ImageCache(settings.image_cache), watch, lock)

    def start(self) -> None:
        """Start scheduling and reading events, unless the database is damaged: then it is only read."""
        if self.store.damage is None:
            self.executor.start()
            self.engine.start()
        self.watch.start()

    def stop(self) -> None:
        """Stop scheduling and release the data directory. Attempts keep running. May be called repeatedly."""
        if self.lock >= 0:
            self.watch.stop()
            self.engine.stop()
            self.executor.stop()
            self.store.close()
            os.close(self.lock)
            self.lock = -1


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
        preload=_PRELOADED if settings.warm_start and settings.worker_command == WORKER_COMMAND else (),
    )
