"""The database: one writer, many readers, and what is told to listeners once it is committed."""

import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import alembic.command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from server.crash_points import crash_point
from server.errors import StartRefused
from server.store import sqlite

Result = TypeVar("Result")
JournalRow = Mapping[str, Any]
Listener = Callable[[Sequence[JournalRow]], None]

_NEWS = "journal rows of this transaction"
_MIGRATIONS = Path(__file__).resolve().parent / "migrations"


class Store:
    """Transactions as functions: `write` runs one at a time and is durable when it returns, `read` sees a snapshot.

    A function given to `write` may run journal.append; its rows go to the listeners after the commit, in order.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._writer = sqlite.writer_engine(path)
        self._readers = sqlite.reader_engine(path)
        self._listeners: list[Listener] = []
        self._durable: bool | None = None

    def migrate(self) -> None:
        """Bring the schema up to date, all of it or nothing, with a copy of what was there before.

        Raises StartRefused when the database is of a newer version.
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
        """Call `listener` with the journal rows of every commit, from the committing thread, in commit order."""
        self._listeners.append(listener)

    def write(self, work: Callable[[Connection], Result], *, name: str = "state", durable: bool = True) -> Result:
        """Run `work` in a transaction and commit it; nothing of it stands when it raises.

        name: what kind of write, for fault points. durable: survive a power cut, not only a killed process. Readings
        of a run's files need not, since they can be read again.
        """
        with self._lock, self._writer.connect() as connection:
            self._set_durable(connection, durable)
            news: list[JournalRow] = []
            connection.info[_NEWS] = news
            with connection.begin():
                result = work(connection)
                crash_point(f"{name}.before_commit")
            crash_point(f"{name}.after_commit")
            if news:
                for listener in self._listeners:
                    listener(news)
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
        """Give back the space of the write-ahead log."""
        with self._lock, self._writer.connect() as connection:
            sqlite.truncate_log(connection.connection.dbapi_connection)

    def close(self) -> None:
        """Close all connections."""
        self._readers.dispose()
        self._writer.dispose()


def announce(connection: Connection, row: JournalRow) -> None:
    """Tell the listeners of a journal row once the transaction is committed."""
    connection.info[_NEWS].append(row)
