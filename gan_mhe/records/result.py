"""The result of a run, as a value and as JSON. Loads no torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from gan_mhe.config.run_config import RunConfig
from gan_mhe.records.data_summary import DataSummary
from gan_mhe.records.events import decode_number, encode_number
from gan_mhe.records.fields import Name, Names, Scores, Seconds, Sha256, Step, Text, validated


@dataclass(frozen=True)
class Score:
    """One evaluation."""

    step: Step
    """Generator step at which the state was scored."""
    scores: Scores
    """Score by metric (`gan_mhe.evaluation.metrics.METRICS`)."""


@dataclass(frozen=True)
class RunResult:
    """The result of a run; `result.json` is its document."""

    status: Name
    """`completed`, `stopped` or `diverged`."""
    step: Step
    """Number of steps made, or the step at which the run diverged."""
    variant: Name
    """Name of the variant."""
    seed: Step
    """Training seed."""
    digest: Sha256
    """Digest of the configuration (`RunConfig.digest`)."""
    protocol: Name | None
    """Name of the evaluation protocol; None if the run is not scored."""
    fingerprints: Names
    """Fingerprint of each score by its name; empty if the run is not scored."""
    metric: Name
    """Metric that ranks the run and that `best` was chosen by."""
    final: Score | None
    """Scores at the last step; None unless the run is completed and scored."""
    best: Score | None
    """Scores of the best checkpoint, measured again with fresh samples so that choosing it does not bias them.

    The same as `final` if there was only one evaluation; None if the best checkpoint is missing or damaged.
    """
    evaluations: Step
    """Number of evaluations that `best` was chosen from."""
    real: Scores | None
    """Scores of the real data, by metric; None unless the run is completed and scored."""
    train_seconds: Seconds
    """Seconds of training, evaluation not counted."""
    message: Text = ""
    """Why the run diverged; empty otherwise."""
    peak_memory_bytes: Step | None = None
    """Most device memory held by any process of the run; None in results of older versions.

    See `gan_mhe.training.host_memory.peak_bytes`.
    """
    curve: tuple[Score, ...] = ()
    """All evaluations in order, with the last one but without the rescoring of `best`; all use the same latents.

    Empty in results of older versions.
    """
    data: DataSummary | None = None
    """What the data set holds that the run was trained on; None in results of older versions."""
    weights_sha256: Name | None = None
    """SHA-256 of the scorer's weights file; None if the run is not scored, and in results of older versions."""

    def document(self) -> dict[str, Any]:
        """The result as JSON values; non-finite numbers as strings."""
        document: dict[str, Any] = encode(asdict(self))
        return document

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "RunResult":
        """Inverse of `document`."""
        values = decode(document)
        scores = {key: Score(**values[key]) if values[key] else None for key in ("final", "best")}
        values |= {"fingerprints": read_fingerprints(values), "curve": read_curve(values)}
        values["data"] = DataSummary.from_document(document["data"]) if document.get("data") else None
        values.pop("fingerprint", None)
        return cls(**values | scores)


def check_types(document: Mapping[str, Any]) -> None:
    """Raise ValueError that names the fields of a stored result whose values are not of their types.

    Fields that it lacks, as results of older versions do, have no type.
    """
    problems = []
    for name, value in decode(document).items():
        try:
            validated(_validator(name).validate_python, value)
        except ValueError as error:
            problems.append(f"{name}: {str(error).removeprefix('document: ')}")
    if problems:
        raise ValueError("; ".join(problems))


@cache
def _validator(field: str) -> TypeAdapter[Any]:
    return TypeAdapter(get_type_hints(RunResult, include_extras=True).get(field, Any))


def result_of(config: RunConfig, document: Mapping[str, Any]) -> RunResult:
    """The stored result of a run of `config`. ValueError if the document is no result, or states another run."""
    try:
        result = RunResult.from_document(document)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"it is not the result of a run: {error!r}") from error
    wrong = contradictions(config, document)
    if wrong:
        raise ValueError(f"the result is not of its configuration: {'; '.join(wrong)}")
    return result


def contradictions(config: RunConfig, result: Mapping[str, Any]) -> list[str]:
    """What a stored result states about its configuration that `config` is not; keys that it lacks state nothing."""
    stated = {
        "seed": config.seed,
        "variant": config.variant,
        "digest": config.digest(),
        **({"step": config.training.steps} if result.get("status") == "completed" else {}),
    }
    return [
        f"{key} is {result[key]!r} in the result, {value!r} in the configuration"
        for key, value in stated.items()
        if key in result and result[key] != value
    ]


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
    """The decoded curve of a stored result or state.

    Empty if it is incomplete because a version that recorded no curve made some of the evaluations.
    """
    points = tuple(Score(**point) for point in values.get("curve", ()))
    return points if len(points) == values["evaluations"] else ()


def encode(value: Any) -> Any:
    """`value` as JSON values: tuples as lists, non-finite numbers as strings."""
    if isinstance(value, Mapping):
        return {key: encode(entry) for key, entry in value.items()}
    if isinstance(value, tuple):
        return [encode(entry) for entry in value]
    return encode_number(value)


def decode(value: Any) -> Any:
    """Inverse of `encode`, except that lists stay lists."""
    if isinstance(value, Mapping):
        return {key: decode(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [decode(entry) for entry in value]
    return decode_number(value)
