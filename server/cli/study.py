"""`gan-mhe study`: its runs executed here or at a service, and its report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gan_mhe.cli.console import say
from gan_mhe.cli.options import Jobs
from gan_mhe.cli.scores import print_scored
from gan_mhe.errors import ConfigError

if TYPE_CHECKING:
    from gan_mhe.study.definition import Study


def study(
    file: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="What is compared, on what, and why.")],
    root: Annotated[
        Path | None, typer.Option("--out", help="Folder of the study; runs/studies/NAME unless given.")
    ] = None,
    jobs: Jobs = None,
    budget: Annotated[
        float | None,
        typer.Option(metavar="MINUTES", help="End after whole seeds within this time; as the study says unless given."),
    ] = None,
    report_only: Annotated[bool, typer.Option("--report-only", help="Run nothing; report on what is there.")] = False,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="Run it as jobs of this service, and report on them here.")
    ] = None,
) -> None:
    """Run a study, arms x seeds on one configuration, and write its report; the same command goes on with it."""
    from gan_mhe.study import definition as studies

    definition = studies.load(file)
    place = root or Path("runs") / "studies" / definition.name
    if budget is not None and not budget > 0:
        raise ConfigError(f"--budget {budget:g}: expected minutes, more than 0")
    if server is not None and (jobs, budget, report_only) != (None, None, False):
        raise ConfigError("--jobs, --budget and --report-only are for runs here; a service has limits of its own")
    if report_only:
        studies.load_saved(place)
    studies.save(definition, place)
    code = 0 if report_only else _run_study(definition, place, jobs=jobs, budget=budget, server=server)
    _report_study(definition, place)
    raise typer.Exit(code)


def _run_study(study: "Study", root: Path, *, jobs: int | None, budget: float | None, server: str | None) -> int:
    """Here or at a service; the exit code."""
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
    there = {score.variant for score in found}
    print_scored(found, metric=study.metric, reference=study.reference if study.reference in there else None)
    say(f"report: {path}")
