"""Executes one job in its own process: `python -m gan_mhe.worker REQUEST`. Supervisors of jobs start it.

REQUEST is a JSON file that describes a training run, images from a checkpoint, or the score of a checkpoint. The worker
writes the outcome to the file that the request names in `outcome`, unless the process is killed:

    {"outcome": "completed" | "stopped" | "failed", "code": ..., "message": ..., "step": ..., "result": ...}

Exit codes: 0 completed, 75 stopped, 1 failed, 2 wrong usage. On the first SIGTERM, SIGINT or SIGHUP a training run
saves and stops, on a second SIGTERM or SIGINT it quits; other requests quit on the first signal. torch is imported
after the request has been validated.
"""

import errno
import json
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from gan_mhe.config import compose
from gan_mhe.config.run_config import RunConfig
from gan_mhe.errors import (
    CheckpointError,
    ConfigError,
    GanMheError,
    MemoryLimitError,
    RunDirError,
    StorageError,
    is_out_of_memory,
)
from gan_mhe.files import atomic_write, growing_file, write_json
from gan_mhe.records.events import Event, describe
from gan_mhe.records.run_dir import RunDir
from gan_mhe.run.control import stop_on_signals, stop_signals
from gan_mhe.streams import protected

STOPPED, FAILED, USAGE = 75, 1, 2

MEDIA_TYPES = {"png": "image/png", "webp": "image/webp", "zip": "application/zip", "npz": "application/x-npz"}
_LAYOUT = {"columns", "scale", "padding"}
_RESERVE = b"\0" * 16384  # larger than any outcome


class Request(BaseModel):
    """Fields of all requests. run_dir: directory of the run; outcome: file to write the outcome to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_dir: Path
    outcome: Path


class Fork(BaseModel):
    """The checkpoint of another run from which a training run starts.

    same_config: the run continues the other as it would have gone on, so it must read the same images and weights.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_dir: Path
    step: int
    same_config: bool = True


class TrainRequest(Request):
    """Start or resume a training run.

    require_checkpoint: fail if no checkpoint is usable, instead of starting over. set_aside: rename the folder of the
    run's checkpoints first, so that it starts over. fork: start from another run's checkpoint. memory_fraction: largest
    fraction of the GPU's memory that the process may allocate.
    """

    kind: Literal["train"]
    config: dict[str, Any]
    require_checkpoint: bool = False
    set_aside: bool = False
    fork: Fork | None = None
    memory_fraction: Annotated[float, Field(gt=0, le=1)] | None = None


class SampleRequest(Request):
    """Generate images from one checkpoint.

    interpolation: number of images in each of `n` walks between two latents; 0 generates `n` independent images.
    columns, scale, padding: layout of a grid. partial: file that grows and becomes `output` when it is whole.
    """

    kind: Literal["sample"]
    step: int
    checkpoint_sha256: str
    n: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)]
    truncation: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    interpolation: Annotated[int, Field(ge=0)] = 0
    ema: bool = False
    format: Literal["png", "webp", "npz", "zip"]
    columns: Annotated[int, Field(ge=1)] | None = None
    scale: Annotated[int, Field(ge=1)] | None = None
    padding: Annotated[int, Field(ge=0)] | None = None
    output: Path
    partial: Path


class ScoreRequest(Request):
    """Score one checkpoint. overrides: nested tables of evaluation keys."""

    kind: Literal["score"]
    step: int
    checkpoint_sha256: str
    overrides: dict[str, Any]


_REQUESTS: TypeAdapter[TrainRequest | SampleRequest | ScoreRequest] = TypeAdapter(
    Annotated[TrainRequest | SampleRequest | ScoreRequest, Field(discriminator="kind")]
)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a request. code: stable code of the error, if any; step: last step that was reached."""

    outcome: Literal["completed", "stopped", "failed"]
    code: str | None = None
    message: str = ""
    step: int | None = None
    result: Mapping[str, Any] | None = None


class _ConsoleSink:
    """Prints each event as a line; `step` is the step of the last event."""

    def __init__(self) -> None:
        self.step: int | None = None

    def emit(self, event: Event) -> None:
        self.step = event.step
        _print(describe(event))


def main() -> None:
    """Execute the request file named on the command line; exit with the code of the outcome."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m gan_mhe.worker REQUEST\n")
        raise SystemExit(USAGE)
    with protected():
        outcome = execute_request(Path(sys.argv[1]))
    raise SystemExit({"completed": 0, "stopped": STOPPED, "failed": FAILED}[outcome.outcome])


