"""Who serves a database, said in the database itself: file locks do not reach other machines on every file system."""

import socket
from pathlib import Path

from sqlalchemy import Connection, select

from server.clock import now_ms
from server.errors import StartRefused
from server.store import tables
from server.store.sqlite import upsert

INTERVAL_SECONDS = 5.0
_FRESH_MS = 15_000
_KEY = "heartbeat"

_state = tables.service_state


def beat(connection: Connection) -> None:
    """Say that this machine serves the database now."""
    value = {"host": socket.gethostname(), "boot_id": _boot_id(), "time": now_ms()}
    upsert(connection, _state, [{"key": _KEY, "value": value}])


def check(connection: Connection) -> None:
    """Raises StartRefused when another machine serves the database.

    Another machine has another name and another boot; the same one has the lock on the data directory to go by.
    """
    value = connection.execute(select(_state.c.value).where(_state.c.key == _KEY)).scalar()
    if value is None or value["host"] == socket.gethostname() or value["boot_id"] == _boot_id():
        return
    age_ms = abs(now_ms() - value["time"])
    if age_ms < _FRESH_MS:
        raise StartRefused(
            f"the database is in use by a server on {value['host']}, heard of {age_ms / 1000:.0f} s ago; "
            f"expected none, or {_FRESH_MS // 1000} s of silence"
        )


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
