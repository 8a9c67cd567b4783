"""Imports run directories as jobs: the operator puts them into the inbox, and a request imports one.

The job's row is created first, then the files are moved. Until they are moved and read, a marker file in the job's
directory names the directory in the inbox. A crash therefore leaves either the inbox unchanged, or a job that `recover`
completes.
"""

import os
import re
import shutil
import stat
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from pydantic import TypeAdapter
from sqlalchemy import Connection, update

from gan_mhe.comparison.compare import score_of
from gan_mhe.config.names import DATASETS
from gan_mhe.config.run_config import RunConfig
from gan_mhe.errors import RunDirError, StorageError
from gan_mhe.evaluation.metrics import METRICS
from gan_mhe.files import move_directory, write_json
from gan_mhe.json_text import read_object
from gan_mhe.records.fields import Step
from gan_mhe.records.inputs import Inputs
from gan_mhe.records.result import contradictions
from gan_mhe.records.run_dir import RunDir
from gan_mhe.text import printable
from server.errors import FieldError, InvalidRequest, NotFound, NotReady
from server.executors.supervisor import SPEC
from server.ids import is_id
from server.ingest.indexer import Indexer
from server.queue import admission, queue
from server.queue.states import Reason, State
from server.settings import Settings
from server.store import artifacts, job_record, tables
from server.store.rows import JobRow
from server.store.store import Store

_log = structlog.get_logger("server.ingest")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MARKER = "import.json"
_MAX_MESSAGE = 300
_RECOVERY_SECONDS = 60.0
_MAX_DIGITS = 9  # of the number of an attempt
_EPOCH = TypeAdapter[int](Step)
_MAX_DEPTH = 8  # of folders; a run has two
_RESULT_KEYS = frozenset({"status", "metric", "final", "best", "real", "protocol"})
_UNFINISHED = "the imported run is not finished; resume the job to continue it"


def importable(settings: Settings) -> list[dict[str, Any]]:
    """List the inbox, by name. Keys: name, variant, seed, total_steps, status, problem.

    status: `completed`, `diverged`, or `unfinished`. problem: why the directory cannot be imported, else None; if there
    is one, variant, seed, total_steps and status are None.
    """
    if not settings.inbox.is_dir():
        return []
    return [_described(path) for path in sorted(settings.inbox.iterdir()) if not path.name.startswith(".")]


def _described(path: Path) -> dict[str, Any]:
    try:
        config, result = read_run(_entry(path.parent, path.name))
    except (InvalidRequest, NotFound) as error:
        unknown = dict.fromkeys(("variant", "seed", "total_steps", "status"))
        return {**unknown, "name": printable(path.name), "problem": str(error)}
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
) -> JobRow:
    """Create a job from a run directory in the inbox, and move the directory into the job's.

    A completed run becomes a succeeded job, a diverged one a failed job; any other run becomes a paused job, which can
    be resumed.

    Raises InvalidRequest if the directory is no run, NotFound if it does not exist, NotReady while a process writes to
    it, StorageError if the files cannot be moved; the service then completes the move at its next start.
    """
    source = _entry(settings.inbox, name)
    with ExitStack() as stack:
        lock_run(stack, source)
        config, result = read_run(source)

        def create(connection: Connection) -> JobRow:
            own = without_paths(config, settings)
            new = admission.new_job(own, project, name=name, labels=dict(labels), origin="imported")
            job = create_ended(connection, new, result)
            job_record.write(settings, job)
            mark(settings, job["id"], name)
            return job

        job = store.write(create)
        _move(source, artifacts.run_dir(settings, job["id"]).root)
    read_in(store, settings, indexer, job["id"])
    return store.read(lambda connection: queue.get(connection, job["id"]))


def recover(store: Store, settings: Settings) -> None:
    """Complete the imports that a crash interrupted. For the start of the service, before jobs are scheduled.

    An import that cannot be completed is logged and tried again at the next start: it stops neither the others nor the
    service. After `_RECOVERY_SECONDS` the rest waits for the next start.
    """
    indexer = Indexer(store, settings)
    deadline = time.monotonic() + _RECOVERY_SECONDS
    markers = settings.job_dir("").glob(f"*/{_MARKER}")
    for marker in sorted(marker for marker in markers if is_id(marker.parent.name, "job")):
        if time.monotonic() > deadline:
            _log.warning("imports_wait_for_the_next_start", first=f"jobs/{marker.parent.name}")
            return
        try:
            _complete(store, settings, indexer, marker)
        except Exception:  # whatever a file from outside can cause
            _log.exception("import_not_completed", directory=f"jobs/{marker.parent.name}")


