"""Experiments: a base configuration and a matrix, one job for every cell.

All cells are checked before any row is made, and all rows are made in one transaction. Jobs are queued seed by seed,
so that an experiment cut short has whole seeds of everything else.
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
from server.store import tables
from server.store.rows import Row

_experiments, _jobs = tables.experiments, tables.jobs
Matrix = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Plan:
    """An experiment that was checked: its cells with their configurations, in the order of queueing."""

    source: Source
    matrix: Matrix
    cells: Sequence[tuple[Mapping[str, Any], RunConfig]]


def plan(operator: Operator, source: Source, matrix: Matrix) -> Plan:
    """Check every cell. InvalidRequest names the matrix key, or the cell, that is wrong."""
    size = math.prod(len(values) for values in matrix.values())
    if size > operator.settings.max_matrix_cells:
        message = f"matrix: expected at most {operator.settings.max_matrix_cells} cells, got {size}"
        raise InvalidRequest(FieldError("/matrix", "too_many_cells", message))
    _check_matrix(source, matrix)
    cells = [(cell, _resolve(operator, source, cell)) for cell in _product(matrix)]
    _refuse_twins(cells)
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
    """All combinations, those of one seed together."""
    keys = sorted(matrix, key=lambda key: key != "seed")
    cells = [dict(zip(keys, values, strict=True)) for values in itertools.product(*(matrix[key] for key in keys))]
    return [{key: cell[key] for key in matrix} for cell in cells]


def _resolve(operator: Operator, source: Source, cell: Mapping[str, Any]) -> RunConfig:
    """A cell's configuration; what is wrong with a value of the matrix is reported there."""
    try:
        return admission.resolve(operator, replace(source, overrides={**source.overrides, **cell}))
    except InvalidRequest as refusal:
        places = {pointer("overrides", key): key for key in cell}
        raise InvalidRequest(*(_in_matrix(error, places, cell) for error in refusal.errors)) from refusal


def _in_matrix(error: FieldError, places: Mapping[str, str], cell: Mapping[str, Any]) -> FieldError:
    key = places.get(error.pointer)
    if key is None:
        where = ", ".join(f"{name}={value!r}" for name, value in cell.items())
        return replace(error, message=f"cell {where}: {error.message}")
    return replace(error, pointer=pointer("matrix", key))


def _refuse_twins(cells: Sequence[tuple[Mapping[str, Any], RunConfig]]) -> None:
    seen: dict[bytes, Mapping[str, Any]] = {}
    for cell, config in cells:
        document = canonical_json(config.document())
        if document in seen:
            message = f"matrix: the cells {dict(seen[document])} and {dict(cell)} are the same configuration"
            raise InvalidRequest(FieldError("/matrix", "duplicate", message))
        seen[document] = cell


def create(
    connection: Connection,
    new: Plan,
    project: str,
    *,
    name: str | None,
    labels: Mapping[str, str],
    **attributes: Any,
) -> Row:
    """The experiment, with all its jobs queued. attributes: further fields of every job."""
    base = {"preset": new.source.preset, "config": new.source.config, "overrides": new.source.overrides}
    values = {
        "id": new_id("exp"),
        "project": project,
        "name": name,
        "labels": dict(labels),
        "base": {key: value for key, value in base.items() if value is not None},
        "matrix": {key: list(values) for key, values in new.matrix.items()},
        "created_at": now_ms(),
    }
    connection.execute(_experiments.insert().values(values))
    experiment_id = str(values["id"])
    own = {"name": name, "labels": labels, "experiment_id": experiment_id, **attributes}
    for cell, config in new.cells:
        queue.create(connection, admission.new_job(config, project, cell=cell, **own))
    return get(connection, experiment_id, project)


def get(connection: Connection, experiment_id: str, project: str) -> Row:
    """An experiment. NotFound when there is none, or it is another project's."""
    query = select(_experiments).where(_experiments.c.id == experiment_id, _experiments.c.project == project)
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise NotFound(f"there is no {experiment_id!r}")
    return dict(row)


def page(
    connection: Connection, project: str, *, order: Order, after: int | None, limit: int
) -> tuple[list[Row], bool]:
    """Up to `limit` experiments in the order they were made, or the reverse, and whether more follow."""
    return keyset_page(
        connection, _experiments, [_experiments.c.project == project], order=order, after=after, limit=limit
    )


def counts(connection: Connection, experiment_ids: Sequence[str]) -> dict[str, dict[str, int]]:
    """How many jobs of each experiment are in which state, in one query."""
    query = (
        select(_jobs.c.experiment_id, _jobs.c.state, func.count())
        .where(_jobs.c.experiment_id.in_(experiment_ids))
        .group_by(_jobs.c.experiment_id, _jobs.c.state)
    )
    found: dict[str, dict[str, int]] = {experiment_id: {} for experiment_id in experiment_ids}
    for experiment_id, state, count in connection.execute(query):
        found[experiment_id][state] = count
    return found


def jobs(connection: Connection, experiment_id: str) -> list[Row]:
    """The jobs of an experiment, in the order of its cells."""
    query = select(_jobs).where(_jobs.c.experiment_id == experiment_id).order_by(_jobs.c.seq)
    return [dict(row) for row in connection.execute(query).mappings()]


def cancel(connection: Connection, experiment_id: str, mode: queue.StopMode) -> None:
    """Cancel every job of an experiment that has not ended."""
    queue.cancel_many(connection, jobs(connection, experiment_id), mode)
