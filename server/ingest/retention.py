"""Deletes grids and checkpoints of ended jobs, and what is old in the trash, by the operator's rules.

One transaction marks the rows and lists the files to delete; the files are deleted after it. No row names a missing
file therefore, and files that a crash left behind are deleted the next time. `apply` is for the thread that launches
attempts, because a job that is resumed writes files again.
"""

import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypedDict

from sqlalchemy import Connection, and_, delete, func, select

from gan_mhe.config.names import DEFAULT_TASK, TASKS
from server.clock import now_ms, wall_ms
from server.ingest import trash
from server.queue.states import OPEN, TERMINAL
from server.settings import Settings
from server.store import artifacts, tables
from server.store.rows import fetch_all
from server.store.sqlite import upsert
from server.store.store import Store

_DAY_MS = 24 * 60 * 60 * 1000
# Between two calls of `apply` no more than this counts, so that a clock that runs ahead deletes nothing at once.
_MOST_AT_ONCE_MS = 10 * 60 * 1000
_SEEN = "retention_time"  # key in service_state of the time up to which ages have been counted
_PREFIX = "prune:"  # a job's id follows: the key in service_state of the list of its files to delete

_jobs, _samples, _checkpoints, _summary, _state = (
    tables.jobs,
    tables.samples,
    tables.checkpoints,
    tables.metric_summary,
    tables.service_state,
)


class _Candidate(TypedDict):
    """A checkpoint that may be deleted. best_step: the step of the job's best primary score."""

    job_id: str
    id: str
    step: int
    best_step: int | None


def apply(store: Store, settings: Settings) -> None:
    """Delete the files of ended and deleted jobs that the settings do not keep."""
    if settings.samples_per_job:
        grids = store.read(lambda connection: _surplus_grids(connection, settings.samples_per_job))
        for job_id, steps in grids.items():
            store.write(partial(_prune, job_id=job_id, steps=steps, prune=artifacts.prune_samples))
    discarded = trash.contents(settings)
    if settings.checkpoint_days or discarded:
        counted = store.write(_count_time, durable=False)
        trash.empty_old(settings, discarded, counted)
    elif store.read(_seen) is not None:  # nothing ages: what comes later must not wait until time has caught up
        store.write(_forget_time, durable=False)
    if settings.checkpoint_days:
        ended_before = counted - round(settings.checkpoint_days * _DAY_MS)
        checkpoints = store.read(lambda connection: _old_checkpoints(connection, ended_before))
        for job_id, steps in checkpoints.items():
            store.write(partial(_prune, job_id=job_id, steps=steps, prune=artifacts.prune_checkpoints))
    for job_id, paths in store.read(_files_to_delete).items():
        for path in paths:
            _delete(settings.job_dir(job_id) / path)
        store.write(partial(_clear_list, job_id=job_id))


def _count_time(connection: Connection) -> int:
    """The time up to which ages count: the earlier of both clocks, approached in bounded steps."""
    now = min(now_ms(), wall_ms())
    seen = _seen(connection)
    counted = now if seen is None else min(now, seen + _MOST_AT_ONCE_MS)
    upsert(connection, _state, [{"key": _SEEN, "value": counted}])
    return counted


def _seen(connection: Connection) -> int | None:
    seen: int | None = connection.execute(select(_state.c.value).where(_state.c.key == _SEEN)).scalar()
    return seen


def _forget_time(connection: Connection) -> None:
    connection.execute(delete(_state).where(_state.c.key == _SEEN))


def _surplus_grids(connection: Connection, keep: int) -> dict[str, list[int]]:
    """Return the steps of the grids to delete, by job. The first and the last grid stay, and others evenly between."""
    crowded = (
        select(_samples.c.job_id)
        .join(_jobs, _jobs.c.id == _samples.c.job_id)
        .where(_jobs.c.state.in_(TERMINAL), _samples.c.pruned_at.is_(None))
        .group_by(_samples.c.job_id)
        .having(func.count() > max(keep, 2))
    )
    query = select(_samples.c.job_id, _samples.c.step).where(
        _samples.c.job_id.in_(crowded), _samples.c.pruned_at.is_(None)
    )
    steps = defaultdict(list)
    for job_id, step in connection.execute(query.order_by(_samples.c.step)):
        steps[job_id].append(step)
    return {job_id: sorted(set(mine) - set(evenly(mine, keep))) for job_id, mine in steps.items()}


