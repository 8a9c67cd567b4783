"""Jobs and experiments as they are asked for. Bodies are closed, strict and finite: nothing is guessed or dropped."""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from server.queue.admission import Source

MAX_BATCH = 500
_MAX_DEPTH = 12
_MAX_VALUES = 2000  # a whole run configuration has less than a hundred
_MAX_INTEGER = 2**53
_DATE = re.compile(r"\d{4}-\d\d-\d\d")


def _json(value: Any, depth: int = 0) -> Any:
    if depth > _MAX_DEPTH:
        raise ValueError(f"expected at most {_MAX_DEPTH} levels of nesting")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _json(key)
            _json(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _json(inner, depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"expected finite numbers, got {value}")
    elif isinstance(value, int) and abs(value) >= _MAX_INTEGER:
        raise ValueError("expected integers between -2^53 and 2^53")
    elif isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError("expected text without lone surrogates")
    return value


def _few(value: Any) -> Any:
    count = _count(value)
    if count > _MAX_VALUES:
        raise ValueError(f"expected at most {_MAX_VALUES} values in all, got {count}")
    return value


def _count(value: Any) -> int:
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return 1 + sum(map(_count, inner))


def _rfc3339(value: Any) -> Any:
    """Text that is no mere number, which would be taken for seconds since 1970."""
    if not isinstance(value, str) or not _DATE.match(value):
        raise ValueError(f"expected a time in RFC 3339, such as 2026-11-21T05:26:39Z, got {value!r}")
    return value


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("expected a time within the years 1 to 9999 in UTC") from None


Json = Annotated[Any, AfterValidator(_json)]
Key = Annotated[str, Field(max_length=200), AfterValidator(_json)]
JsonObject = Annotated[dict[str, Json], AfterValidator(_json), AfterValidator(_few)]
Moment = Annotated[AwareDatetime, BeforeValidator(_rfc3339), AfterValidator(_in_utc), Field(strict=False)]
Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_json)]
LabelKey = Annotated[str, Field(pattern=r"^[a-z0-9._/-]{1,63}$")]
LabelValue = Annotated[str, Field(max_length=200), AfterValidator(_json)]
Labels = Annotated[dict[LabelKey, LabelValue], Field(max_length=64, json_schema_extra={"additionalProperties": False})]
Priority = Annotated[int, Field(ge=-10, le=10)]
Overrides = Annotated[dict[Key, Json], AfterValidator(_few), Field(max_length=200)]


class Body(BaseModel):
    """A request body: closed, strict, finite."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)


class _Base(Body):
    """Where a configuration comes from."""

    preset: str | None = None
    """One of `GET /v1/presets`, as the base. Either this or `config`."""
    config: JsonObject | None = None
    """A whole run configuration, as the base: `GET /v1/schemas/config`. Either this or `preset`."""
    overrides: Overrides = {}
    """Dotted configuration keys and their values, laid over all else: `{"training.steps": 300}`."""
    labels: Labels = {}
    """Keys and values of your own; `GET /v1/jobs?label=key:value` finds them."""
    priority: Priority = 0
    """Each level is worth ten minutes of waiting."""
    wall_seconds_limit: Annotated[float, Field(gt=0)] | None = None
    """Seconds of running, over all attempts, after which the job fails with reason `timeout`."""

    @model_validator(mode="after")
    def _one_base(self) -> Self:
        if (self.preset is None) == (self.config is None):
            raise ValueError(
                f"expected either preset or config, got {'both' if self.config is not None else 'neither'}"
            )
        return self

    def source(self) -> Source:
        """The part that makes the configuration."""
        return Source(preset=self.preset, config=self.config, overrides=self.overrides)


class SubmitJob(_Base):
    """A job: short for a person (`preset`) or exact for a program (`config`)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "preset": "digits_cnn",
                    "variant": "mhe_sn",
                    "seed": 0,
                    "overrides": {"training.steps": 300},
                    "name": "a first look",
                    "labels": {"paper": "mhe"},
                }
            ]
        }
    )

    name: Name | None = None
    """For people."""
    variant: str | None = None
    """One of `GET /v1/variants`; takes the place of the base's constraints."""
    seed: int | None = None
    """Training seed."""
    start_deadline: Moment | None = None
    """RFC 3339. A job that has not started by then is cancelled with reason `deadline_before_start`."""

    def source(self) -> Source:
        """The part that makes the configuration."""
        return replace(super().source(), variant=self.variant, seed=self.seed)

    def deadline_ms(self) -> int | None:
        """`start_deadline` in milliseconds."""
        return None if self.start_deadline is None else int(self.start_deadline.timestamp() * 1000)


class SubmitExperiment(_Base):
    """One job for every combination of the matrix."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "preset": "digits_cnn",
                    "matrix": {"variant": ["none", "spectral_norm", "mhe_sn"], "seed": [0, 1, 2]},
                    "name": "what MHE adds to spectral normalisation",
                }
            ]
        }
    )

    matrix: Annotated[dict[Key, Annotated[list[Json], Field(min_length=1)]], Field(min_length=1, max_length=20)]
    """Configuration keys, each with the values to try; `variant` and `seed` among them."""
    name: Name | None = None
    """For people."""


class ChangeJob(Body):
    """What may be changed of a job. Fields left out stay; `labels` replaces all of them."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "kept", "labels": {"paper": "mhe"}}]})

    name: Name | None = None
    """For people; null takes it away."""
    labels: Labels = {}
    """All labels."""
    priority: Priority = 0
    """Each level is worth ten minutes of waiting."""


class StopJob(Body):
    """How a job is to stop."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"mode": "graceful"}]})

    mode: Literal["graceful", "now"] = "graceful"
    """`graceful` saves a checkpoint first; `now` does not."""


class ForkJob(Body):
    """A new job from a checkpoint of another."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"step": 200, "overrides": {"training.steps": 600}}]})

    checkpoint_id: str | None = None
    """Checkpoint to start from. Without it and `step`, the newest."""
    step: Annotated[int, Field(ge=0)] | None = None
    """Step of the checkpoint to start from."""
    overrides: Overrides = {}
    """Dotted configuration keys and their values, laid over the job's configuration."""
    name: Name | None = None
    """For people."""
    labels: Labels = {}
    """Labels of the new job."""

    @model_validator(mode="after")
    def _one_checkpoint(self) -> Self:
        if self.checkpoint_id is not None and self.step is not None:
            raise ValueError("expected checkpoint_id or step, not both")
        return self


class BatchJobs(Body):
    """One action on many jobs, in one transaction."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"action": "cancel", "ids": ["job_06ekqz1v3m4s8x0c9d7f2h5b6w"]}]}
    )

    action: Literal["cancel", "pause", "resume", "retry", "delete"]
    """What to do."""
    ids: Annotated[list[Annotated[str, Field(max_length=64)]], Field(min_length=1, max_length=MAX_BATCH)]
    """The jobs."""
    mode: Literal["graceful", "now"] = "graceful"
    """How to stop, for `cancel` and `pause`."""
