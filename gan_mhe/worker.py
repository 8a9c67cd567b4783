"""One job in a process of its own: `python -m gan_mhe.worker REQUEST`, for whoever supervises jobs.

REQUEST is a JSON file: a training run, images from a checkpoint, or a checkpoint's score. What came of it is written to
the file that the request calls `outcome`, in every case that leaves the process its life:

    {"outcome": "completed" | "stopped" | "failed", "code": ..., "message": ..., "step": ..., "result": ...}

Exit codes: 0 completed, 75 stopped, 1 failed. The first SIGTERM or SIGINT makes a training run save and stop, the
second quits; anything else quits at the first. torch is loaded once the request is known to be sound.
"""

import errno
import json
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from gan_mhe.config import compose
from gan_mhe.config.run_config import RunConfig
from gan_mhe.errors import CheckpointError, ConfigError, GanMheError, StorageError
from gan_mhe.files import atomic_write, sha256_bytes, write_json
from gan_mhe.records.events import Event, describe
from gan_mhe.records.run_dir import RunDir
from gan_mhe.run.control import stop_on_signals

STOPPED, FAILED, USAGE = 75, 1, 2

MEDIA_TYPES = {"png": "image/png", "zip": "application/zip", "npz": "application/x-npz"}
_RESERVE = b"\0" * 16384  # more than an outcome takes
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# What allocators say that raise no exception of their own.
_OUT_OF_MEMORY = ("DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


class Request(BaseModel):
    """What all requests share. `run_dir`: of the run that is trained or used; `outcome`: file to write."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_dir: Path
    outcome: Path


class Fork(BaseModel):
    """A checkpoint of another run to begin from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_dir: Path
    step: int


class TrainRequest(Request):
    """Begin the run, or go on with it.

    require_checkpoint: refuse to start over when no checkpoint can be used. memory_fraction: of the GPU, at most.
    """

    kind: Literal["train"]
    config: dict[str, Any]
    require_checkpoint: bool = False
    fork: Fork | None = None
    memory_fraction: Annotated[float, Field(gt=0, le=1)] | None = None


class SampleRequest(Request):
    """Images from one checkpoint. interpolation: images of each of `n` walks; 0 draws `n` images instead."""

    kind: Literal["sample"]
    step: int
    checkpoint_sha256: str
    n: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)]
    truncation: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    interpolation: Annotated[int, Field(ge=0)] = 0
    ema: bool = False
    format: Literal["png", "npz", "zip"]
    output: Path


class ScoreRequest(Request):
    """The score of one checkpoint. overrides: nested tables of evaluation keys."""

    kind: Literal["score"]
    step: int
    checkpoint_sha256: str
    overrides: dict[str, Any]


_REQUESTS: TypeAdapter[TrainRequest | SampleRequest | ScoreRequest] = TypeAdapter(
    Annotated[TrainRequest | SampleRequest | ScoreRequest, Field(discriminator="kind")]
)


@dataclass(frozen=True)
class Outcome:
    """What came of a request. code: of the error, stable; step: how far it got."""

    outcome: Literal["completed", "stopped", "failed"]
    code: str | None = None
    message: str = ""
    step: int | None = None
    result: Mapping[str, Any] | None = None


class _Lines:
    """Events as lines on the console; `step` is that of the last one."""

    def __init__(self) -> None:
        self.step: int | None = None

    def emit(self, event: Event) -> None:
        self.step = event.step
        _say(describe(event))


