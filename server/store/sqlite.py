"""Everything that is specific to SQLite."""

import time
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from sqlalchemy import (
    URL,
    Column,
    ColumnElement,
    Connection,
    CursorResult,
    Engine,
    Table,
    create_engine,
    event,
    func,
    select,
)
from sqlalchemy.dialects.sqlite import Insert, insert
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool, StaticPool

from gan_mhe.errors import StorageError

BUSY_TIMEOUT_MS = 30_000
_READERS = 8
_FOLD = "fold_case"
_STEPS_BETWEEN_LOOKS = 100_000  # steps of SQLite's machine between two looks at the clock: some milliseconds
_PARAMETERS = 500  # of one statement; the oldest builds allow 999

_DIALECT = SQLiteDialect_pysqlite()

T = TypeVar("T")


def writer_engine(path: Path) -> Engine:
    """Create the engine of the one writing connection. Every transaction takes the write lock when it begins.

    A deferred transaction that reads and then writes would fail if another process wrote in between.
    """
    engine = create_engine(_address(path, "rwc"), poolclass=StaticPool, connect_args={"check_same_thread": False})
    _configure(engine, "BEGIN IMMEDIATE", "PRAGMA journal_mode=WAL", "PRAGMA foreign_keys=ON")
    return engine


def reader_engine(path: Path) -> Engine:
    """Create the engine of the connections that cannot write."""
    engine = create_engine(
        _address(path, "rw"),  # not made where it was moved away
        poolclass=QueuePool,
        pool_size=_READERS,
        max_overflow=32,
        connect_args={"check_same_thread": False},
    )
    _configure(engine, "BEGIN", "PRAGMA query_only=ON")
    return engine


def _address(path: Path, mode: str) -> URL:
    """The address of a database file, whatever characters its path has. mode: rwc makes it if it is missing."""
    return URL.create("sqlite", database=f"file:{quote(str(path))}", query={"mode": mode, "uri": "true"})


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
    if rows:
        connection.execute(_upsert(table, list(rows[0])), rows)


def upsert_tuples(connection: Connection, table: Table, rows: Sequence[tuple[int | float, ...]]) -> None:
    """Upsert many rows of numbers, whole and in the order of the columns, as the driver takes them."""
    names = list(table.c.keys())
    connection.exec_driver_sql(str(_upsert(table, names).compile(dialect=_DIALECT, column_keys=names)), list(rows))


def _upsert(table: Table, names: Sequence[str]) -> Insert:
    statement = insert(table)
    keys = {column.name for column in table.primary_key}
    changed = {name: statement.excluded[name] for name in names if name not in keys}
    if not changed:
        return statement.on_conflict_do_nothing()
    return statement.on_conflict_do_update(index_elements=sorted(keys), set_=changed)


class Prepared:
    """Rows of a table as the driver takes them, made before the transaction that inserts them, which is then short.

    rows: values by column, the same columns in all.
    """

    def __init__(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        columns = [column for column in table.c if rows and column.name in rows[0]]
        each = [(column.name, column.type.dialect_impl(_DIALECT).bind_processor(_DIALECT)) for column in columns]
        self._rows = [tuple(make(row[name]) if make else row[name] for name, make in each) for row in rows]
        self._insert = table.insert()
        self._names = [column.name for column in columns]

    def insert(self, connection: Connection) -> None:
        """Insert the rows in their order."""
        if self._rows:
            statement = self._insert.compile(dialect=_DIALECT, column_keys=self._names)
            connection.exec_driver_sql(str(statement), self._rows)

    def insert_numbered(self, connection: Connection, number: Column[int]) -> range:
        """Insert the rows in their order; returns the numbers that the database gave them. number: their column."""
        self.insert(connection)
        last = connection.execute(select(func.max(number))).scalar() or 0
        return range(last - len(self._rows) + 1, last + 1)  # one by one, since nobody else writes meanwhile


def backup(connection: Any, path: Path) -> None:
    """Copy the database consistently while others use it. connection: a DBAPI connection outside any transaction.

    Raises StorageError if the copy cannot be written.
    """
    try:
        connection.execute("VACUUM INTO ?", (str(path),))
    except connection.OperationalError as error:
        raise StorageError(f"cannot copy the database to {path}: {error}") from error


def damage_in(error: Exception) -> str | None:
    """What an error says of damage to the database file; None if it says something else."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return str(cause) if _name(cause).startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) else None


def _name(error: BaseException | None) -> str:
    return str(getattr(error, "sqlite_errorname", ""))


def first_fault(connection: Any, seconds: float | None) -> tuple[str | None, bool]:
    """Examine the whole database; returns the first fault, if any, and whether the examination was completed.

    It reads every page: about a second for 100 MB that lie in memory. connection: a DBAPI connection outside any
    transaction. seconds: when to stop; None never.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    if deadline is not None:
        connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS_BETWEEN_LOOKS)
    try:
        found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    except connection.DatabaseError as error:
        return (None, False) if _name(error) == "SQLITE_INTERRUPT" else (str(error), True)
    finally:
        connection.set_progress_handler(None, 0)
    return (None if found == "ok" else " ".join(found.split())), True


