"""The jobs whose files are to be deleted, because a caller deleted the job: the only license to delete a directory.

A job is listed in the transaction that deletes its row, and taken off the list when its files are gone, so that a
deletion cut short is completed later and no other directory is ever deleted for want of a row.
"""

from sqlalchemy import Connection, delete, select

from server.store import tables
from server.store.sqlite import upsert

_PREFIX = "remove:"  # a job's id follows: the key in service_state

_state = tables.service_state


def ask(connection: Connection, job_id: str) -> None:
    """List the job's files for deletion."""
    upsert(connection, _state, [{"key": _PREFIX + job_id, "value": True}])


def asked(connection: Connection) -> list[str]:
    """The ids of the listed jobs."""
    keys = connection.execute(select(_state.c.key).where(_state.c.key.startswith(_PREFIX))).scalars()
    return [key.removeprefix(_PREFIX) for key in keys]


def done(connection: Connection, job_id: str) -> None:
    """Take the job off the list."""
    connection.execute(delete(_state).where(_state.c.key == _PREFIX + job_id))