def main() -> None:
    """Do what the request file says; the exit code tells what came of it."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m gan_mhe.worker REQUEST\n")
        raise SystemExit(USAGE)
    outcome = work(Path(sys.argv[1]))
    raise SystemExit({"completed": 0, "stopped": STOPPED, "failed": FAILED}[outcome.outcome])


def work(path: Path) -> Outcome:
    """Do what the request file says, and write what came of it."""
    for number in _SIGNALS:
        signal.signal(number, signal.default_int_handler)
    lines = _Lines()
    document: dict[str, Any] = {}
    reserve: Path | None = None
    try:
        document = _read(path)
        reserve = _set_room_aside(Path(document["outcome"]))
        outcome = _do(_parse(document), lines)
    except KeyboardInterrupt:
        outcome = Outcome("stopped", message="quit at once; the last checkpoint stands", step=lines.step)
    except Exception as error:
        outcome = _failure(error, document, lines.step)
    for number in _SIGNALS:  # last words are not interrupted
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
        raise ConfigError(f"{path}: expected an object that names its outcome file")
    return document


def _set_room_aside(outcome: Path) -> Path:
    """A file that can be given up for the outcome when the disk has become full."""
    reserve = outcome.with_name(f".{outcome.name}.reserve")
    with suppress(StorageError):
        atomic_write(reserve, _RESERVE)
    return reserve


def _parse(document: Mapping[str, Any]) -> TrainRequest | SampleRequest | ScoreRequest:
    try:
        return _REQUESTS.validate_python(document)
    except ValidationError as error:
        problems = (".".join(map(str, ("request", *said["loc"]))) + f": {said['msg']}" for said in error.errors())
        raise ConfigError("; ".join(problems)) from error


def _do(request: TrainRequest | SampleRequest | ScoreRequest, lines: _Lines) -> Outcome:
    match request:
        case TrainRequest():
            return _train(request, lines)
        case SampleRequest():
            return Outcome("completed", step=request.step, result=_sample(request))
        case ScoreRequest():
            return Outcome("completed", step=request.step, result=_score(request))


def _train(request: TrainRequest, lines: _Lines) -> Outcome:
    config, place = compose.parse_stored(request.config), RunDir(request.run_dir)
    with stop_on_signals(_say) as control:
        import torch

        from gan_mhe.run.loop import execute

        if request.memory_fraction is not None and torch.cuda.is_available():
            torch.cuda.set_per_process_memory_fraction(request.memory_fraction)
        if request.fork is not None:
            _begin_from(request.fork, place, config)
        if request.fork is not None or request.require_checkpoint:
            _check_resumable(place, config)
        result = execute(config, request.run_dir, lines, control)
    ended: Literal["completed", "stopped"] = "stopped" if result.status == "stopped" else "completed"
    return Outcome(ended, step=result.step, result=result.document())


def _begin_from(fork: Fork, place: RunDir, config: RunConfig) -> None:
    """Put another run's checkpoint where a run that has none yet will find it. It has no scores of its own then."""
    from gan_mhe.records import checkpoint

    if fork.step >= config.training.steps:
        raise ConfigError(f"training.steps is {config.training.steps}; a fork of step {fork.step} needs more")
    with place.locked():
        if place.checkpoint_steps():
            return
        source = RunDir(fork.run_dir)
        found = checkpoint.load(source.checkpoint(fork.step), lineage=source.read_config().digest("resumable"))
        notes = {"best": None, "final": None, "evaluations": 0, "train_seconds": found.notes["train_seconds"]}
        copy = checkpoint.Checkpoint(found.step, config.digest("resumable"), found.tensors, notes)
        checkpoint.save(place.checkpoint(found.step), copy)


def _check_resumable(place: RunDir, config: RunConfig) -> None:
    """CheckpointError when the run would start over."""
    from gan_mhe.records import checkpoint

    refused = []
    for step in reversed(place.checkpoint_steps()):
        try:
            checkpoint.load(place.checkpoint(step), lineage=config.digest("resumable"))
            return
        except CheckpointError as error:
            refused.append(str(error))
    raise CheckpointError(f"no checkpoint of {place.root} can be used: {'; '.join(refused) or 'there is none'}")


def _sample(request: SampleRequest) -> dict[str, Any]:
    import torch

    from gan_mhe.run import sample
    from gan_mhe.training.precision import resolve_device

    run, columns = RunDir(request.run_dir), request.interpolation
    asked: dict[str, Any] = request.model_dump(include={"seed", "step", "ema", "truncation"})
    asked["digest"] = request.checkpoint_sha256
    if columns:
        images = sample.interpolate(run, rows=request.n, columns=columns, **asked)
    else:
        images = sample.draw(run, n=request.n, **asked)
    content = sample.encode(images, request.format, columns=columns or None)
    atomic_write(request.output, content)
    return {
        "sha256": sha256_bytes(content),
        "size_bytes": len(content),
        "media_type": MEDIA_TYPES[request.format],
        "images": len(images),
        "fixed": request.model_dump(exclude={"kind", "run_dir", "outcome", "output"}),
        "device": str(resolve_device("auto")),
        "torch": torch.__version__,
    }


def _score(request: ScoreRequest) -> dict[str, Any]:
    from gan_mhe.run.score import score_checkpoint

    run, digest = RunDir(request.run_dir), request.checkpoint_sha256
    return score_checkpoint(run, step=request.step, overrides=request.overrides, digest=digest)


def _failure(error: Exception, document: Mapping[str, Any], step: int | None) -> Outcome:
    code, message = _explain(error, document)
    if code == "error":
        traceback.print_exception(error)
    else:
        sys.stderr.write(f"error: {message}\n")
    return Outcome("failed", code, message, getattr(error, "step", step))


def _explain(error: Exception, document: Mapping[str, Any]) -> tuple[str, str]:
    """Code and message, by what lies at the bottom of the error."""
    for cause in _chain(error):
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return "disk_full", str(error)
        if _is_out_of_memory(cause):
            return "out_of_memory", f"out of memory{_smaller_batch(document)}: {str(cause) or type(cause).__name__}"
    if isinstance(error, GanMheError):
        return error.code, str(error)
    return "error", f"{type(error).__name__}: {error}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_out_of_memory(error: BaseException) -> bool:
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _OUT_OF_MEMORY)


def _smaller_batch(document: Mapping[str, Any]) -> str:
    if document.get("kind") != "train":
        return ""
    size = compose.parse_stored(document["config"]).training.batch_size
    return f" with training.batch_size {size}; {max(2, size // 2)} needs about half as much"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
