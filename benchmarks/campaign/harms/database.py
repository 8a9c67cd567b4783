"""The database: locked by another program, lost, replaced by an older copy, damaged.

The way back is the one for operators: `gan-mhe backup`, `restore` and `adopt`.
"""

import shutil
import sqlite3
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx2

from benchmarks.campaign.harms.base import Harm, Scene
from benchmarks.campaign.service import Refused, Service

_ORPHANS_SECONDS = 180.0
_PAGE_BYTES = 4096

Loss = Literal["deleted", "emptied", "renamed"]


class LockedDatabase(Harm):
    """Another program holds the write lock for some seconds; reads go on, and a change waits for its end."""

    group = "database"
    name = "database locked"

    def inflict(self, scene: Scene) -> str:
        other = sqlite3.connect(_database(scene.service), isolation_level=None, timeout=30)
        other.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(1) as pool:
            change = pool.submit(self._rename, scene)
            try:
                scene.service.jobs()
                seconds = scene.pause(2.0, 12.0)
            finally:
                other.execute("ROLLBACK")
                other.close()
        answer = change.result()
        assert answer.status_code == 200, f"the change is answered {answer.status_code}: {answer.text[:200]}"
        return f"for {seconds:.1f} s"

    def _rename(self, scene: Scene) -> httpx2.Response:
        return scene.service.request("PATCH", f"/v1/jobs/{scene.jobs[0]}", json={"name": f"locked {scene.number}"})


class _Recovered(Harm):
    """A database that has lost rows, and comes back by the commands for operators."""

    group = "database"
    forgets = True
    pauses = True  # an adopted run that is not complete is a paused job

    def missing(self, scene: Scene) -> str | None:
        return _lacking_command(scene.service)

    def heal(self, scene: Scene) -> None:
        """Start the service, with a new database of the runs if it refuses to start."""
        scene.service.stop()
        try:
            scene.service.start()
        except Refused:
            _operate(scene.service, "restore", "--from-runs")
            scene.service.start()

    def collect(self, scene: Scene) -> None:
        adopt_all(scene)


@dataclass
class LostDatabase(_Recovered):
    """The file is gone or empty. running: it vanishes under the server, else between its death and its next start."""

    loss: Loss
    running: bool

    @property
    def name(self) -> str:
        return f"database {self.loss} {'under the server' if self.running else 'after a kill'}"

    def inflict(self, scene: Scene) -> str:
        if not self.running:
            scene.kill_server()
        file = _database(scene.service)
        if self.loss == "emptied":
            file.write_bytes(b"")
        else:
            for path in sorted(file.parent.glob(f"{file.name}*")):
                path.rename(path.with_name(f"lost-{scene.number}-{path.name}"))
                if self.loss == "deleted":
                    path.with_name(f"lost-{scene.number}-{path.name}").unlink()
        return f"for {scene.pause(0.5, 5.0):.1f} s"


class LostLog(_Recovered):
    """The write-ahead log is gone after kill -9, and with it the newest rows, perhaps of a running attempt."""

    name = "write-ahead log removed"

    def inflict(self, scene: Scene) -> str:
        scene.kill_server()
        removed = 0
        for part in ("-wal", "-shm"):
            path = Path(f"{_database(scene.service)}{part}")
            removed += path.stat().st_size if path.exists() else 0
            path.unlink(missing_ok=True)
        return f"{removed >> 10} KiB"


class OldCopy(_Recovered):
    """A backup is restored, which is older than what has been trained since."""

    name = "older database restored"

    def inflict(self, scene: Scene) -> str:
        backup = back_up(scene)
        waited = scene.pause(1.0, 8.0)
        scene.kill_server()
        _operate(scene.service, "restore", str(backup))
        return f"{waited:.1f} s older"


class FlippedBit(_Recovered):
    """One bit of a random page flips while the server is dead; a backup from before is restored."""

    name = "bit of the database flipped"

    def __init__(self) -> None:
        self._backup: Path | None = None

    def inflict(self, scene: Scene) -> str:
        self._backup = back_up(scene)
        scene.kill_server()
        file = _database(scene.service)
        place = scene.random.randrange(file.stat().st_size)
        with open(file, "r+b") as opened:
            opened.seek(place)
            [byte] = opened.read(1)
            opened.seek(place)
            opened.write(bytes([byte ^ 1 << scene.random.randrange(8)]))
        return f"page {place // _PAGE_BYTES + 1}, then {self._start(scene)}"

    def _start(self, scene: Scene) -> str:
        """How the service takes it. Refusing, reading only and serving are all right; vanishing files are not."""
        try:
            scene.service.start()
        except Refused:
            return "the start is refused"
        scene.pause(0.0, 3.0)
        ready = scene.service.request("GET", "/readyz").status_code == 200
        return "the service is ready" if ready else "the service is not ready"

    def heal(self, scene: Scene) -> None:
        scene.service.stop()
        if self._backup is not None:
            _operate(scene.service, "restore", str(self._backup))
        super().heal(scene)


def back_up(scene: Scene) -> Path:
    """A backup of this moment, made beside the running service; the one before is deleted."""
    shutil.rmtree(scene.backup, ignore_errors=True)
    _operate(scene.service, "backup", str(scene.backup))
    return scene.backup


def adopt_all(scene: Scene) -> None:
    """Adopt every run without a row. One that still trains, because its attempt outlived its row, is adopted later."""
    deadline = time.monotonic() + _ORPHANS_SECONDS
    while True:
        orphans = {job_id for job_id, _, _ in scene.service.attempts()} - _known(scene.service)
        _operate(scene.service, "adopt")
        scene.ledger.look()
        lost = set(scene.ledger.trained()) - _known(scene.service)
        if not orphans and not lost:
            return
        assert time.monotonic() < deadline, f"not adopted: {sorted(lost | orphans)}"
        time.sleep(1.0)


def _known(service: Service) -> set[str]:
    return {job["id"] for job in service.jobs()}


def _operate(service: Service, *arguments: str) -> None:
    done: subprocess.CompletedProcess[str] = service.command(*arguments)
    said = f"{done.stdout}{done.stderr}".strip()
    assert done.returncode == 0, f"gan-mhe {' '.join(arguments)} exits {done.returncode}: {said[-300:]}"


def _database(service: Service) -> Path:
    return service.data_dir / "service.sqlite3"


def _lacking_command(service: Service) -> str | None:
    lacking = [f"`gan-mhe {name}`" for name in ("backup", "restore", "adopt") if name not in service.commands]
    return f"this version has no {', '.join(lacking)}" if lacking else None
