"""Run directories that were made elsewhere become jobs: the operator puts them into the inbox, a request takes one in.

The row comes first, the files after it: a note in the job's directory says which directory is on its way, until it has
arrived and was read. So a crash leaves the inbox as it was, or a job that `recover` completes.
"""

import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from gan_mhe.comparison.compare import score_of
from gan_mhe.config.run_config import RunConfig
from gan_mhe.errors import RunDirError, StorageError
from gan_mhe.files import canonical_json, write_json
from gan_mhe.records.run_dir import RunDir
from server.errors import FieldError, InvalidRequest, NotFound, NotReady
from server.ingest.indexer import Indexer
from server.queue import admission, queue
from server.queue.states import Reason, State
from server.settings import Settings
from server.store import artifacts
from server.store.rows import Row
from server.store.store import Store

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_NOTE = "import.json"
_MAX_MESSAGE = 300
_RESULT_KEYS = frozenset({"status", "metric", "final", "best", "real", "protocol"})
_UNFINISHED = "the imported run is not finished; resume the job to go on with it"


def importable(settings: Settings) -> list[dict[str, Any]]:
    """What lies in the inbox, by name: variant, seed, total_steps, status; `problem` says why one cannot be taken in.

    status: `completed`, `diverged`, or `unfinished`; None, as the others, where there is a problem.
    """
    if not settings.inbox.is_dir():
        return []
    return [_described(path) for path in sorted(settings.inbox.iterdir()) if not path.name.startswith(".")]


def _described(path: Path) -> dict[str, Any]:
    try:
        config, result = _read(_entry(path.parent, path.name))
    except InvalidRequest as error:
        return {**dict.fromkeys(("variant", "seed", "total_steps", "status")), "name": path.name, "problem": str(error)}
    return {
        "name": path.name,
        "variant": config.variant,
        "seed": config.seed,
        "total_steps": config.training.steps,
        "status": result["status"] if result else "unfinished",
        "problem": None,
    }


def import_run(
    store: Store, settings: Settings, indexer: Indexer, *, name: str, project: str, labels: Mapping[str, str]
) -> Row:
    """Make a job of a run directory in the inbox and move it there.

    A completed run succeeded, a diverged one failed; any other is paused, so that it can be resumed. Raises
    InvalidRequest when the directory is no run, NotFound when there is none, NotReady while a process writes to it,
    StorageError when the files cannot be moved; the service completes the move when it starts again.
    """
    source = _entry(settings.inbox, name)
    with ExitStack() as stack:
        _hold(stack, source)
        config, result = _read(source)

        def create(connection: Connection) -> Row:
            job = _create(connection, _without_paths(config, settings), result, name, project, labels)
            write_json(settings.job_dir(job["id"]) / _NOTE, {"name": name})
            return job

        job = store.write(create)
        _move(source, artifacts.run_dir(settings, job["id"]).root)
    _read_in(settings, indexer, job["id"])
    return store.read(lambda connection: queue.get(connection, job["id"]))


def recover(store: Store, settings: Settings) -> None:
    """Complete the imports that a crash cut short: for the start of the service, before jobs are scheduled."""
    indexer = Indexer(store, settings)
    for note in sorted(settings.job_dir("").glob(f"*/{_NOTE}")):
        job_id = note.parent.name
        try:
            store.read(lambda connection, job_id=job_id: queue.get(connection, job_id))  # type: ignore[misc]
        except NotFound:
            shutil.rmtree(note.parent)  # the run is still in the inbox
            continue
        source = settings.inbox / json.loads(note.read_bytes())["name"]
        target = artifacts.run_dir(settings, job_id).root
        if source.is_dir() and not target.exists():
            _move(source, target)
        _read_in(settings, indexer, job_id)


def _entry(inbox: Path, name: str) -> Path:
    """The directory that goes by a name. InvalidRequest when it cannot be a run, NotFound when there is none."""
    if not _NAME.fullmatch(name):
        message = f"name: expected letters, digits, '.', '_' and '-', at most 100 of them, got {name[:120]!r}"
        raise InvalidRequest(FieldError("/name", "invalid_name", message))
    path = inbox / name
    if not os.path.lexists(path):
        raise NotFound(f"there is no {name!r} in the inbox")
    _check_entries(path)
    return path


