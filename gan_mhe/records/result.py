"""What came of a run, as a value and as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gan_mhe.records.events import (
    decode_number,
    encode_number,
)


@dataclass(frozen=True)
class Score:
    """Scores of the generator at one step."""

    step: int
    scores: Mapping[str, float]


@dataclass(frozen=True)
class RunResult:
    """What came of a run; `result.json` holds the same.

    status: `completed`, `stopped` or `diverged`. final: the last generator. best: the generator with the best of
    `evaluations` scores, scored again with fresh latents so that the choice does not flatter it. real: the data.
    fingerprints: of each score by name, empty without a protocol; two scores of one name compare only if theirs are
    equal. peak_memory_bytes: the most memory of the device that the run, or one of its processes, has held (see
    `training.memory.peak_bytes`); None in results of versions that did not say. curve: every evaluation in order, the
    last included, rescoring not; all latents but the rescoring's are the same. Empty where a version did not say.
    """

    status: str
    step: int
    variant: str
    seed: int
    digest: str
    protocol: str | None
    fingerprints: Mapping[str, str]
    metric: str
    final: Score | None
    best: Score | None
    evaluations: int
    real: Mapping[str, float] | None
    train_seconds: float
    message: str = ""
    peak_memory_bytes: int | None = None
    curve: tuple[Score, ...] = ()

    def document(self) -> dict[str, Any]:
        """JSON values; non-finite scores by name."""
        document: dict[str, Any] = encode(asdict(self))
        return document

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "RunResult":
        """Inverse of `document`."""
        values = decode(document)
        scores = {key: Score(**values[key]) if values[key] else None for key in ("final", "best")}
        values |= {"fingerprints": read_fingerprints(values), "curve": read_curve(values)}
        values.pop("fingerprint", None)
        return cls(**values | scores)


def read_fingerprints(result: Mapping[str, Any]) -> dict[str, str]:
    """The fingerprint of each score by name. Older results have one fingerprint, which counts for each of their scores.

    result: the document of a run's result, or of a checkpoint's score. Raises TypeError if a fingerprint is not text.
    """
    fingerprints, shared = result.get("fingerprints"), result.get("fingerprint")
    if fingerprints is None:
        scored = [result, result.get("final"), result.get("best"), *result.get("curve", ())]
        names = [name for score in scored if score for name in score.get("scores", ())]
        fingerprints = {} if shared is None else dict.fromkeys(names, shared)
    wrong = [value for value in fingerprints.values() if not isinstance(value, str)]
    if wrong:
        raise TypeError(f"fingerprints: expected text, got {wrong[0]!r}")
    return dict(fingerprints)


def read_curve(values: Mapping[str, Any]) -> tuple[Score, ...]:
    """Empty rather than torn, where a version that kept no curve has made a part of the evaluations."""
    points = tuple(Score(**point) for point in values.get("curve", ()))
    return points if len(points) == values["evaluations"] else ()


def encode(value: Any) -> Any:
    """JSON values: tuples as lists, non-finite numbers by name."""
    if isinstance(value, Mapping):
        return {key: encode(entry) for key, entry in value.items()}
    if isinstance(value, tuple):
        return [encode(entry) for entry in value]
    return encode_number(value)


def decode(value: Any) -> Any:
    """Numbers from what `encode` made of them; lists stay lists."""
    if isinstance(value, Mapping):
        return {key: decode(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [decode(entry) for entry in value]
    return decode_number(value)