def execute_request(path: Path) -> Outcome:
    """Execute the request in the file `path`, write the outcome to the file it names, and return it."""
    signals = stop_signals()
    for number in signals:
        signal.signal(number, signal.default_int_handler)
    sink = _ConsoleSink()
    document: dict[str, Any] = {}
    reserve: Path | None = None
    try:
        document = _read(path)
        reserve = _reserve_space(Path(document["outcome"]))
        outcome = _execute(_parse(document), sink)
    except KeyboardInterrupt:
        outcome = Outcome("stopped", message="quit without saving; the last checkpoint is intact", step=sink.step)
    except Exception as error:
        outcome = _failure(error, document, sink.step)
    for number in signals:  # writing the outcome must not be interrupted
        signal.signal(number, signal.SIG_IGN)
    if reserve is not None:
        with suppress(OSError):
            reserve.unlink()
        write_json(Path(document["outcome"]), vars(outcome))
    return outcome


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("outcome"), str):
        raise ConfigError(f"{path}: expected a JSON object whose 'outcome' is a file name")
    return document


def _reserve_space(outcome: Path) -> Path:
    """Write a placeholder that is deleted before the outcome is written, so that the outcome fits on a full disk."""
    reserve = outcome.with_name(f".{outcome.name}.reserve")
    with suppress(StorageError):
        atomic_write(reserve, _RESERVE)
    return reserve


def _parse(document: Mapping[str, Any]) -> TrainRequest | SampleRequest | ScoreRequest:
    try:
        return _REQUESTS.validate_python(document)
    except ValidationError as error:
        problems = (".".join(map(str, ("request", *item["loc"]))) + f": {item['msg']}" for item in error.errors())
        raise ConfigError("; ".join(problems)) from error


def _execute(request: TrainRequest | SampleRequest | ScoreRequest, sink: _ConsoleSink) -> Outcome:
    match request:
        case TrainRequest():
            return _train(request, sink)
        case SampleRequest():
            return Outcome("completed", step=request.step, result=_sample(request))
        case ScoreRequest():
            return Outcome("completed", step=request.step, result=_score(request))


def _train(request: TrainRequest, sink: _ConsoleSink) -> Outcome:
    config, run_dir = compose.parse_stored(request.config), RunDir(request.run_dir)
    with stop_on_signals(_print) as control:
        import torch

        from gan_mhe.run.loop import execute

        if request.memory_fraction is not None and torch.cuda.is_available():
            torch.cuda.set_per_process_memory_fraction(request.memory_fraction)
        if request.set_aside:
            _set_aside(run_dir)
        if request.fork is not None:
            _copy_checkpoint(request.fork, run_dir, config)
        if request.fork is not None or request.require_checkpoint:
            _check_resumable(run_dir, config)
        result = execute(config, request.run_dir, sink, control)
    outcome: Literal["completed", "stopped"] = "stopped" if result.status == "stopped" else "completed"
    return Outcome(outcome, step=result.step, result=result.document())


def _set_aside(run_dir: RunDir) -> None:
    """Rename the folder of checkpoints, which nobody uses then; nothing is deleted."""
    with run_dir.locked():
        if run_dir.checkpoint_steps():
            names = (run_dir.checkpoints.with_name(f"checkpoints.rejected-{number}") for number in count(1))
            run_dir.checkpoints.rename(next(name for name in names if not name.exists()))


def _copy_checkpoint(fork: Fork, run_dir: RunDir, config: RunConfig) -> None:
    """Copy another run's checkpoint, without its scores, to a run that has no checkpoint yet."""
    from gan_mhe.records import checkpoint

    if fork.step >= config.training.steps:
        raise ConfigError(
            f"training.steps: expected more than {fork.step}, the step of the fork, got {config.training.steps}"
        )
    with run_dir.locked():
        if run_dir.checkpoint_steps():
            return
        source = RunDir(fork.run_dir)
        found = checkpoint.load(source.checkpoint(fork.step), lineage=source.read_config().digest("resumable"))
        notes = {"best": None, "final": None, "evaluations": 0, "train_seconds": found.notes["train_seconds"]}
        if fork.same_config:
            notes["inputs"] = found.notes.get("inputs")
        copy = checkpoint.Checkpoint(found.step, config.digest("resumable"), found.tensors, notes)
        checkpoint.save(run_dir.checkpoint(found.step), copy)


