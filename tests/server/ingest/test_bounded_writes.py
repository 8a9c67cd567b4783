"""What an import does while others wait to write."""

import pytest

from gan_mhe.files import canonical_json
from gan_mhe.records.events import Scalars, encode
from server.ingest import run_events
from server.ingest.indexer import Indexer
from server.queue import queue
from server.queue.states import State
from server.settings import Settings
from server.store import artifacts
from server.store.store import Store

NEW = queue.NewJob(project="p", request={}, request_sha256="0")


def job_with(store: Store, settings: Settings, lines: int) -> str:
    """An ended job whose journal nobody has read."""
    job_id = store.write(lambda connection: queue.create(connection, NEW, State.SUCCEEDED))["id"]
    path = artifacts.run_dir(settings, job_id).events
    path.parent.mkdir(parents=True)
    events = [encode(Scalars(step, {"a": step / 2, "b": 1.0})) for step in range(lines)]
    documents = [{"seq": seq, "time": "2026-11-28T00:00:00Z", **each} for seq, each in enumerate(events)]
    path.write_bytes(b"".join(canonical_json(document) + b"\n" for document in documents))
    return job_id


def test_lines_are_parsed_before_the_write_lock_is_taken(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing: list[bool] = []
    parse = run_events.parse
    monkeypatch.setattr(run_events, "parse", lambda line: (writing.append(store._lock.locked()), parse(line))[1])
    Indexer(store, settings).drain(job_with(store, settings, 5))
    assert writing == [False] * 5
