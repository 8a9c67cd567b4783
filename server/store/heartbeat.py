"""A record in the database of the machine that serves it, because some file systems do not share locks.

The lock on the data directory keeps a second server of the same machine out.
"""

import socket
from pathlib import Path
from typing import TypedDict

from sqlalchemy import Connection, select

from server.clock import wall_ms
from server.errors import StartRefused
from server.store import tables
from server.store.sqlite import upsert

INTERVAL_SECONDS = 5.0
_FRESH_MS = 15_000
_KEY = "heartbeat"

_state = tables.service_state


class _Heartbeat(TypedDict):
    host: str
    boot_id: str
    time: int


def beat(connection: Connection) -> None:
    """Record that this machine serves the database now."""
    value: _Heartbeat = {"host": socket.gethostname(), "boot_id": _boot_id(), "time": wall_ms()}
    upsert(connection, _state, [{"key": _KEY, "value": value}])


def check(connection: Connection) -> None:
    """Raise StartRefused if another machine serves the database. It differs in host name and in boot id."""
    value: _Heartbeat | None = connection.execute(select(_state.c.value).where(_state.c.key == _KEY)).scalar()
    if value is None or value["host"] == socket.gethostname() or value["boot_id"] == _boot_id():
        return
    age_ms = abs(wall_ms() - value["time"])
    if age_ms < _FRESH_MS:
        raise StartRefused(
            f"the database is in use by a server on {value['host']}, last seen {age_ms / 1000:.0f} s ago; "
            f"expected no server on another machine within the last {_FRESH_MS // 1000} s"
        )


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