def _complete(store: Store, settings: Settings, indexer: Indexer, marker: Path) -> None:
    """Move and read the run of one interrupted import."""
    job_id = marker.parent.name
    target = artifacts.run_dir(settings, job_id).root
    try:
        store.read(partial(queue.get, job_id=job_id))
    except NotFound:
        own = {_MARKER, job_record.NAME}
        if {path.name for path in marker.parent.iterdir()} <= own:  # nothing was moved: the run is still in the inbox
            shutil.rmtree(marker.parent)
        return
    if not os.path.lexists(target) and (source := _noted(settings, marker)).is_dir():
        _move(source, target)
    read_in(store, settings, indexer, job_id)


def _noted(settings: Settings, marker: Path) -> Path:
    """The directory in the inbox that a marker names. Raises ValueError if it names none."""
    name = read_object(marker).get("name")
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise ValueError(f"name: expected that of a directory in the inbox, got {name!r:.120}")
    return settings.inbox / name


def _entry(inbox: Path, name: str) -> Path:
    """Return the directory of a name. Raises InvalidRequest if it cannot be a run, NotFound if it does not exist."""
    if not _NAME.fullmatch(name):
        message = f"name: expected letters, digits, '.', '_' and '-', at most 100 of them, got {name[:120]!r}"
        raise InvalidRequest(FieldError("/name", "invalid_name", message))
    path = inbox / name
    if not os.path.lexists(path):
        raise NotFound(f"there is no {name!r} in the inbox")
    check_entries(path)
    return path


def _refusal(path: Path, why: str) -> InvalidRequest:
    return InvalidRequest(FieldError("/name", "not_a_run", f"name: {path.name!r} cannot be imported: {why}"))


def read_run(path: Path) -> tuple[RunConfig, Mapping[str, Any] | None]:
    """Read a run's configuration, and its result if the run has ended. Raises InvalidRequest if it is no run."""
    run = RunDir(path)
    for file in (run.config, run.events):
        if not file.is_file():
            raise _refusal(path, f"it has no {file.name}")
    try:
        config, result = run.read_config(), run.read_result()
        _check_result(config, result)
        _check_inputs(run, result)
    except (RunDirError, ValueError) as error:
        why = " ".join(str(error).replace(f"{path}{os.sep}", "").split())
        raise _refusal(path, why[:_MAX_MESSAGE]) from None
    ended = result is not None and result["status"] in ("completed", "diverged")
    return config, result if ended else None


def _check_result(config: RunConfig, result: Mapping[str, Any] | None) -> None:
    """Raise ValueError unless a result has all keys, is of the configuration, and can be compared."""
    if result is None:
        return
    missing, wrong = _RESULT_KEYS - result.keys(), contradictions(config, result)
    if missing:
        raise ValueError(f"result.json lacks {', '.join(sorted(missing))}")
    if not wrong and result["metric"] not in METRICS:
        wrong = [f"metric: expected one of {', '.join(METRICS)}; got {result['metric']!r}"]
    if wrong:
        raise ValueError(f"result.json is not the result of a run: {'; '.join(wrong)}")
    score_of("", config, result)


def _check_inputs(run: RunDir, result: Mapping[str, Any] | None) -> None:
    """Raise ValueError if the records of the run contradict its result about the images or the scorer's weights."""
    for key, (stated, recorded) in Inputs.of_result(result or {}).differing(run.read_inputs()).items():
        raise ValueError(f"{key} is {stated} in result.json, but {recorded} in the run's own record")


def check_entries(path: Path) -> None:
    """Raise InvalidRequest unless there are only directories and plain files; links could lead out of the inbox."""
    try:
        if not stat.S_ISDIR(path.lstat().st_mode):
            raise _refusal(path, "it is not a directory")
        _check_below(path, path, 0)
    except OSError as error:
        raise _refusal(path, f"it cannot be read: {error.strerror}") from None