def broken_references(connection: Connection) -> list[str]:
    """The tables that have rows which refer to rows that do not exist, by name."""
    return sorted({row[0] for row in connection.exec_driver_sql("PRAGMA foreign_key_check")})


def copy_readable_rows(damaged: Engine, target: Engine, table: Table) -> bool:
    """Copy the rows of a table that can be read, and that refer to rows already there. Returns whether all could be.

    It reads the table and no index, forward up to the damage and then backward. The damaged database may be of an
    older schema. Raises StorageError if the target cannot be written.
    """
    with damaged.connect() as old, target.connect() as new:
        source, sink = old.connection.dbapi_connection, new.connection.dbapi_connection
        assert source is not None and sink is not None
        try:
            known = [row[1] for row in source.execute(f"PRAGMA table_info({table.name})")]
        except source.DatabaseError:  # not even the schema can be read
            return False
        columns = ", ".join(f'"{column.name}"' for column in table.c if column.name in known)
        keys = [column.name for column in table.primary_key]
        order = ["rowid"] if table.dialect_options["sqlite"]["with_rowid"] else keys
        sink.execute("BEGIN IMMEDIATE")
        complete = False
        for direction in () if not columns else ("ASC", "DESC"):
            by = ", ".join(f'"{name}" {direction}' for name in order)
            rows = _Readable(source, f"SELECT {columns} FROM {table.name} NOT INDEXED ORDER BY {by}")
            for row in rows:
                _insert(sink, table.name, columns, row)
            complete = not rows.damaged and direction == "ASC"
            if not rows.damaged:
                break
        sink.execute("COMMIT")
        return complete


class _Readable:
    """The rows of a query up to the first that cannot be read. damaged: whether there was such a row."""

    def __init__(self, connection: Any, query: str) -> None:
        self._connection = connection
        self._query = query
        self.damaged = False

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._connection.execute(self._query)
        except self._connection.DatabaseError:
            self.damaged = True


def _insert(sink: Any, table: str, columns: str, row: tuple[Any, ...]) -> None:
    """Insert a row unless it is there already, or refers to one that is not."""
    marks = ", ".join("?" * len(row))
    try:
        sink.execute(f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({marks})", row)
    except sink.IntegrityError:
        pass
    except sink.DatabaseError as error:
        raise StorageError(f"cannot write the new database: {error}") from error


def truncate_log(connection: Any) -> None:
    """Free the write-ahead log's disk space. connection: a DBAPI connection outside any transaction."""
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def is_full(error: DBAPIError) -> bool:
    """Whether a statement failed because no disk space is left."""
    return _code(error) == "SQLITE_FULL"


def is_unwritable(error: DBAPIError) -> bool:
    """Whether a statement failed because the database's files cannot be opened, read or written."""
    return _code(error).startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_IOERR"))


def _code(error: DBAPIError) -> str:
    return str(getattr(error.orig, "sqlite_errorname", ""))


def inserted_key(result: CursorResult[Any]) -> int:
    """Return the number that the database gave to an inserted row."""
    key = result.inserted_primary_key
    assert key is not None
    return int(key[0])
