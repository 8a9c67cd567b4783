"""The database: one writer, many readers, and listeners that get the journal rows of every commit."""

import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import alembic.command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from server.crash_points import crash_point
from server.errors import StartRefused
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

    def is_new(self) -> bool:
        """Whether the database has no schema yet: there was no file, or an empty one."""
        with self._lock, self._writer.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision() is None

    def migrate(self) -> None:
        """Migrate the schema to the current version in one transaction, after copying the database file.

        Raises StartRefused if a newer version of the service wrote the database.
        """
        script = ScriptDirectory(str(_MIGRATIONS))
        with self._lock:
            with self._writer.connect() as connection:
                current = MigrationContext.configure(connection).get_current_revision()
            if current == script.get_current_head():
                return
            if current is not None:
                self._check_known(script, current)
                self._copy_before_migration(current)
            config = Config()
            config.set_main_option("script_location", str(_MIGRATIONS))
            with self._writer.begin() as connection:
                config.attributes["connection"] = connection
                alembic.command.upgrade(config, "head")

    def _check_known(self, script: ScriptDirectory, current: str) -> None:
        known = {revision.revision for revision in script.walk_revisions()}
        if current not in known:
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
        process. What was read from a run's files does not need that, because it can be read again.
        """
        with self._lock, self._writer.connect() as connection:
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
        """Run `work` on one snapshot of the database."""
        with self._readers.connect() as connection, connection.begin():
            return work(connection)

    def tidy(self) -> None:
        """Free the disk space of the write-ahead log."""
        with self._lock, self._writer.connect() as connection:
            sqlite.truncate_log(connection.connection.dbapi_connection)

    def close(self) -> None:
        """Close all connections."""
        self._readers.dispose()
        self._writer.dispose()


def announce(connection: Connection, row: JournalRow) -> None:
    """Pass a journal row to the listeners once the transaction is committed."""
    connection.info[_NEW_ROWS].append(row)
