"""What a run says while it runs, and how it is asked to stop.

Events are frozen values; `encode` and `decode` are their only JSON form. Non-finite numbers travel as the strings
"NaN", "Infinity" and "-Infinity", because JSON has none and a lost NaN hides a divergence.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, ClassVar, Protocol


@dataclass(frozen=True)
class Started:
    """The run begins, or goes on from a checkpoint: what was said after `step` before is void."""

    type: ClassVar[str] = "started"
    step: int
    total_steps: int
    resumed: bool


@dataclass(frozen=True)
class Progress:
    """How far and how fast. `eta_seconds` counts the remaining steps only.

    peak_memory_bytes: the most memory the run has held so far; None in journals of versions that did not say.
    """

    type: ClassVar[str] = "progress"
    step: int
    total_steps: int
    steps_per_second: float
    images_per_second: float
    eta_seconds: float
    peak_memory_bytes: int | None = None


@dataclass(frozen=True)
class Scalars:
    """Named numbers at one step."""

    type: ClassVar[str] = "scalars"
    step: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class SampleGrid:
    """A picture was written; `path` is relative to the run directory."""

    type: ClassVar[str] = "sample_grid"
    step: int
    path: str
    sha256: str


@dataclass(frozen=True)
class CheckpointSaved:
    """A checkpoint is complete on disk; `path` is relative to the run directory."""

    type: ClassVar[str] = "checkpoint_saved"
    step: int
    path: str
    sha256: str


@dataclass(frozen=True)
class CheckpointRejected:
    """The checkpoint of `checkpoint_step` is damaged or foreign: the run was taken up at `step`, from an older one."""

    type: ClassVar[str] = "checkpoint_rejected"
    step: int
    checkpoint_step: int
    message: str


@dataclass(frozen=True)
class Evaluated:
    """Scores of one generator. `purpose` is `scheduled`, `final` or `best_rescored`.

    fingerprints: of each score by name; two scores of one name compare only if their fingerprints are equal.
    """

    type: ClassVar[str] = "evaluated"
    step: int
    purpose: str
    scores: Mapping[str, float]
    protocol: str
    fingerprints: Mapping[str, str]
    seconds: float


@dataclass(frozen=True)
class Notice:
    """Something a person should know, such as a layer that a penalty skips."""

    type: ClassVar[str] = "notice"
    step: int
    message: str


@dataclass(frozen=True)
class Finished:
    """The last word. `reason` is `completed`, `stopped`, `diverged` or `failed`."""

    type: ClassVar[str] = "finished"
    step: int
    reason: str
    message: str


Event = Started | Progress | Scalars | SampleGrid | CheckpointSaved | CheckpointRejected | Evaluated | Notice | Finished

_TYPES: Mapping[str, type[Event]] = {
    cls.type: cls
    for cls in (
        Started,
        Progress,
        Scalars,
        SampleGrid,
        CheckpointSaved,
        CheckpointRejected,
        Evaluated,
        Notice,
        Finished,
    )
}
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def encode_number(value: Any) -> Any:
    """A float as a JSON value: itself, or its name where it is not finite."""
    if not isinstance(value, float) or math.isfinite(value):
        return value
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _encode_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: encode_number(number) for key, number in value.items()}
    return encode_number(value)


def encode(event: Event) -> dict[str, Any]:
    """The event as JSON values with its type."""
    return {"type": event.type} | {key: _encode_value(value) for key, value in asdict(event).items()}


def _decode_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: decode_number(number) for key, number in value.items()}
    return value


def decode_number(value: Any) -> Any:
    """Inverse of `encode_number`."""
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value


def decode(document: Mapping[str, Any]) -> Event:
    """Inverse of `encode`; keys that the event does not have (its envelope) are ignored.

    Raises ValueError for an unknown type or a missing field.
    """
    cls = _TYPES.get(document.get("type", ""))
    if cls is None:
        raise ValueError(f"unknown event type {document.get('type')!r}; expected one of {', '.join(_TYPES)}")
    if cls is Evaluated:
        document = _with_fingerprints(document)
    names = [field.name for field in fields(cls)]
    missing = [f.name for f in fields(cls) if f.name not in document and f.default is MISSING]
    if missing:
        raise ValueError(f"event {cls.type!r} lacks {', '.join(missing)}")
    values = {name: document[name] for name in names if name in document}
    numbers = {f.name for f in fields(cls) if f.type in (float, Mapping[str, float])}
    return cls(**{k: _decode_value(decode_number(v)) if k in numbers else v for k, v in values.items()})


def _with_fingerprints(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """An `evaluated` event of an older version, which has one fingerprint for all scores, in the present form."""
    scores, fingerprint = document.get("scores"), document.get("fingerprint")
    if "fingerprints" in document or fingerprint is None or not isinstance(scores, Mapping):
        return document
    return {**document, "fingerprints": dict.fromkeys(scores, fingerprint)}


def effective(events: Iterable[Event]) -> Iterator[Event]:
    """The events that still hold.

    A resume voids what an earlier attempt said about later steps; a start from the beginning voids all of it.
    """
    kept: list[Event] = []
    for event in events:
        if isinstance(event, Started):
            kept = [old for old in kept if event.resumed and _stands(old, event.step)]
        kept.append(event)
    return iter(kept)


def _stands(old: Event, resumed_step: int) -> bool:
    concluding = isinstance(old, Finished) or (isinstance(old, Evaluated) and old.purpose == "best_rescored")
    return old.step <= resumed_step and not concluding


def describe(event: Event) -> str:
    """One plain line for a log or a terminal."""
    return " ".join(_sentence(event).splitlines())


def _sentence(event: Event) -> str:
    match event:
        case Started(step=step, total_steps=total, resumed=resumed):
            return f"resumed at step {step} of {total}" if resumed else f"started, {total} steps"
        case Progress():
            return (
                f"step {event.step}/{event.total_steps}  {event.steps_per_second:.2f} steps/s  "
                f"{event.images_per_second:.0f} images/s  {event.eta_seconds:.0f} s left"
            )
        case Scalars(step=step, values=values):
            shown = [f"{name} {value:.4g}" for name, value in values.items() if "/" not in name]
            return f"step {step}  {'  '.join(shown)}"
        case SampleGrid(path=path):
            return f"samples {path}"
        case CheckpointSaved(path=path):
            return f"checkpoint {path}"
        case CheckpointRejected(checkpoint_step=step, message=message):
            return f"note: checkpoint of step {step} refused: {message}"
        case Evaluated():
            shown = [f"{name} {value:.4g}" for name, value in event.scores.items()]
            return f"step {event.step}  {event.purpose}  {'  '.join(shown)}  ({event.protocol}, {event.seconds:.1f} s)"
        case Notice(message=message):
            return f"note: {message}"
        case Finished(step=step, reason=reason, message=message):
            return f"{reason} at step {step}{': ' if message else ''}{message}"


class EventSink(Protocol):
    """Where events go besides the run directory: a terminal, a server, a test."""

    def emit(self, event: Event) -> None:
        """Take one event. Must not block for long and must not raise."""


class RunControl(Protocol):
    """The one back-channel into a run."""

    def should_stop(self) -> bool:
        """Asked after every step; True makes the run save, say so and return."""
