"""Commands for the operator of a service: run it and manage its API keys. `server.cli.app` assembles them.

Commands import what they need when they run, so that `--help` responds quickly and training needs no database.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gan_mhe.cli.console import print_columns, print_error, say
from gan_mhe.cli.options import possible
from gan_mhe.errors import GanMheError
from gan_mhe.streams import output_is_optional

if TYPE_CHECKING:
    from server.settings import Settings
    from server.store.rows import ListedKeyRow
    from server.store.store import Store

keys_app = typer.Typer(help="Manage the API keys of a service on this machine.", no_args_is_help=True)

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Data directory; by default GAN_MHE_DATA_DIR, or gan-mhe-data.", callback=possible),
]


def serve(
    host: Annotated[str | None, typer.Option(help="Address; default 127.0.0.1. Others require API keys.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; default 8000; 0 selects a free one.")] = None,
    data_dir: DataDir = None,
    cpu_slots: Annotated[
        int | None, typer.Option(help="Concurrent training jobs on the CPU; default half the cores.")
    ] = None,
    threads_per_slot: Annotated[int | None, typer.Option(help="CPU threads per job; default 1.")] = None,
    cuda_slots_per_device: Annotated[
        int | None, typer.Option(help="Concurrent training jobs per GPU; default 1.")
    ] = None,
    allow_downloads: Annotated[bool | None, typer.Option(help="Allow jobs to download data sets and weights.")] = None,
) -> None:
    """Run the service. Every setting can also be an environment variable, such as GAN_MHE_CPU_SLOTS."""
    output_is_optional()
    settings = settings_of(
        host=host,
        port=port,
        data_dir=data_dir,
        cpu_slots=cpu_slots,
        threads_per_slot=threads_per_slot,
        cuda_slots_per_device=cuda_slots_per_device,
        allow_downloads=allow_downloads,
    )
    from server import serve as service

    with service_errors():
        service.serve(settings)


@keys_app.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="Owner or purpose of the key.")],
    scope: Annotated[list[str], typer.Option(help="jobs:read, jobs:write, samples:read, artifacts:read or admin.")],
    project: Annotated[str, typer.Option(help="Project whose jobs the key can access.")] = "default",
    max_priority: Annotated[
        int | None, typer.Option(help="Highest priority of its jobs; default GAN_MHE_MAX_PRIORITY.")
    ] = None,
    max_queued_jobs: Annotated[
        int | None,
        typer.Option(help="Waiting jobs of the project, at which it adds none; default GAN_MHE_MAX_QUEUED_JOBS."),
    ] = None,
    max_streams: Annotated[
        int | None, typer.Option(help="Event streams open at a time; default GAN_MHE_MAX_STREAMS_PER_KEY.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Create a key and print it. It cannot be shown again."""
    from server.store import keys

    with open_store(data_dir) as store:
        token = keys.create(store, name, project, scope, keys.KeyLimits(max_priority, max_queued_jobs, max_streams))
    print_error("save this key: it cannot be shown again")
    say(token)
    settings_of(data_dir=data_dir).keys_required.touch(mode=0o600)  # last: the key exists, and is shown whatever fails


@keys_app.command("list")
def list_keys(data_dir: DataDir = None) -> None:
    """List the keys, without their secrets."""
    from server.clock import rfc3339
    from server.store import keys

    with open_store(data_dir) as store:
        rows = keys.listing(store)
    cells = [
        (
            *(str(row[name]) for name in ("prefix", "name", "project")),
            " ".join(row["scopes"]),
            rfc3339(row["created_at"])[:10],
            _limits(row),
            "" if row["revoked_at"] is None else f"revoked {rfc3339(row['revoked_at'])[:10]}",
        )
        for row in rows
    ]
    print_columns(("prefix", "name", "project", "scopes", "created", "limits", ""), cells)


def _limits(row: "ListedKeyRow") -> str:
    """The limits that a key has of its own, as the options that set them."""
    limits = (
        ("priority", row["max_priority"]),
        ("queued-jobs", row["max_queued_jobs"]),
        ("streams", row["max_streams"]),
    )
    return " ".join(f"{name}={value}" for name, value in limits if value is not None)


@keys_app.command("revoke")
def revoke_key(
    prefix: Annotated[str, typer.Argument(help="The part between gk_ and the secret.")], data_dir: DataDir = None
) -> None:
    """Revoke a key immediately."""
    from server.store import keys

    with open_store(data_dir) as store:
        keys.revoke(store, prefix)
    say(f"{prefix} is revoked")


def settings_of(**options: Any) -> "Settings":
    """Settings from options, environment and defaults, in this order of precedence. GanMheError names invalid ones."""
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from server.settings import Settings, check_variables

    check_variables(os.environ)
    try:
        return Settings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, each['loc']))}: {each['msg']}, got {each['input']!r}" for each in error.errors()
        ]
        raise GanMheError("settings: " + "; ".join(problems)) from None
    except SettingsError as error:
        raise GanMheError(f"settings: {error}; lists and tables must be JSON") from None


@contextmanager
def service_errors() -> Iterator[None]:
    """Convert errors of the service to errors of the command."""
    from sqlalchemy.exc import DBAPIError

    from server.errors import ServiceError

    try:
        yield
    except ServiceError as error:
        raise GanMheError(str(error)) from None
    except DBAPIError as error:
        raise GanMheError(f"cannot use the database: {error.orig}") from error


def files_of(settings: "Settings") -> AbstractContextManager[None]:
    """Create files meanwhile as the service does: for its user alone, unless the settings say otherwise."""
    from server.private import private_files

    return private_files() if settings.private_files else nullcontext()


@contextmanager
def open_store(data_dir: Path | None) -> "Iterator[Store]":
    """Open the database of a service, which may be running. An older schema is migrated only if it does not run."""
    from server import data_directory, startup
    from server.store.store import Store

    settings = settings_of(data_dir=data_dir)
    with service_errors(), files_of(settings):
        try:
            settings.data_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise GanMheError(f"cannot write to the data directory {settings.data_dir}: {error.strerror}") from None
        store = Store(settings.database)
        try:
            startup.refuse_a_lost_database(store, settings)
            if not store.is_current():
                with data_directory.locked(settings.data_dir):
                    store.migrate()
            yield store
        finally:
            store.close()