def _check_below(path: Path, directory: Path, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise _refusal(path, f"expected at most {_MAX_DEPTH} folders in each other, got more")
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _check_below(path, Path(entry.path), depth + 1)
            elif not entry.is_file(follow_symlinks=False):
                raise _refusal(path, f"{entry.name!r} is neither a directory nor a plain file")


def lock_run(stack: ExitStack, source: Path) -> None:
    """Lock the run directory against trainers and other imports. Raises NotReady if another process has the lock."""
    try:
        stack.enter_context(RunDir(source).locked())
    except RunDirError as error:
        why = str(error).replace(str(source), source.name)
        raise NotReady(f"{source.name!r} cannot be imported now: {why}") from None


def without_paths(config: RunConfig, settings: Settings) -> RunConfig:
    """Return the configuration with the operator's names in place of paths, or None where a path has no name."""
    root = _operator_name(config.data.root, settings.data_roots)
    if root is None and config.data.root is not None and DATASETS[config.data.name].needs_root:
        # A root is required, and the path of another machine means nothing here.
        root = config.data.root.name.encode("utf-8", "replace").decode()
    weights = _operator_name(config.evaluation.weights, settings.weights)
    document = config.document()
    document["data"]["root"] = root
    document["evaluation"]["weights"] = weights
    document["training"]["device"] = config.training.device.split(":")[0]
    return RunConfig.stored(document)


def _operator_name(path: Path | None, known: Mapping[str, Path]) -> str | None:
    if path is None:
        return None
    return next((name for name, offered in known.items() if offered.resolve() == path.resolve()), None)


def create_ended(connection: Connection, new: queue.NewJob, result: Mapping[str, Any] | None, **facts: Any) -> JobRow:
    """Create the job of a run that was made elsewhere: succeeded, failed, or paused if the run has not ended.

    result: None if it has not. facts: as for `queue.create`.
    """
    if result is None:
        return queue.create(connection, new, State.PAUSED, message=_UNFINISHED, **facts)
    if result["status"] == "completed":
        return queue.create(connection, new, State.SUCCEEDED, result=dict(result), **facts)
    message = result.get("message")
    return queue.create(
        connection, new, State.FAILED, reason=Reason.DIVERGED, message=message, result=dict(result), **facts
    )


def _move(source: Path, target: Path) -> None:
    """Move a directory out of the inbox to a path that does not exist yet. Raises StorageError."""
    try:
        move_directory(source, target)
    except OSError as error:
        raise StorageError(f"cannot move {source.name!r} out of the inbox: {error.strerror or error}") from error


def mark(settings: Settings, job_id: str, name: str) -> None:
    """Note in a job's directory that the run `name` of the inbox is to be read, if it is there, as the job's."""
    write_json(settings.job_dir(job_id) / _MARKER, {"name": name})


def read_in(store: Store, settings: Settings, indexer: Indexer, job_id: str) -> None:
    """Read the run's events and console, and delete the marker: the job is complete."""
    indexer.drain(job_id)
    number, epoch = _highest(settings.job_dir(job_id) / "attempts")

    def go_on_after(connection: Connection) -> None:
        job = queue.get(connection, job_id)
        values = {"attempts": max(number, job["attempts"]), "lease_epoch": max(epoch, job["lease_epoch"])}
        connection.execute(update(tables.jobs).where(tables.jobs.c.id == job_id).values(values))

    store.write(go_on_after)
    (settings.job_dir(job_id) / _MARKER).unlink(missing_ok=True)


def _highest(attempts: Path) -> tuple[int, int]:
    """The number of the newest attempt with a directory and the highest lease epoch: the next must have higher ones."""
    numbers, epochs = [0], [0]
    for path in attempts.glob("*"):
        if path.name.isdecimal() and len(path.name) <= _MAX_DIGITS:
            numbers.append(int(path.name))
            with suppress(OSError, ValueError, KeyError):
                epochs.append(_EPOCH.validate_python(read_object(path / SPEC)["epoch"]))
    return max(numbers), max(*numbers, *epochs)
