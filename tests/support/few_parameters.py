"""SQLite as its oldest builds are: with at most 999 parameters in one statement."""

import sqlite3

from sqlalchemy import Connection


def few_parameters(connection: Connection) -> None:
    """Allow 999 parameters in a statement of this connection, instead of the 32,766 or 250,000 of newer builds."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    driver.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 999)
