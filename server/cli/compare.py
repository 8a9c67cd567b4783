"""`gan-mhe compare`: compares local run directories, or jobs of a service."""

from pathlib import Path
from typing import Annotated

import typer

from gan_mhe.cli.console import note
from gan_mhe.cli.options import Format
from gan_mhe.cli.scores import print_comparison
from gan_mhe.comparison import results


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(help="Run directories, or folders of them; with --server, ids.", metavar="RUNS..."),
    ],
    metric: Annotated[
        str | None, typer.Option(help="Metric to compare; the one that ranks the runs unless given.")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(metavar="VARIANT", help="Show the paired differences of the other variants to this one."),
    ] = None,
    view: Annotated[
        results.View, typer.Option(help="Compare after equal steps, or after equal training time.")
    ] = "steps",
    format_: Annotated[Format, typer.Option("--format", help="table, json, csv, markdown or latex.")] = Format.table,
    server: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Compare jobs of this service; RUNS are ids of jobs or experiments."),
    ] = None,
) -> None:
    """Compare variants over training seeds."""
    if server is not None:
        from server.client import Client

        with Client(server) as client:
            comparison = client.compare(runs, metric=metric, reference=reference, view=view)
    else:
        from gan_mhe.comparison import compare as comparisons

        scores = [comparisons.read_score(run) for run in comparisons.find_runs(map(Path, runs), note)]
        comparison = comparisons.compare(scores, metric=metric, reference=reference, view=view)
    print_comparison(comparison, format_)
