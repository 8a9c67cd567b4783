"""A run's numbers as a table, and CSV that other tools read as numbers."""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gan_mhe.records.events import Evaluated, Event, Finished, Progress, Scalars, Started, encode
from gan_mhe.records.export import metrics_table, to_csv
from gan_mhe.records.run_dir import RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


def write(run: RunDir, *events: Event) -> None:
    run.events.write_text("".join(json.dumps(encode(event)) + "\n" for event in events))


def evaluated(step: int, purpose: str, score: float) -> Evaluated:
    return Evaluated(step, purpose, {"fid": score}, "digits-v1", {"fid": "f"}, 1.0)


def test_a_row_holds_everything_that_was_reported_at_its_step(run: RunDir) -> None:
    write(
        run,
        Started(0, 4, resumed=False),
        Scalars(2, {"d_loss": 1.5, "a": 2.0}),
        Progress(2, 4, 10.0, 160.0, 0.2),
        evaluated(2, "scheduled", 30.0),
        Scalars(4, {"d_loss": 1.25}),
        evaluated(4, "final", 20.0),
        Finished(4, "completed", ""),
    )
    columns, rows = metrics_table(run)
    assert columns == ["step", "a", "d_loss", "score/fid", "steps_per_second"]
    assert rows == [
        {"step": 2, "d_loss": 1.5, "a": 2.0, "steps_per_second": 10.0, "score/fid": 30.0},
        {"step": 4, "d_loss": 1.25, "score/fid": 20.0},
    ]


def test_what_a_resumed_run_repeats_counts_once_and_a_rescored_best_does_not_replace_a_score(run: RunDir) -> None:
    write(
        run,
        Started(0, 4, resumed=False),
        Scalars(2, {"d_loss": 1.0}),
        Scalars(3, {"d_loss": 9.0}),
        Started(2, 4, resumed=True),
        Scalars(3, {"d_loss": 3.0}),
        evaluated(3, "final", 20.0),
        evaluated(3, "best_rescored", 21.0),
    )
    _, rows = metrics_table(run)
    assert [(row["step"], row["d_loss"], row.get("score/fid")) for row in rows] == [(2, 1.0, None), (3, 3.0, 20.0)]


def test_a_run_without_events_has_an_empty_table(run: RunDir) -> None:
    assert metrics_table(run) == (["step"], [])


def test_numbers_survive_csv_to_the_last_bit_and_non_finite_ones_have_the_spelling_that_tools_share() -> None:
    values: list[Any] = [0.1, 1e-300, math.nan, math.inf, -math.inf, None]
    text = to_csv(["step", "a"], [{"step": step, "a": value} for step, value in enumerate(values)])
    assert [row["a"] for row in csv.DictReader(io.StringIO(text))] == ["0.1", "1e-300", "NaN", "inf", "-inf", ""]
    read = np.genfromtxt(io.StringIO(text), delimiter=",", names=True)["a"]
    np.testing.assert_array_equal(read, [0.1, 1e-300, math.nan, math.inf, -math.inf, math.nan])


def test_a_name_with_a_comma_is_quoted() -> None:
    assert to_csv(["a,b"], [{"a,b": 1}]) == '"a,b"\n1\n'
