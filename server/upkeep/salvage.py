"""Copies what can be read of a damaged database into a new one, table by table and row by row.

A damaged index costs nothing, a damaged page the rows on it. Rows that refer to lost ones are lost too.
"""

from pathlib import Path

from server.store import sqlite, tables
from server.store.store import Store


def salvage(damaged: Path, new: Path) -> list[str]:
    """Fill a new database with the readable rows of a damaged one; returns the tables that could not be read whole.

    The damaged file is only read.
    """
    store = Store(new)
    try:
        store.migrate()
    finally:
        store.close()
    source, target = sqlite.reader_engine(damaged), sqlite.writer_engine(new)
    try:
        every = tables.metadata.sorted_tables
        return [table.name for table in every if not sqlite.copy_readable_rows(source, target, table)]
    finally:
        source.dispose()
        target.dispose()
