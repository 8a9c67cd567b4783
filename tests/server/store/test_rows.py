"""Row types agree with the tables, and old rows read as new ones."""

from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints, is_typeddict

import pytest
from sqlalchemy import Column, Table, select, text

from server.queue import queue
from server.store import rows, tables
from server.store.store import Store

ROWS: Mapping[Table, Any] = {
    tables.api_keys: rows.KeyRow,
    tables.experiments: rows.ExperimentRow,
    tables.jobs: rows.JobRow,
    tables.attempts: rows.AttemptRow,
    tables.journal: rows.JournalRow,
    tables.metric_summary: rows.MetricSummaryRow,
    tables.evaluations: rows.EvaluationRow,
    tables.samples: rows.SampleRow,
    tables.checkpoints: rows.CheckpointRow,
    tables.blobs: rows.BlobRow,
    tables.idempotency_keys: rows.IdempotencyKeyRow,
}
# No code reads whole rows of these.
WITHOUT_ROWS = {"job_labels", "metric_names", "metric_points", "metric_blocks", "service_state"}

by_table = pytest.mark.parametrize(("table", "row"), [pytest.param(*pair, id=pair[0].name) for pair in ROWS.items()])


def optional(hint: Any) -> tuple[Any, bool]:
    """A hint without None, and whether it allows None."""
    if get_origin(hint) is not UnionType:
        return hint, False
    [inner] = [part for part in get_args(hint) if part is not NoneType]
    return inner, True


def matches(hint: Any, column: Column[Any]) -> bool:
    """Whether values of a column, other than None, are what the hint says."""
    if column.type.python_type is object:  # JSON
        return is_typeddict(hint) or get_origin(hint) in (Mapping, Sequence)
    if get_origin(hint) is Literal:
        return {type(value) for value in get_args(hint)} == {column.type.python_type}
    return hint is column.type.python_type


def test_every_table_has_a_row_type_or_is_never_read_by_rows() -> None:
    assert {table.name for table in ROWS} | WITHOUT_ROWS == set(tables.metadata.tables)


@by_table
def test_the_keys_of_a_row_type_are_the_columns(table: Table, row: Any) -> None:
    assert set(get_type_hints(row)) == set(table.columns.keys())
    assert row.__required_keys__ == set(table.columns.keys())


@by_table
def test_the_types_of_a_row_type_are_those_of_the_columns(table: Table, row: Any) -> None:
    hints = get_type_hints(row)
    wrong = [column.name for column in table.columns if not matches(optional(hints[column.name])[0], column)]
    assert wrong == []


@by_table
def test_exactly_the_nullable_columns_are_optional(table: Table, row: Any) -> None:
    hints = get_type_hints(row)
    assert {name for name in hints if optional(hints[name])[1]} == {c.name for c in table.columns if c.nullable}


def test_changes_of_a_job_have_the_types_of_its_row() -> None:
    changes, job = get_type_hints(rows.JobChanges), get_type_hints(rows.JobRow)
    assert changes == {name: job[name] for name in changes}


def test_a_fetched_row_has_the_keys_of_its_type(store: Store) -> None:
    new = queue.NewJob(project="p", request={}, request_sha256="0")
    job = store.write(lambda connection: queue.create(connection, new))
    assert job.keys() == rows.JobRow.__required_keys__


def test_a_query_without_rows_has_no_row(store: Store) -> None:
    query = select(tables.jobs)
    assert store.read(lambda connection: rows.fetch_one(connection, query, rows.JobRow)) is None
    assert store.read(lambda connection: rows.fetch_all(connection, query, rows.JobRow)) == []


@pytest.mark.parametrize("same", [True, False])
def test_a_fork_in_an_old_database_reads_like_a_new_one(store: Store, same: bool) -> None:
    source: rows.ForkedFrom = {
        "job_id": "job_a",
        "checkpoint_id": "ckpt_a",
        "step": 7,
        "same_config": same,
        "one_config": same,
    }
    new = queue.NewJob(project="p", request={}, request_sha256="0", forked_from=source)
    job = store.write(lambda connection: queue.create(connection, new))
    remove = "json_remove(forked_from, '$.one_config')"
    rename = text(f"UPDATE jobs SET forked_from = replace({remove}, 'same_config', 'same_recipe')")
    store.write(lambda connection: connection.execute(rename))
    assert store.read(lambda connection: queue.get(connection, job["id"]))["forked_from"] == source