def _check_resumable(run_dir: RunDir, config: RunConfig) -> None:
    """Raise CheckpointError if no checkpoint of the run is usable, so that it would start over."""
    from gan_mhe.records import checkpoint

    refused = []
    for step in reversed(run_dir.checkpoint_steps()):
        try:
            checkpoint.load(run_dir.checkpoint(step), lineage=config.digest("resumable"))
            return
        except CheckpointError as error:
            refused.append(str(error))
    raise CheckpointError(f"no usable checkpoint in {run_dir.root}: {'; '.join(refused) or 'it has none'}")


def _sample(request: SampleRequest) -> dict[str, Any]:
    import torch

    from gan_mhe.images import files
    from gan_mhe.run import sample
    from gan_mhe.training.precision import resolve_device

    count = request.n * max(1, request.interpolation)
    options: dict[str, Any] = request.model_dump(include={"n", "seed", "interpolation", "step", "ema", "truncation"})
    batches = sample.draw(RunDir(request.run_dir), digest=request.checkpoint_sha256, **options)
    layout = request.model_dump(include=_LAYOUT, exclude_none=True)
    with growing_file(request.output, request.partial) as file:
        columns = {"columns": request.interpolation} if request.interpolation else {}
        files.write(batches, count, request.format, file, files.GridLayout(**columns | layout))
    return {
        "sha256": file.sha256,
        "size_bytes": file.size_bytes,
        "media_type": MEDIA_TYPES[request.format],
        "images": count,
        "fixed": request.model_dump(exclude={"kind", "run_dir", "outcome", "output", "partial", *_LAYOUT}) | layout,
        "device": str(resolve_device("auto")),
        "torch": torch.__version__,
    }


def _score(request: ScoreRequest) -> dict[str, Any]:
    from gan_mhe.run.score import score_checkpoint

    run, digest = RunDir(request.run_dir), request.checkpoint_sha256
    return score_checkpoint(
        run,
        step=request.step,
        overrides=_without_own_weights(request.overrides, run.read_config()),
        digest=digest,
        notice=lambda text: _print(f"note: {text}"),
    )


def _without_own_weights(overrides: Mapping[str, Any], config: RunConfig) -> dict[str, Any]:
    """The overrides without the weights file if it is the run's own: its content is then checked.

    A request states the whole section, also what its user did not ask to change.
    """
    evaluation, own = dict(overrides.get("evaluation", {})), config.evaluation
    weights = None if own.weights is None else str(own.weights)
    if evaluation.get("protocol", own.protocol) == own.protocol and evaluation.get("weights") == weights:
        evaluation.pop("weights", None)
    return {**overrides, "evaluation": evaluation}


def _failure(error: Exception, document: Mapping[str, Any], step: int | None) -> Outcome:
    code, message = _classify(error, document)
    if code == "error":
        traceback.print_exception(error)
    else:
        sys.stderr.write(f"error: {message}\n")
    return Outcome("failed", code, message, getattr(error, "step", step))


def _classify(error: Exception, document: Mapping[str, Any]) -> tuple[str, str]:
    """Stable code and message, from the error and its causes."""
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return "disk_full", str(error)
        if isinstance(cause, MemoryLimitError):  # it names the setting, which its own cause cannot
            return cause.code, str(cause)
        if is_out_of_memory(cause):
            return "out_of_memory", f"out of memory{_batch_advice(document)}: {str(cause) or type(cause).__name__}"
    if _is_of_the_disk(error):
        return StorageError.code, str(error)
    if isinstance(error, GanMheError):
        return error.code, str(error)
    return "error", f"{type(error).__name__}: {error}"


def _is_of_the_disk(error: Exception) -> bool:
    """Whether an error that no one foresaw, or that of a run directory, only says that the disk fails."""
    if isinstance(error, RunDirError):
        return isinstance(error.__cause__, OSError)
    return isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EIO, errno.ESTALE)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _batch_advice(document: Mapping[str, Any]) -> str:
    if document.get("kind") != "train":
        return ""
    size = compose.parse_stored(document["config"]).training.batch_size
    return f" with training.batch_size {size}; {max(2, size // 2)} needs about half as much"


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
