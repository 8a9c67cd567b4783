"""The events that a run emits, and the interface that can stop it.

Events are frozen values; `encode` and `decode` define their JSON form, and the types of their fields what `decode`
accepts: journals are read that others may have written. Non-finite numbers are written as the strings
"NaN", "Infinity" and "-Infinity", because JSON has no such numbers and a lost NaN would hide a divergence.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, ClassVar, Protocol, get_args

from pydantic import TypeAdapter

from gan_mhe.records.fields import MAX_NAME, Flag, Name, Names, Number, Numbers, Sha256, Step, Text, validated


@dataclass(frozen=True)
class Started:
    """The run started, or resumed from the checkpoint at `step`; earlier events with a later step no longer count."""

    type: ClassVar[str] = "started"
    step: Step
    total_steps: Step
    resumed: Flag


@dataclass(frozen=True)
class Progress:
    """Progress and speed. eta_seconds: for the remaining steps, without evaluations.

    peak_memory_bytes: most device memory the run has held so far; None in journals of older versions.
    """

    type: ClassVar[str] = "progress"
    step: Step
    total_steps: Step
    steps_per_second: Number
    images_per_second: Number
    eta_seconds: Number
    peak_memory_bytes: Step | None = None


@dataclass(frozen=True)
class Scalars:
    """Losses and diagnostics at one step, by name."""

    type: ClassVar[str] = "scalars"
    step: Step
    values: Numbers


@dataclass(frozen=True)
class SampleGrid:
    """A sample grid was written. path: relative to the run directory."""

    type: ClassVar[str] = "sample_grid"
    step: Step
    path: Name
    sha256: Sha256


@dataclass(frozen=True)
class CheckpointSaved:
    """A checkpoint is complete on disk. path: relative to the run directory."""

    type: ClassVar[str] = "checkpoint_saved"
    step: Step
    path: Name
    sha256: Sha256


@dataclass(frozen=True)
class CheckpointRejected:
    """The checkpoint at `checkpoint_step` cannot be used; the run resumed from an older one, at `step`."""

    type: ClassVar[str] = "checkpoint_rejected"
    step: Step
    checkpoint_step: Step
    message: Text


@dataclass(frozen=True)
class Evaluated:
    """Scores at one step. purpose: `scheduled`, `final` or `best_rescored`.

    fingerprints: by score; two scores of one name compare only if their fingerprints are equal.
    """

    type: ClassVar[str] = "evaluated"
    step: Step
    purpose: Name
    scores: Numbers
    protocol: Name
    fingerprints: Names
    seconds: Number


@dataclass(frozen=True)
class Notice:
    """A message for the user, such as the layers that a penalty skips."""

    type: ClassVar[str] = "notice"
    step: Step
    message: Text


@dataclass(frozen=True)
class Finished:
    """The run ended. reason: `completed`, `stopped`, `diverged` or `failed`."""

    type: ClassVar[str] = "finished"
    step: Step
    reason: Name
    message: Text


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
_SHAPES: Mapping[type[Event], TypeAdapter[Any]] = {cls: TypeAdapter(cls) for cls in get_args(Event)}
_FIELDS: Mapping[type[Event], tuple[list[str], list[str], frozenset[str]]] = {
    cls: (
        [field.name for field in fields(cls)],
        [field.name for field in fields(cls) if field.default is MISSING],
        frozenset(field.name for field in fields(cls) if field.type in (Number, Numbers)),
    )
    for cls in get_args(Event)
}
"""The names of all fields of an event, of those without a default, and of those that hold numbers."""
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def encode_number(value: Any) -> Any:
    """`value` as a JSON value: a non-finite float becomes a string, everything else stays."""
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
    """The event as JSON values, with its type."""
    return {"type": event.type} | {key: _encode_value(value) for key, value in asdict(event).items()}


def _decode_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: decode_number(number) for key, number in value.items()}
    return value


def decode_number(value: Any) -> Any:
    """Inverse of `encode_number`."""
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value


def decode(document: Any) -> Event:
    """Inverse of `encode`. Keys that are no fields of the event are ignored, such as the journal's number and time.

    Raises ValueError for a value that is no table, an unknown type, a missing field, or a field of another type or out
    of its bounds.
    """
    if not isinstance(document, Mapping):
        raise ValueError(f"expected an object, got {type(document).__name__}")
    cls = _TYPES.get(str(document.get("type")))
    if cls is None:
        raise ValueError(
            f"unknown event type {str(document.get('type'))[:MAX_NAME]!r}; expected one of {', '.join(_TYPES)}"
        )
    if cls is Evaluated:
        document = _with_fingerprints(document)
    names, required, numbers = _FIELDS[cls]
    missing = [name for name in required if name not in document]
    if missing:
        raise ValueError(f"event {cls.type!r} lacks {', '.join(missing)}")
    values = {name: document[name] for name in names if name in document}
    decoded = {k: _decode_value(decode_number(v)) if k in numbers else v for k, v in values.items()}
    event: Event = validated(_SHAPES[cls].validate_python, decoded)
    return event


def _with_fingerprints(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """An `evaluated` event of an older version, which has one fingerprint for all scores, in the present form."""
    scores, fingerprint = document.get("scores"), document.get("fingerprint")
    if "fingerprints" in document or fingerprint is None or not isinstance(scores, Mapping):
        return document
    return {**document, "fingerprints": dict.fromkeys(scores, fingerprint)}


def effective(events: Iterable[Event]) -> Iterator[Event]:
    """The events that still count.

    When a run resumes, events of earlier attempts with later steps no longer count; when it starts from the beginning,
    no earlier event does.
    """
    kept: list[Event] = []
    for event in events:
        if isinstance(event, Started):
            kept = [old for old in kept if event.resumed and _still_counts(old, event.step)]
        kept.append(event)
    return iter(kept)


def _still_counts(old: Event, resumed_step: int) -> bool:
    is_end = isinstance(old, Finished) or (isinstance(old, Evaluated) and old.purpose == "best_rescored")
    return old.step <= resumed_step and not is_end


def describe(event: Event) -> str:
    """The event as one line for a log or a terminal."""
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
    """A receiver of events besides the run directory: a terminal, a server, a test."""

    def emit(self, event: Event) -> None:
        """Handle one event. Must not block for long. A sink that raises receives no further event."""


class RunControl(Protocol):
    """The only way to influence a run from outside."""

    def should_stop(self) -> bool:
        """Called after every step and within scores; True makes the run save, emit `Finished` and return."""


class StopRequested(Exception):
    """Leaves a computation that can be repeated, because `RunControl.should_stop` asked for it."""
