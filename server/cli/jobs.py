"""Commands that use a service; `server.cli.app` assembles them.

Commands import what they need when they run, so that `--help` responds quickly.
"""

import os
import tomllib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gan_mhe.cli.console import out, print_columns, print_error, say
from gan_mhe.cli.options import FAILURE, INTERRUPTED, Set, folder
from gan_mhe.config import compose, documents
from gan_mhe.errors import ConfigError, nearest
from gan_mhe.evaluation.metrics import METRICS
from gan_mhe.streams import output_is_optional

if TYPE_CHECKING:
    from server.client import Cell, Client, Job, Mode

Server = Annotated[
    str | None,
    typer.Option("--server", metavar="URL", help="Service; by default GAN_MHE_SERVER, or http://127.0.0.1:8000."),
]
Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="Jobs or experiments (all their jobs).")]
Id = Annotated[str, typer.Argument(metavar="ID", help="A job or an experiment.")]
Now = Annotated[bool, typer.Option("--now", help="Stop without saving.")]


def submit(
    config: Annotated[str, typer.Argument(metavar="PRESET|FILE", help="Preset of the service, or local TOML file.")],
    variant: Annotated[str | None, typer.Option(help="Named variant (see `gan-mhe variants`).")] = None,
    seed: Annotated[int | None, typer.Option(help="Training seed.")] = None,
    variants: Annotated[str | None, typer.Option(help="Comma-separated variants; creates an experiment.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Comma-separated training seeds; creates an experiment.")] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=[VALUE, ...]", help="Values of a key to combine; creates an experiment; repeatable."),
    ] = None,
    set_: Set = None,
    name: Annotated[str | None, typer.Option(help="Display name.")] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Label of the job; repeatable.")] = None,
    priority: Annotated[int, typer.Option(help="-10 to 10; each level counts as ten minutes of waiting.")] = 0,
    wall_seconds_limit: Annotated[
        float | None, typer.Option(help="Seconds of running after which a job fails.", min=0)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Validate and print what it costs; do not submit.")
    ] = False,
    watch_: Annotated[bool, typer.Option("--watch", help="Show the progress until the end.")] = False,
    server: Server = None,
) -> None:
    """Submit a job, or an experiment of variants x seeds x other keys."""
    from server.client import Client

    request = {
        **_source(config, set_ or []),
        **{"name": name, "labels": _labels(label or [])},
        **{"priority": priority, "wall_seconds_limit": wall_seconds_limit},
    }
    matrix = _matrix(variants, seeds, vary or [])
    if matrix and (variant is not None or seed is not None):
        raise ConfigError(
            "--variants, --seeds and --vary create an experiment; --variant and --seed are for a single job"
        )
    request |= {"matrix": matrix} if matrix else {"variant": variant, "seed": seed}
    with Client(server) as client:
        if dry_run:
            _print_dry_run(client, request)
            return
        created = client.submit_experiment(**request).id if matrix else client.submit(**request).id
        say(created)
        if watch_:
            _watch(client, created)


def _source(config: str, assignments: list[str]) -> dict[str, Any]:
    """The contents of a local file, validated before it is sent; any other name is a preset of the service.

    A file of a preset's name does not hide it: its path is `./NAME`.
    """
    path = Path(config)
    overrides = dict(map(compose.parse_assignment, assignments))
    is_preset = "/" not in config and os.path.isfile(documents.PRESETS / f"{config}.toml")
    if is_preset or (path.suffix != ".toml" and not os.path.isfile(path)):
        return {"preset": config, "overrides": overrides}
    document = documents.load_document(path)
    compose.compose(document, overrides=compose.parse_overrides(assignments))
    return {"config": document, "overrides": overrides}


def _labels(assignments: list[str]) -> dict[str, str]:
    parts = [assignment.partition("=") for assignment in assignments]
    for (key, equals, _), assignment in zip(parts, assignments, strict=True):
        if not key or not equals:
            raise ConfigError(f"--label {assignment!r}: expected key=value")
    return {key: value for key, _, value in parts}


def _matrix(variants: str | None, seeds: str | None, vary: list[str]) -> dict[str, list[Any]]:
    matrix: dict[str, list[Any]] = {}
    if variants is not None:
        matrix["variant"] = [name.strip() for name in variants.split(",")]
    if seeds is not None:
        matrix["seed"] = compose.parse_seeds(seeds)
    for assignment in vary:
        key, values = _varied(assignment)
        if key in matrix:
            raise ConfigError(f"--vary {assignment!r}: {key} is varied twice; expected each key once")
        matrix[key] = values
    return matrix


def _varied(assignment: str) -> tuple[str, list[Any]]:
    """Parse `training.steps=[200, 300]`: the values are an array of TOML."""
    key, equals, text = assignment.partition("=")
    try:
        values = tomllib.loads(f"values = {text}")["values"]
    except tomllib.TOMLDecodeError:
        values = None
    if not equals or not key.strip() or not isinstance(values, list):
        raise ConfigError(f"--vary {assignment!r}: expected key=[value, ...], such as training.steps=[200, 300]")
    return key.strip(), values


def _print_dry_run(client: "Client", request: Mapping[str, Any]) -> None:
    if "matrix" in request:
        say(str(client.dry_run_experiment(**request).estimate["note"]))
        return
    found = client.dry_run(**request)
    out.print_json(data=found.config)
    say(f"digest {found.config_digest}")
    say(str(found.estimate["note"]))


