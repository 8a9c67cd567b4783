"""Bodies of requests that submit jobs and experiments, for dry runs as well."""

from collections.abc import Mapping, Sequence
from typing import Any

Matrix = Mapping[str, Sequence[Any]]


def submission(
    source: Mapping[str, Any],
    name: str | None,
    labels: Mapping[str, str] | None,
    priority: int,
    wall_seconds_limit: float | None,
) -> dict[str, Any]:
    """The body of a submission: what is not None, and the priority. source: where the configuration comes from."""
    fields = {**source, "name": name, "labels": labels, "wall_seconds_limit": wall_seconds_limit}
    return {key: value for key, value in fields.items() if value is not None} | {"priority": priority}


def lists(matrix: Matrix) -> dict[str, list[Any]]:
    """The matrix with its values as lists, which JSON has."""
    return {key: list(values) for key, values in matrix.items()}
