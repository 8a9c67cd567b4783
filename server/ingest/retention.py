"""Which grids and checkpoints of ended jobs are kept, by the operator's rules.

Rows are marked and the files that go are noted in one transaction; the files are deleted after it. So no row names a
file that is gone, and what a crash in between left is deleted the next time. `apply` is for the thread that launches
attempts, because a job that is taken up again writes files of its own.
"""

import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from sqlalchemy import Connection, and_, delete, func, select

from gan_mhe.config.names import DEFAULT_TASK, TASKS
from server.clock import now_ms
from server.queue.states import TERMINAL
from server.settings import Settings
from server.store import artifacts, tables
from server.store.sqlite import upsert
from server.store.store import Store

_DAY_MS = 24 * 60 * 60 * 1000
_NOTE = "prune:"  # of the keys under which files to be deleted are noted, by job

_jobs, _samples, _checkpoints, _summary, _notes = (
    tables.jobs,
    tables.samples,
    tables.checkpoints,
    tables.metric_summary,
    tables.service_state,
)


def apply(store: Store, settings: Settings) -> None:
    """Thin out what jobs that have ended keep, as far as the settings say so."""
    if settings.samples_per_job:
        grids = store.read(lambda connection: _grids_to_go(connection, settings.samples_per_job))
        for job_id, steps in grids.items():
            store.write(partial(_prune, job_id=job_id, steps=steps, prune=artifacts.prune_samples))
    if settings.checkpoint_days:
        ended_before = now_ms() - round(settings.checkpoint_days * _DAY_MS)
        checkpoints = store.read(lambda connection: _checkpoints_to_go(connection, ended_before))
        for job_id, steps in checkpoints.items():
            store.write(partial(_prune, job_id=job_id, steps=steps, prune=artifacts.prune_checkpoints))
    for job_id, paths in store.read(_noted).items():
        for path in paths:
            _delete(settings.job_dir(job_id) / path)
        store.write(partial(_forget, job_id=job_id))


def _grids_to_go(connection: Connection, keep: int) -> dict[str, list[int]]:
    """Steps whose grids go, by job: the first and the last stay and, evenly spread between, as many as may."""
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
    """`keep` of the steps, at even distances in their order; the first and the last always."""
    intervals = max(keep, 2) - 1
    return [steps[round(index * (len(steps) - 1) / intervals)] for index in range(intervals + 1)]


def _checkpoints_to_go(connection: Connection, ended_before: int) -> dict[str, list[int]]:
    """Steps whose checkpoints go, by job: all but the last, the best, and those that other jobs are to work on."""
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
    for row in connection.execute(query):
        found[row.job_id].append(row)
    in_use = _in_use(connection) if found else set()
    going = {
        job_id: [row.step for row in rows[:-1] if row.step != row.best_step and row.id not in in_use]
        for job_id, rows in found.items()
    }
    return {job_id: steps for job_id, steps in going.items() if steps}


def _in_use(connection: Connection) -> set[str]:
    """The checkpoints that forks begin with, or tasks are about, which have not ended."""
    query = select(_jobs.c.request, _jobs.c.forked_from).where(_jobs.c.state.not_in(TERMINAL))
    rows = connection.execute(query).all()
    return {source["checkpoint_id"] for row in rows for source in row if source and "checkpoint_id" in source}


def _prune(
    connection: Connection,
    job_id: str,
    steps: Sequence[int],
    prune: Callable[[Connection, str, Sequence[int]], list[str]],
) -> None:
    """Mark rows and note their files, if the job has not been taken up again or deleted meanwhile."""
    if _state_of(connection, job_id) in TERMINAL:
        key = _NOTE + job_id
        before = connection.execute(select(_notes.c.value).where(_notes.c.key == key)).scalar_one_or_none()
        upsert(connection, _notes, [{"key": key, "value": [*(before or ()), *prune(connection, job_id, steps)]}])


def _state_of(connection: Connection, job_id: str) -> str | None:
    return connection.execute(select(_jobs.c.state).where(_jobs.c.id == job_id)).scalar_one_or_none()


def _noted(connection: Connection) -> dict[str, list[str]]:
    """Files to be deleted, by job: of jobs that are not under way again, and not what was written again since."""
    found = {}
    for key, paths in connection.execute(select(_notes.c.key, _notes.c.value).where(_notes.c.key.startswith(_NOTE))):
        job_id = key.removeprefix(_NOTE)
        state = _state_of(connection, job_id)
        if state is None or state in TERMINAL:
            kept = _kept(connection, job_id)
            found[job_id] = [path for path in paths if path not in kept]
    return found


def _kept(connection: Connection, job_id: str) -> set[str]:
    grids = select(_samples.c.path).where(_samples.c.job_id == job_id, _samples.c.pruned_at.is_(None))
    available = (_checkpoints.c.job_id == job_id, _checkpoints.c.status == artifacts.AVAILABLE)
    return set(connection.execute(grids.union_all(select(_checkpoints.c.path).where(*available))).scalars())


def _delete(place: Path) -> None:
    """A grid is a file, a checkpoint a directory."""
    if place.is_dir():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)


def _forget(connection: Connection, job_id: str) -> None:
    connection.execute(delete(_notes).where(_notes.c.key == _NOTE + job_id))
