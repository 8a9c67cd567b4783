"""Experiments: a base configuration and a matrix of keys and values, with one job per combination (cell).

All cells are checked and all rows are made before the transaction, which writes them with a few statements. Jobs are
queued seed by seed, so that an interrupted experiment has every arm for the seeds that it finished.
"""

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, func, select

from gan_mhe.config.run_config import RunConfig
from gan_mhe.files import canonical_json
from server.clock import now_ms
from server.errors import FieldError, InvalidRequest, NotFound, pointer
from server.ids import new_id
from server.queue import admission, queue
from server.queue.admission import Operator, Source
from server.queue.job_list import Order, keyset_page
from server.queue.new_jobs import NewJobs
from server.queue.states import State
from server.store import tables
from server.store.rows import CellRow, ExperimentRow, JobRow, NewExperimentRow, fetch_all, fetch_one

_experiments, _jobs = tables.experiments, tables.jobs
Matrix = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Plan:
    """A checked experiment. cells: each cell with its configuration, in the order of queueing."""

    source: Source
    matrix: Matrix
    cells: Sequence[tuple[Mapping[str, Any], RunConfig]]


def plan(operator: Operator, source: Source, matrix: Matrix) -> Plan:
    """Check every cell. Raises InvalidRequest, which names the matrix key or the cell that is wrong."""
    size = math.prod(len(values) for values in matrix.values())
    most = operator.settings.max_matrix_cells
    if size > most:
        message = f"matrix: expected at most {most} cells (GAN_MHE_MAX_MATRIX_CELLS), got {size}"
        raise InvalidRequest(FieldError("/matrix", "too_many_cells", message))
    _check_matrix(source, matrix)
    cells = [(cell, _resolve(operator, source, cell)) for cell in _product(matrix)]
    _check_distinct(cells)
    return Plan(source, matrix, cells)


def _check_matrix(source: Source, matrix: Matrix) -> None:
    errors = []
    for key, values in matrix.items():
        twice = [text for text, count in Counter(canonical_json(value) for value in values).items() if count > 1]
        if twice:
            message = f"matrix.{key}: expected each value once, got {twice[0].decode()} again"
            errors.append(FieldError(pointer("matrix", key), "duplicate", message))
        if key in source.overrides:
            message = f"matrix.{key}: also among the overrides; expected one of the two"
            errors.append(FieldError(pointer("matrix", key), "ambiguous", message))
    if errors:
        raise InvalidRequest(*errors)


def _product(matrix: Matrix) -> list[dict[str, Any]]:
    """Return all combinations, grouped by seed."""
    keys = sorted(matrix, key=lambda key: key != "seed")
    cells = [dict(zip(keys, values, strict=True)) for values in itertools.product(*(matrix[key] for key in keys))]
    return [{key: cell[key] for key in matrix} for cell in cells]


def _resolve(operator: Operator, source: Source, cell: Mapping[str, Any]) -> RunConfig:
    """Return a cell's configuration. An error in a value of the matrix points to the matrix, not to the overrides."""
    try:
        return admission.resolve(operator, replace(source, overrides={**source.overrides, **cell}))
    except InvalidRequest as refusal:
        keys = {pointer("overrides", key): key for key in cell}
        raise InvalidRequest(*(_in_matrix(error, keys, cell) for error in refusal.errors)) from refusal


def _in_matrix(error: FieldError, keys: Mapping[str, str], cell: Mapping[str, Any]) -> FieldError:
    key = keys.get(error.pointer)
    if key is None:
        where = ", ".join(f"{name}={value!r}" for name, value in cell.items())
        return replace(error, message=f"cell {where}: {error.message}")
    return replace(error, pointer=pointer("matrix", key))


def _check_distinct(cells: Sequence[tuple[Mapping[str, Any], RunConfig]]) -> None:
    seen: dict[bytes, Mapping[str, Any]] = {}
    for cell, config in cells:
        document = canonical_json(config.document())
        if document in seen:
            message = f"matrix: the cells {dict(seen[document])} and {dict(cell)} are the same configuration"
            raise InvalidRequest(FieldError("/matrix", "duplicate", message))
        seen[document] = cell


