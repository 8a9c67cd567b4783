"""Deletion of jobs, of whose files no other job may be in need."""

from sqlalchemy import Connection, delete, or_, select

from server.errors import InvalidTransition
from server.queue import queue
from server.queue.states import OPEN, TERMINAL, State
from server.store import removals, tables
from server.store.rows import JobRow

_checkpoints, _jobs = tables.checkpoints, tables.jobs


def remove(connection: Connection, job: JobRow) -> None:
    """Delete a job that has ended, with all rows that belong to it, and ask for the deletion of its files.

    Raises InvalidTransition if it has not ended, or if forks or tasks still read its checkpoints.
    """
    if State(job["state"]) not in TERMINAL:
        raise InvalidTransition(f"{job['id']} is {job['state']}; only a job that has ended can be deleted")
    if queue.live_attempt(connection, job["id"]):
        raise InvalidTransition(f"{job['id']} still has a process; it can be deleted once that is gone")
    waiting = waiting_for(connection, job["id"])
    if waiting:
        raise InvalidTransition(
            f"{job['id']} has checkpoints that are still needed by {', '.join(waiting)}; it can be deleted afterwards"
        )
    connection.execute(delete(_jobs).where(_jobs.c.id == job["id"]))
    removals.ask(connection, job["id"])


def waiting_for(connection: Connection, job_id: str) -> list[str]:
    """The first forks and tasks that have not ended and read the job's checkpoints.

    A fork reads them until it has a checkpoint of its own.
    """
    has_own = select(_checkpoints.c.id).where(_checkpoints.c.job_id == _jobs.c.id).exists()
    is_fork = (_jobs.c.forked_from["job_id"].as_string() == job_id) & ~has_own
    is_task = (_jobs.c.kind != queue.TRAIN) & (_jobs.c.request["job_id"].as_string() == job_id)
    query = select(_jobs.c.id).where(_jobs.c.state.in_(OPEN), or_(is_fork, is_task)).order_by(_jobs.c.seq)
    return list(connection.execute(query.limit(3)).scalars())
