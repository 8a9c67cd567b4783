"""The numbers of a run as one table, and CSV files whose numbers other tools read as numbers."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gan_mhe.records.events import Evaluated, Progress, Scalars, effective
from gan_mhe.records.run_dir import RunDir


def metrics_table(run: RunDir) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns and rows of all numbers that a run reported, one row per step; a number not reported there is missing.

    The columns are `step`, the scalars by name, `steps_per_second`, and `score/NAME` for scheduled and final scores;
    a best checkpoint scored again is left out, because its step has a score already. Values are floats, also
    non-finite ones. Raises RunDirError if the events cannot be read.
    """
    by_step: dict[int, dict[str, Any]] = {}
    for event in effective(run.read_events()):
        match event:
            case Scalars():
                values: Mapping[str, float] = event.values
            case Progress():
                values = {"steps_per_second": event.steps_per_second}
            case Evaluated() if event.purpose != "best_rescored":
                values = {f"score/{name}": score for name, score in event.scores.items()}
            case _:
                continue
        by_step.setdefault(event.step, {"step": event.step}).update(values)
    names = {name for row in by_step.values() for name in row} - {"step"}
    return ["step", *sorted(names)], [by_step[step] for step in sorted(by_step)]


def to_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """CSV with a heading and one line per row; a missing value or None is an empty cell.

    Non-finite numbers are written as NaN, inf and -inf: DuckDB, polars, pandas and Arrow all read a column with these
    as numbers, and with every other combination of spellings at least one of them reads it as text.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(row.get(name)) for name in columns} for row in rows)
    return out.getvalue()


def _cell(value: Any) -> Any:
    return "NaN" if isinstance(value, float) and math.isnan(value) else value