@dataclass(frozen=True)
class NewExperiment:
    """An experiment to be created, with the rows of its jobs. cells: what it shows of them."""

    row: NewExperimentRow
    jobs: NewJobs
    cells: Sequence[CellRow]


def prepare(
    checked: Plan, project: str, *, name: str | None, labels: Mapping[str, str], **attributes: Any
) -> NewExperiment:
    """Make the rows of an experiment. attributes: further fields of NewJob, the same for every job."""
    base = {"preset": checked.source.preset, "config": checked.source.config, "overrides": checked.source.overrides}
    row: NewExperimentRow = {
        "id": new_id("exp"),
        "project": project,
        "name": name,
        "labels": dict(labels),
        "base": {key: value for key, value in base.items() if value is not None},
        "matrix": {key: list(values) for key, values in checked.matrix.items()},
        "created_at": now_ms(),
    }
    own = {"name": name, "labels": labels, "experiment_id": row["id"], **attributes}
    jobs = NewJobs([admission.new_job(config, project, cell=cell, **own) for cell, config in checked.cells])
    cells: list[CellRow] = [
        {"id": job_id, "state": State.QUEUED, "cell": cell}
        for job_id, (cell, _) in zip(jobs.ids, checked.cells, strict=True)
    ]
    return NewExperiment(row, jobs, cells)


def create(connection: Connection, new: NewExperiment) -> NewExperimentRow:
    """Create an experiment, queue all its jobs, and return its row."""
    connection.execute(_experiments.insert().values(dict(new.row)))
    new.jobs.insert(connection)
    return new.row


def get(connection: Connection, experiment_id: str, project: str) -> ExperimentRow:
    """Return an experiment. Raises NotFound if it does not exist or belongs to another project."""
    query = select(_experiments).where(_experiments.c.id == experiment_id, _experiments.c.project == project)
    row = fetch_one(connection, query, ExperimentRow)
    if row is None:
        raise NotFound(f"there is no {experiment_id!r}")
    return row


def page(
    connection: Connection, project: str, *, order: Order, after: int | None, limit: int
) -> tuple[list[ExperimentRow], bool]:
    """Return up to `limit` experiments by creation, and whether more follow. after: the `seq` to start after."""
    mine = select(_experiments).where(_experiments.c.project == project)
    return keyset_page(connection, mine, ExperimentRow, _experiments.c.seq, order=order, after=after, limit=limit)


def counts(connection: Connection, experiment_ids: Sequence[str]) -> dict[str, dict[str, int]]:
    """Count the jobs of each experiment by state, in one query."""
    query = (
        select(_jobs.c.experiment_id, _jobs.c.state, func.count())
        .where(_jobs.c.experiment_id.in_(experiment_ids))
        .group_by(_jobs.c.experiment_id, _jobs.c.state)
    )
    found: dict[str, dict[str, int]] = {experiment_id: {} for experiment_id in experiment_ids}
    for experiment_id, state, count in connection.execute(query):
        found[experiment_id][state] = count
    return found


def jobs(connection: Connection, experiment_id: str) -> list[JobRow]:
    """Return the jobs of an experiment, in the order of its cells."""
    query = select(_jobs).where(_jobs.c.experiment_id == experiment_id).order_by(_jobs.c.seq)
    return fetch_all(connection, query, JobRow)


def cells(connection: Connection, experiment_id: str) -> list[CellRow]:
    """Return what an experiment shows of its jobs, in the order of its cells."""
    query = select(_jobs.c.id, _jobs.c.state, _jobs.c.cell).where(_jobs.c.experiment_id == experiment_id)
    return fetch_all(connection, query.order_by(_jobs.c.seq), CellRow)


def cancel(connection: Connection, experiment_id: str, mode: queue.StopMode) -> None:
    """Cancel all jobs of an experiment that have not ended."""
    queue.cancel_many(connection, jobs(connection, experiment_id), mode)
