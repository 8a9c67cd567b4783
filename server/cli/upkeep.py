"""Commands that keep the data of a service: backup, restore, adopt, doctor and the trash."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gan_mhe.cli.console import print_columns, print_error, say
from gan_mhe.cli.options import FAILURE, possible
from gan_mhe.errors import GanMheError
from server.cli.operator import DataDir, files_of, open_store, service_errors, settings_of

if TYPE_CHECKING:
    from server.upkeep.adopt import Adoption
    from server.upkeep.restore import Restored

trash_app = typer.Typer(help="The files of deleted jobs, kept for some days.", no_args_is_help=True)
_MIB = 2**20
_MAX_LISTED = 5


def backup(
    target: Annotated[Path, typer.Argument(help="Empty or new directory for the backup.", callback=possible)],
    data_dir: DataDir = None,
) -> None:
    """Copy the database and the files of all jobs of a service, which may be running."""
    from server.upkeep.backup import back_up

    settings = settings_of(data_dir=data_dir)
    with service_errors(), files_of(settings):
        made = back_up(settings, target)
    say(f"{made.jobs} jobs, {made.files} files, {made.size_bytes / _MIB:.1f} MiB are in {target}")
    if made.left_out:
        more = f" and {len(made.left_out) - _MAX_LISTED} more" if len(made.left_out) > _MAX_LISTED else ""
        listed = ", ".join(made.left_out[:_MAX_LISTED])
        print_error(f"links and special files are not in the backup: {listed}{more}")


def restore(
    source: Annotated[
        Path | None, typer.Argument(help="A directory that `gan-mhe backup` made.", callback=possible)
    ] = None,
    salvage: Annotated[
        bool, typer.Option("--salvage", help="Without a backup: keep what can be read of the damaged database.")
    ] = False,
    from_runs: Annotated[
        bool, typer.Option("--from-runs", help="Without a backup or database: make a new one from the runs.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Put a database back while the service is stopped, and take in the runs that it does not know.

    The present database is moved aside, never deleted. No file of a job is changed.
    """
    from server.upkeep import restore as ways

    if (source is not None) + salvage + from_runs != 1:
        raise typer.BadParameter("expected one of BACKUP, --salvage and --from-runs")
    settings = settings_of(data_dir=data_dir)
    with service_errors(), files_of(settings):
        if source is not None:
            done = ways.from_backup(settings, source)
        else:
            done = ways.from_damaged(settings) if salvage else ways.from_runs(settings)
    _print_restored(done)


def _print_restored(done: "Restored") -> None:
    say(f"the database has {done.jobs} jobs and tasks")
    if done.aside is not None:
        say(f"the replaced database is in {done.aside}")
    if done.damaged_tables:
        say(f"tables that could not be read whole: {', '.join(done.damaged_tables)}")
    if done.copied:
        say(f"{len(done.copied)} directories of jobs came from the backup")
    _print_adopted(done.adopted)


def adopt(
    jobs: Annotated[list[str] | None, typer.Argument(help="Ids of jobs; by default all directories.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Make jobs of the directories in jobs/ that the database does not know."""
    from server.upkeep.adopt import adopt as adopt_directories

    with open_store(data_dir) as store:
        adopted = adopt_directories(store, settings_of(data_dir=data_dir), jobs or None)
    if not adopted:
        say("every directory in jobs/ has its row")
    _print_adopted(adopted)


def _print_adopted(adopted: "Iterable[Adoption]") -> None:
    for each in adopted:
        say(f"{each.job_id} is back: {each.state}" if each.problem is None else f"{each.job_id} stays: {each.problem}")


def doctor(
    hashes: Annotated[
        bool, typer.Option("--hashes", help="Also read every grid and checkpoint and compare its hash.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Examine the data of a service, which may be running; nothing is changed. Exit code 1 if anything is amiss."""
    from server.store.store import Store
    from server.upkeep.doctor import examine

    settings = settings_of(data_dir=data_dir)
    if not settings.database.is_file():
        raise GanMheError(f"there is no database {settings.database}")
    store = Store(settings.database)
    try:
        well = True
        for finding in examine(store, settings, hashes=hashes):
            well &= finding.well
            say(f"{'ok' if finding.well else 'AMISS':7}{finding.subject:14}{finding.text}")
            if finding.advice:
                say(f"{'':7}{'':14}-> {finding.advice}")
    finally:
        store.close()
    if not well:
        raise typer.Exit(FAILURE)


@trash_app.command("list")
def list_trash(data_dir: DataDir = None) -> None:
    """List the deleted jobs whose files are kept."""
    from server.clock import rfc3339
    from server.ingest import trash

    found = trash.contents(settings_of(data_dir=data_dir))
    print_columns(("job", "deleted"), [(each.job_id, rfc3339(each.deleted_at)) for each in found])


@trash_app.command("restore")
def restore_from_trash(
    job: Annotated[str, typer.Argument(help="Id of a deleted job.")], data_dir: DataDir = None
) -> None:
    """Take the files of a deleted job back, and make it a job again."""
    from server.upkeep.adopt import take_back

    with open_store(data_dir) as store:
        _print_adopted([take_back(store, settings_of(data_dir=data_dir), job)])


@trash_app.command("empty")
def empty_trash(
    jobs: Annotated[list[str] | None, typer.Argument(help="Ids of jobs; by default all.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Delete files in the trash for good."""
    from server.ingest import trash

    settings = settings_of(data_dir=data_dir)
    with service_errors():
        chosen = jobs or [each.job_id for each in trash.contents(settings)]
        left = trash.empty(settings, chosen, why="asked")
    print_error(f"{len(chosen) - len(left)} deleted")
    if left:
        raise GanMheError(f"cannot delete {', '.join(str(settings.trash / job_id) for job_id in left)}")


COMMANDS = (backup, restore, adopt, doctor)
