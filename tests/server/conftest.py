"""What tests of the service share: settings with short waits, a store of its own for each test, and a service, or its
scheduler alone, over an executor whose attempts do what the test says."""

import itertools
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from server.executors.base import Slot
from server.settings import Settings
from server.store.store import Store
from tests.support.fake_executor import FakeExecutor
from tests.support.paths import FAKE_WORKER
from tests.support.world import World

if TYPE_CHECKING:  # loaded by the tests that ask for them
    from fastapi.testclient import TestClient

    from server.service import Service


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A data directory of this test alone, short waits, and a worker that needs no torch."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    return Settings(
        data_dir=data_dir,
        port=0,
        cpu_slots=2,
        cuda_slots_per_device=0,
        worker_command=(sys.executable, str(FAKE_WORKER)),
        grace_seconds=2,
        lease_ttl_seconds=1,
        retry_backoff_seconds=0.05,
        disk_reserve_bytes=0,
    )


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database with the present schema, to be copied: migrating takes longer than most tests."""
    path = tmp_path_factory.mktemp("database") / "empty.sqlite3"
    store = Store(path)
    store.migrate()
    store.tidy()
    store.close()
    return path


@pytest.fixture
def store(settings: Settings, migrated_database: Path) -> Iterator[Store]:
    """The store of `settings`, migrated."""
    shutil.copyfile(migrated_database, settings.database)
    store = Store(settings.database)
    yield store
    store.close()


@pytest.fixture
def executor() -> FakeExecutor:
    """Two training slots and a task slot on the CPU."""
    return FakeExecutor(Slot("cpu0", "cpu", "train"), Slot("cpu1", "cpu", "train"), Slot("task0", "cpu", "task"))


@pytest.fixture
def world(store: Store, settings: Settings, executor: FakeExecutor, monkeypatch: pytest.MonkeyPatch) -> World:
    """A scheduler with nothing to do yet."""
    return World(store, settings, executor, monkeypatch)


@pytest.fixture
def make_world(
    settings: Settings, migrated_database: Path, executor: FakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], World]:
    """New worlds, each with a database of its own, whose store is the caller's to close."""
    numbers = itertools.count()

    def make() -> World:
        path = settings.data_dir / f"{next(numbers)}.sqlite3"
        shutil.copyfile(migrated_database, path)
        return World(Store(path), settings, FakeExecutor(*executor.slots), monkeypatch)

    return make


@pytest.fixture
def service(settings: Settings, migrated_database: Path, executor: FakeExecutor) -> Iterator["Service"]:
    """A service over the fake executor, not started: nothing is scheduled unless the test does so."""
    from server import startup

    shutil.copyfile(migrated_database, settings.database)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "migrate", lambda self: None)  # to see that there is nothing to do takes a while
        opened = startup.open_service(settings, executor=executor)
    yield opened
    opened.stop()


@pytest.fixture(scope="session")
def portal() -> Iterator[BlockingPortal]:
    """An event loop for the requests of all tests."""
    with start_blocking_portal("asyncio") as portal:
        yield portal


@pytest.fixture
def client(service: "Service", portal: BlockingPortal) -> "TestClient":
    """The service's API in this process, without its lifespan."""
    from tests.support.app import make_client

    return make_client(service, portal)