def _refusal(path: Path, why: str) -> InvalidRequest:
    return InvalidRequest(FieldError("/name", "not_a_run", f"name: {path.name!r} cannot be imported: {why}"))


def _read(path: Path) -> tuple[RunConfig, Mapping[str, Any] | None]:
    """The configuration, and the result where the run came to its end. InvalidRequest when it is no run directory."""
    run = RunDir(path)
    for file in (run.config, run.events):
        if not file.is_file():
            raise _refusal(path, f"it has no {file.name}")
    try:
        config, result = run.read_config(), run.read_result()
        _check_result(config, result)
    except (RunDirError, ValueError) as error:
        why = " ".join(str(error).replace(f"{path}{os.sep}", "").split())
        raise _refusal(path, why[:_MAX_MESSAGE]) from None
    ended = result is not None and result["status"] in ("completed", "diverged")
    return config, result if ended else None


def _check_result(config: RunConfig, result: Mapping[str, Any] | None) -> None:
    """ValueError unless a result can be shown and compared: it has its parts, and numbers that JSON has."""
    if result is None:
        return
    try:
        canonical_json(result)
        missing = _RESULT_KEYS - result.keys()
        score_of("", config, result)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"result.json is not the result of a run: {error}") from None
    if missing:
        raise ValueError(f"result.json lacks {', '.join(sorted(missing))}")


def _check_entries(path: Path) -> None:
    """InvalidRequest unless there are only directories and plain files: a link would lead the service elsewhere."""
    mode = path.lstat().st_mode
    if not stat.S_ISDIR(mode):
        raise _refusal(path, "it is not a directory")
    for directory, below, files in os.walk(path):
        for entry in (*below, *files):
            mode = os.lstat(os.path.join(directory, entry)).st_mode
            if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                raise _refusal(path, f"{entry!r} is neither a directory nor a plain file")


def _hold(stack: ExitStack, source: Path) -> None:
    """Hold the run directory, so that no trainer writes to it and nobody else imports it. NotReady when one does."""
    try:
        stack.enter_context(RunDir(source).locked())
    except RunDirError as error:
        why = str(error).replace(str(source), source.name)
        raise NotReady(f"{source.name!r} cannot be imported now: {why}") from None


def _without_paths(config: RunConfig, settings: Settings) -> RunConfig:
    """The configuration as a request could have it: folders and files by the operator's names, where there are such."""
    root = _operator_name(config.data.root, settings.data_roots)
    if root is None and config.data.root is not None and config.data.name == "image_folder":
        root = config.data.root.name  # must be something, and a path of another machine says nothing here
    weights = _operator_name(config.evaluation.weights, settings.weights)
    document = config.document()
    document["data"]["root"] = root
    document["evaluation"]["weights"] = weights
    document["training"]["device"] = config.training.device.split(":")[0]
    return RunConfig.model_validate(document)


def _operator_name(path: Path | None, known: Mapping[str, Path]) -> str | None:
    if path is None:
        return None
    return next((name for name, place in known.items() if place.resolve() == path.resolve()), None)


def _create(
    connection: Connection,
    config: RunConfig,
    result: Mapping[str, Any] | None,
    name: str,
    project: str,
    labels: Mapping[str, str],
) -> Row:
    new = admission.new_job(config, project, name=name, labels=dict(labels), origin="imported")
    if result is None:
        return queue.create(connection, new, State.PAUSED, message=_UNFINISHED)
    if result["status"] == "completed":
        return queue.create(connection, new, State.SUCCEEDED, result=dict(result))
    facts = {"reason": Reason.DIVERGED, "message": result.get("message"), "result": dict(result)}
    return queue.create(connection, new, State.FAILED, **facts)


def _move(source: Path, target: Path) -> None:
    """Move a directory to where nothing is yet; from another device by a copy that appears whole."""
    try:
        try:
            os.rename(source, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            partial = target.with_name(f".{target.name}.tmp")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(source, partial)
            os.rename(partial, target)
            shutil.rmtree(source)
    except OSError as error:
        raise StorageError(f"cannot move {source.name!r} out of the inbox: {error.strerror or error}") from error


def _read_in(settings: Settings, indexer: Indexer, job_id: str) -> None:
    """Take in what the run said; then nothing is left to be completed."""
    indexer.drain(job_id)
    (settings.job_dir(job_id) / _NOTE).unlink(missing_ok=True)
