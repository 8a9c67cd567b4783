"""The database: one writer, many readers, and listeners that get the journal rows of every commit."""

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import alembic.command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from server.crash_points import crash_point
from server.errors import DatabaseDamaged, StartRefused
from server.store import sqlite
from server.store.rows import JournalRow

Result = TypeVar("Result")
Listener = Callable[[Sequence[JournalRow]], None]

_NEW_ROWS = "journal rows of this transaction"  # key in Connection.info
_MIGRATIONS = Path(__file__).resolve().parent / "migrations"


class Store:
    """Runs functions as transactions: `write` one at a time and durably, `read` on a snapshot.

    A function given to `write` may call journal.append; its rows go to the listeners after the commit, in order.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._writer = sqlite.writer_engine(path)
        self._readers = sqlite.reader_engine(path)
        self._listeners: list[Listener] = []
        self._durable: bool | None = None
        self.damage: str | None = None
        """What is damaged in the database file, once that was seen; nothing is written then."""

    def is_new(self) -> bool:
        """Whether the database has no schema yet: there was no file, or an empty one."""
        return self.revision() is None

    def revision(self) -> str | None:
        """The revision of the database's schema; None if it has none yet. Raises DatabaseDamaged."""
        if not self._path.exists():
            return None
        with self._seeing_damage(), self._readers.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()

    def is_current(self) -> bool:
        """Whether the schema is this version's: there is nothing to migrate."""
        return self.revision() == ScriptDirectory(str(_MIGRATIONS)).get_current_head()

    def examine(self, seconds: float | None = None) -> bool:
        """Look for damage in the whole database and keep the first in `damage`.

        seconds: when to give up, None never. Returns whether the database was examined to its end. Thread-safe; others
        read and write meanwhile.
        """
        if not self._path.exists():
            return True
        with self._readers.connect() as connection:
            fault, complete = sqlite.first_fault(connection.connection.dbapi_connection, seconds)
        self.damage = self.damage or fault
        return complete

    def migrate(self) -> None:
        """Migrate the schema to the current version in one transaction, after copying the database file.

        Raises StartRefused if a newer version of the service wrote the database.
        """
        script = ScriptDirectory(str(_MIGRATIONS))
        with self._lock:
            current, foreign = self._look()
            if current == script.get_current_head():
                return
            if foreign:
                raise StartRefused(
                    f"{self._path} has tables and no schema revision: expected the database of this service; "
                    "it is another program's, or damaged. It was not changed"
                )
            if current is not None:
                self._check_known(current)
                self._copy_before_migration(current)
            config = Config()
            config.set_main_option("script_location", str(_MIGRATIONS))
            with self._writer.begin() as connection:
                config.attributes["connection"] = connection
                alembic.command.upgrade(config, "head")

    def _look(self) -> tuple[str | None, bool]:
        """The revision of the schema, and whether the database is another program's: it has tables and no revision.

        It looks through a reader, because the writer makes the file one with a write-ahead log.
        """
        if not self._path.exists():
            return None, False
        with self._readers.connect() as connection:
            current = MigrationContext.configure(connection).get_current_revision()
            return current, current is None and bool(inspect(connection).get_table_names())

    def _check_known(self, current: str) -> None:
        if not knows(current):
            raise StartRefused(
                f"the database {self._path} has schema {current}, which this version does not know; "
                "expected a version of the service at least as new as the one that wrote it"
            )

    def _copy_before_migration(self, current: str) -> None:
        copy = self._path.with_name(f"{self._path.name}.before-{current}")
        temporary = copy.with_name(f".{copy.name}.tmp")
        temporary.unlink(missing_ok=True)
        with self._writer.connect() as connection:
            sqlite.backup(connection.connection.dbapi_connection, temporary)
        shutil.move(temporary, copy)

    def subscribe(self, listener: Listener) -> None:
        """Call `listener` with the journal rows of every commit, in the committing thread and in commit order."""
        self._listeners.append(listener)

    def write(self, work: Callable[[Connection], Result], *, name: str = "state", durable: bool = True) -> Result:
        """Run `work` in a transaction and commit it; roll back if it raises.

        name: the kind of write, for crash points. durable: the commit survives a power failure, not only a killed
        process. What was read from a run's files does not need that, because it can be read again. Raises
        DatabaseDamaged, and writes nothing, once damage was seen.
        """
        if self.damage is not None:
            raise DatabaseDamaged(self.damage)
        with self._seeing_damage(), self._lock, self._writer.connect() as connection:
            self._set_durable(connection, durable)
            new_rows: list[JournalRow] = []
            connection.info[_NEW_ROWS] = new_rows
            with connection.begin():
                result = work(connection)
                crash_point(f"{name}.before_commit")
            crash_point(f"{name}.after_commit")
            if new_rows:
                for listener in self._listeners:
                    listener(new_rows)
        return result

    def _set_durable(self, connection: Connection, durable: bool) -> None:
        if durable is not self._durable:
            sqlite.set_durable(connection.connection.dbapi_connection, durable)
            self._durable = durable

    def read(self, work: Callable[[Connection], Result]) -> Result:
        """Run `work` on one snapshot of the database. Raises DatabaseDamaged if it meets a damaged page."""
        with self._seeing_damage(), self._readers.connect() as connection, connection.begin():
            return work(connection)

    @contextmanager
    def _seeing_damage(self) -> Iterator[None]:
        """Keep the damage that a query meets, and raise it as what it is."""
        try:
            yield
        except Exception as error:
            fault = sqlite.damage_in(error)
            if fault is None:
                raise
            self.damage = self.damage or fault
            raise DatabaseDamaged(self.damage) from error

    def tidy(self) -> None:
        """Free the disk space of the write-ahead log."""
        with self._lock, self._writer.connect() as connection:
            sqlite.truncate_log(connection.connection.dbapi_connection)

    def broken_references(self) -> list[str]:
        """The tables that have rows which refer to rows that do not exist."""
        return self.read(sqlite.broken_references)

    def copy_to(self, path: Path) -> None:
        """Copy the database consistently, while others use it, to a file that does not exist yet."""
        with self._seeing_damage(), self._lock, self._writer.connect() as connection:
            sqlite.backup(connection.connection.dbapi_connection, path)

    def close(self) -> None:
        """Close all connections."""
        self._readers.dispose()
        self._writer.dispose()


def announce(connection: Connection, row: JournalRow) -> None:
    """Pass a journal row to the listeners once the transaction is committed."""
    connection.info[_NEW_ROWS].append(row)


def knows(revision: str) -> bool:
    """Whether this version can read, and migrate, a database with such a schema."""
    return revision in {known.revision for known in ScriptDirectory(str(_MIGRATIONS)).walk_revisions()}
