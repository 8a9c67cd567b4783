"""Everything that is specific to SQLite."""

import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Column, ColumnElement, Connection, CursorResult, Engine, Table, create_engine, event, func
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.pool import QueuePool, StaticPool

BUSY_TIMEOUT_MS = 30_000
_READERS = 8
_FOLD = "fold_case"
_PARAMETERS = 500  # of one statement; the oldest builds allow 999

T = TypeVar("T")


def writer_engine(path: Path) -> Engine:
    """Create the engine of the one writing connection. Every transaction takes the write lock when it begins.

    A deferred transaction that reads and then writes would fail if another process wrote in between.
    """
    engine = create_engine(f"sqlite:///{path}", poolclass=StaticPool, connect_args={"check_same_thread": False})
    _configure(engine, "BEGIN IMMEDIATE", "PRAGMA journal_mode=WAL", "PRAGMA foreign_keys=ON")
    return engine


def reader_engine(path: Path) -> Engine:
    """Create the engine of the connections that cannot write."""
    engine = create_engine(
        f"sqlite:///{path}",
        poolclass=QueuePool,
        pool_size=_READERS,
        max_overflow=32,
        connect_args={"check_same_thread": False},
    )
    _configure(engine, "BEGIN", "PRAGMA query_only=ON")
    return engine


def _configure(engine: Engine, begin: str, *pragmas: str) -> None:
    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # otherwise the driver begins deferred transactions itself
        for pragma in (f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}", *pragmas):
            connection.execute(pragma)
        connection.create_function(_FOLD, 1, _fold, deterministic=True)

    @event.listens_for(engine, "begin")
    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)


def _fold(text: str | None) -> str | None:
    return None if text is None else unicodedata.normalize("NFC", text.casefold())


def contains_caseless(column: Column[Any], part: str) -> ColumnElement[bool]:
    """The condition that a column's text contains `part`, ignoring case in every alphabet; SQLite's own knows ASCII."""
    return func.instr(getattr(func, _FOLD)(column), _fold(part)) > 0


def pieces(values: Collection[T]) -> Iterator[list[T]]:
    """Split the values of a condition `IN` into as many as one statement may have."""
    everything = list(values)
    for start in range(0, len(everything), _PARAMETERS):
        yield everything[start : start + _PARAMETERS]


def set_durable(connection: Any, durable: bool) -> None:
    """Set whether commits survive a power failure, or only a killed process.

    connection: a DBAPI connection outside any transaction.
    """
    connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")


def upsert(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows; where a primary key exists already, update the other given columns."""
    if not rows:
        return
    statement = insert(table)
    keys = {column.name for column in table.primary_key}
    changed = {name: statement.excluded[name] for name in rows[0] if name not in keys}
    if changed:
        connection.execute(statement.on_conflict_do_update(index_elements=sorted(keys), set_=changed), rows)
    else:
        connection.execute(statement.on_conflict_do_nothing(), rows)


def backup(connection: Any, path: Path) -> None:
    """Copy the database consistently while others use it. connection: a DBAPI connection outside any transaction."""
    connection.execute("VACUUM INTO ?", (str(path),))


def truncate_log(connection: Any) -> None:
    """Free the write-ahead log's disk space. connection: a DBAPI connection outside any transaction."""
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def inserted_key(result: CursorResult[Any]) -> int:
    """Return the number that the database gave to an inserted row."""
    key = result.inserted_primary_key
    assert key is not None
    return int(key[0])