def watch(id_: Id, server: Server = None) -> None:
    """Show the progress of a job or an experiment until it has ended. Exit code 0 if all jobs succeeded."""
    from server.client import Client

    with Client(server) as client:
        _watch(client, id_)


def _watch(client: "Client", id_: str) -> None:
    from server.cli.console import follow

    try:
        ended = follow(client, _jobs_of(client, id_), out, only_show=True)
    except KeyboardInterrupt:
        say(f"{id_} continues; show it with `gan-mhe watch {id_}`, cancel it with `gan-mhe cancel {id_}`")
        raise typer.Exit(INTERRUPTED) from None
    for job in ended:
        say(f"{job.title}  {job.outcome}")
    if any(job.state != "succeeded" for job in ended):
        raise typer.Exit(FAILURE)


def _jobs_of(client: "Client", id_: str) -> "list[Job]":
    if not id_.startswith("exp_"):
        return [client.job(id_)]
    order = {job_id: index for index, job_id in enumerate(client.experiment(id_).job_ids)}
    return sorted(client.jobs(experiment=id_, page_size=200), key=lambda job: order[job.id])


def jobs(
    state: Annotated[list[str] | None, typer.Option(help="Only jobs in this state; repeatable.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Number of jobs, newest first.")] = 20,
    server: Server = None,
) -> None:
    """List jobs."""
    from itertools import islice

    from server.client import Client

    with Client(server) as client:
        found = list(islice(client.jobs(state=state, page_size=min(limit, 200)), limit))
    headings = ("id", "state", "job", "step", "score", "submitted")
    print_columns(headings, [_job_cells(job) for job in found])


def _job_cells(job: "Job") -> tuple[str, ...]:
    score = "" if job.metric is None else f"{job.metric.latest:.{METRICS[job.metric.name].decimals}f}"
    state = job.state if job.reason in (None, "user") else f"{job.state} ({job.reason})"
    step = f"{job.progress.step}/{job.progress.total_steps}"
    return job.id, state, job.title, step, score, _ago(job.created_at)


def _ago(moment: datetime) -> str:
    seconds = max(0, int((datetime.now(UTC) - moment).total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit} ago"
    return f"{seconds} s ago"


def cancel(ids: Ids, now: Now = False, server: Server = None) -> None:
    """Cancel jobs. A cancelled job cannot be resumed."""
    mode = _mode(now)
    _act(ids, server, lambda client, id_: client.cancel(id_, mode=mode), lambda cell: not cell.terminal)


def pause(ids: Ids, now: Now = False, server: Server = None) -> None:
    """Pause jobs: they save their state and release their slots."""
    mode = _mode(now)
    _act(ids, server, lambda client, id_: client.pause(id_, mode=mode), lambda cell: not cell.terminal)


def resume(ids: Ids, server: Server = None) -> None:
    """Resume paused jobs."""
    _act(ids, server, lambda client, id_: client.resume(id_), lambda cell: cell.state == "paused")


def retry(ids: Ids, server: Server = None) -> None:
    """Retry failed jobs from their last checkpoints."""
    _act(ids, server, lambda client, id_: client.retry(id_), lambda cell: cell.state == "failed")


def _mode(now: bool) -> "Mode":
    return "now" if now else "graceful"


def _act(
    ids: list[str],
    server: str | None,
    action: "Callable[[Client, str], Job]",
    applies_to: "Callable[[Cell], bool]",
) -> None:
    """Apply an action to each job, and to each applicable job of an experiment; print the new state of each."""
    from server.client import Client, Conflict, NotFound

    failed = False
    with Client(server) as client:
        for id_ in ids:
            try:
                cells = client.experiment(id_).cells if id_.startswith("exp_") else None
                for job_id in [id_] if cells is None else [cell.job_id for cell in cells if applies_to(cell)]:
                    say(f"{job_id} {action(client, job_id).state}")
            except (Conflict, NotFound) as error:
                failed = True
                print_error(f"error: {error}")
    if failed:
        raise typer.Exit(FAILURE)


def fetch(
    id_: Id,
    out_: Annotated[
        Path,
        typer.Option("--out", help="Folder for the files; an experiment gets one folder per job.", callback=folder),
    ],
    what: Annotated[str, typer.Option(help="latest, samples, animation, checkpoint or config.")] = "latest",
    server: Server = None,
) -> None:
    """Download files of a job or an experiment."""
    from server.client import Client, downloads

    if what not in downloads.KINDS:
        raise ConfigError(f"--what: unknown kind {what!r}{nearest(what, downloads.KINDS)}")
    with Client(server) as client:
        found = _jobs_of(client, id_)
        for job in found:
            place = out_ if not id_.startswith("exp_") else out_ / downloads.folder_name(job)
            for path in downloads.KINDS[what](client, job, place):
                say(str(path))


def demo(
    out_: Annotated[
        Path, typer.Option("--out", help="Data folder of the service; the grids are saved here.", callback=folder)
    ] = Path("runs/demo"),
    set_: Set = None,
) -> None:
    """Demonstrate the service: train four variants on digits and compare them.

    Takes a few minutes on two cores. Ctrl-C stops everything; running the command again continues.
    """
    from server.cli import demo as demonstration

    output_is_optional()
    raise typer.Exit(demonstration.run(out_, set_ or []))


COMMANDS = (submit, watch, jobs, cancel, pause, resume, retry, fetch, demo)
