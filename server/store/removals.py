"""The jobs whose files are to be deleted, because a caller deleted the job: the only license to delete a directory.

A job is listed in the transaction that deletes its row, and taken off the list when its files are gone, so that a
deletion cut short is completed later and no other directory is ever deleted for want of a row.
"""

from sqlalchemy import Connection, delete, literal, select

from server.store import tables
from server.store.sqlite import upsert

_PREFIX = "remove:"  # a job's id follows: the key in service_state

_state, _jobs = tables.service_state, tables.jobs


def ask(connection: Connection, job_id: str) -> None:
    """List the job's files for deletion."""
    upsert(connection, _state, [{"key": _PREFIX + job_id, "value": True}])


def asked(connection: Connection) -> list[str]:
    """The ids of the listed jobs. One that has a row was made a job again since, and is none of them."""
    jobs = select(literal(_PREFIX) + _jobs.c.id)
    query = select(_state.c.key).where(_state.c.key.startswith(_PREFIX), _state.c.key.not_in(jobs))
    return [key.removeprefix(_PREFIX) for key in connection.execute(query).scalars()]


def done(connection: Connection, job_id: str) -> None:
    """Take the job off the list."""
    connection.execute(delete(_state).where(_state.c.key == _PREFIX + job_id))
