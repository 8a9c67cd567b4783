"""Attempts to launch, of which nothing is left after a test."""

import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from server.executors.base import LaunchSpec, Slot
from server.executors.processes import processes_of

CPU = Slot("cpu0", "cpu", "train", threads=1)

Specify = Callable[..., LaunchSpec]


@pytest.fixture
def specify(tmp_path: Path) -> Iterator[Specify]:
    """Makes launch specifications of new attempts; kills what is left of them at the end."""
    ids: list[str] = []

    def spec(**changes: Any) -> LaunchSpec:
        ids.append(f"att_{uuid.uuid4().hex}")
        values: dict[str, Any] = {
            "attempt_id": ids[-1],
            "job_id": "job_1",
            "number": len(ids),
            "epoch": len(ids),
            "slot": CPU,
            "request": {"kind": "score"},
            "directory": tmp_path / "attempts" / str(len(ids)),
            "console": tmp_path / "console.log",
            "grace_seconds": 20.0,
            "lease_ttl_seconds": 15.0,
        }
        return LaunchSpec(**values | changes)

    yield spec
    for attempt_id in ids:
        for process in processes_of(attempt_id):
            process.send(signal.SIGKILL)
