"""`gan-mhe study`: executes a study's runs, locally or at a service, and writes its report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gan_mhe.cli.console import say
from gan_mhe.cli.options import Jobs, folder, possible
from gan_mhe.cli.scores import print_scored
from gan_mhe.errors import ConfigError
from gan_mhe.streams import output_is_optional

if TYPE_CHECKING:
    from gan_mhe.study.definition import Study


def study(
    file: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="Definition of the study.", callback=possible)],
    root: Annotated[
        Path | None, typer.Option("--out", help="Folder of the study; default runs/studies/NAME.", callback=folder)
    ] = None,
    jobs: Jobs = None,
    budget: Annotated[
        float | None,
        typer.Option(metavar="MINUTES", help="Time limit, after whole seeds; by default the study's own limit."),
    ] = None,
    report_only: Annotated[bool, typer.Option("--report-only", help="Only write the report of existing runs.")] = False,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="Run the study as jobs of this service; the report is local.")
    ] = None,
) -> None:
    """Run a study (arms x seeds of one configuration) and write its report. Run the command again to continue."""
    from gan_mhe.study import definition as studies

    output_is_optional()
    definition = studies.load(file, at_service=server is not None)
    place = root or Path("runs") / "studies" / definition.name
    if budget is not None and not budget > 0:
        raise ConfigError(f"--budget: expected minutes, more than 0; got {budget:g}")
    if server is not None and (jobs, budget, report_only) != (None, None, False):
        raise ConfigError(
            "--jobs, --budget and --report-only apply to local runs; they cannot be combined with --server"
        )
    if report_only:
        studies.load_saved(place)
    studies.save(definition, place)
    code = 0 if report_only else _run_study(definition, place, jobs=jobs, budget=budget, server=server)
    _report_study(definition, place)
    raise typer.Exit(code)


def _run_study(study: "Study", root: Path, *, jobs: int | None, budget: float | None, server: str | None) -> int:
    """Run it locally or at a service; return the exit code."""
    if server is not None:
        from server.cli.remote_study import run as run_at_service

        return run_at_service(server, study, root)
    from gan_mhe.cli import study_runs

    return study_runs.run(study, root, jobs=jobs, minutes=study.wall_time_minutes if budget is None else budget)


def _report_study(study: "Study", root: Path) -> None:
    from gan_mhe.study.definition import scores
    from gan_mhe.study.report import write_report

    path = write_report(study, root)
    found = scores(study, root)
    variants = {score.variant for score in found}
    reference = study.reference if study.reference in variants else None
    print_scored(found, metric=study.metric, reference=reference)
    say(f"report: {path}")