def evenly(steps: Sequence[int], keep: int) -> list[int]:
    """Select `keep` of the steps at even distances in their order, always with the first and the last."""
    intervals = max(keep, 2) - 1
    return [steps[round(index * (len(steps) - 1) / intervals)] for index in range(intervals + 1)]


def _old_checkpoints(connection: Connection, ended_before: int) -> dict[str, list[int]]:
    """Return the steps of the checkpoints to delete, by job: not the last, the best, and those that other jobs need."""
    # The metric that ranks the job: the one that its result names, or that of its task.
    metric = func.coalesce(_jobs.c.result["metric"].as_string(), TASKS[DEFAULT_TASK].metric)
    primary = and_(_summary.c.job_seq == _jobs.c.seq, _summary.c.name == metric)
    query = (
        select(_checkpoints.c.job_id, _checkpoints.c.id, _checkpoints.c.step, _summary.c.best_step)
        .join(_jobs, _jobs.c.id == _checkpoints.c.job_id)
        .outerjoin(_summary, primary)
        .where(
            _checkpoints.c.status == artifacts.AVAILABLE,
            _jobs.c.state.in_(TERMINAL),
            _jobs.c.finished_at < ended_before,
        )
        .order_by(_checkpoints.c.step)
    )
    found = defaultdict(list)
    for row in fetch_all(connection, query, _Candidate):
        found[row["job_id"]].append(row)
    in_use = _in_use(connection) if found else set()
    old = {
        job_id: [row["step"] for row in rows[:-1] if row["step"] != row["best_step"] and row["id"] not in in_use]
        for job_id, rows in found.items()
    }
    return {job_id: steps for job_id, steps in old.items() if steps}


def _in_use(connection: Connection) -> set[str]:
    """Return the checkpoints of forks and tasks that have not ended."""
    query = select(_jobs.c.request, _jobs.c.forked_from).where(_jobs.c.state.in_(OPEN))
    rows = connection.execute(query).all()
    return {source["checkpoint_id"] for row in rows for source in row if source and "checkpoint_id" in source}


def _prune(
    connection: Connection,
    job_id: str,
    steps: Sequence[int],
    prune: Callable[[Connection, str, Sequence[int]], list[str]],
) -> None:
    """Mark rows and list their files, unless the job was resumed or deleted meanwhile."""
    if _state_of(connection, job_id) in TERMINAL:
        key = _PREFIX + job_id
        before = connection.execute(select(_state.c.value).where(_state.c.key == key)).scalar_one_or_none()
        upsert(connection, _state, [{"key": key, "value": [*(before or ()), *prune(connection, job_id, steps)]}])


def _state_of(connection: Connection, job_id: str) -> str | None:
    return connection.execute(select(_jobs.c.state).where(_jobs.c.id == job_id)).scalar_one_or_none()


def _files_to_delete(connection: Connection) -> dict[str, list[str]]:
    """Return the listed files by job, without resumed jobs and without files that were written again since."""
    found = {}
    for key, paths in connection.execute(select(_state.c.key, _state.c.value).where(_state.c.key.startswith(_PREFIX))):
        job_id = key.removeprefix(_PREFIX)
        state = _state_of(connection, job_id)
        if state is None or state in TERMINAL:
            kept = _kept(connection, job_id)
            found[job_id] = [path for path in paths if path not in kept]
    return found


def _kept(connection: Connection, job_id: str) -> set[str]:
    grids = select(_samples.c.path).where(_samples.c.job_id == job_id, _samples.c.pruned_at.is_(None))
    available = (_checkpoints.c.job_id == job_id, _checkpoints.c.status == artifacts.AVAILABLE)
    return set(connection.execute(grids.union_all(select(_checkpoints.c.path).where(*available))).scalars())


def _delete(path: Path) -> None:
    """Delete a grid, which is a file, or a checkpoint, which is a directory."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _clear_list(connection: Connection, job_id: str) -> None:
    connection.execute(delete(_state).where(_state.c.key == _PREFIX + job_id))
