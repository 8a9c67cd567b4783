"""Request bodies for jobs and experiments: unknown fields, implicit conversions and non-finite numbers are errors."""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from gan_mhe import text
from server.queue.admission import Source
from server.settings import MOST_PRIORITY

MAX_BATCH = 500
_MAX_DEPTH = 12
_MAX_VALUES = 2000  # a complete run configuration has fewer than a hundred
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


def _limited(value: Any) -> Any:
    count = _count(value)
    if count > _MAX_VALUES:
        raise ValueError(f"expected at most {_MAX_VALUES} values in total, got {count}")
    return value


def _count(value: Any) -> int:
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return 1 + sum(map(_count, inner))


def _rfc3339(value: Any) -> Any:
    """Requires text with a date: pydantic would accept a number as seconds since 1970."""
    if not isinstance(value, str) or not _DATE.match(value):
        raise ValueError(f"expected an RFC 3339 time, such as 2026-11-21T05:26:39Z, got {value!r}")
    return value


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("expected a time between the years 1 and 9999 in UTC") from None


Json = Annotated[Any, AfterValidator(_json)]
Key = Annotated[str, Field(max_length=200), AfterValidator(_json)]
JsonObject = Annotated[dict[str, Json], AfterValidator(_json), AfterValidator(_limited)]
Moment = Annotated[AwareDatetime, BeforeValidator(_rfc3339), AfterValidator(_in_utc), Field(strict=False)]
Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_json), AfterValidator(text.name)]
LabelKey = Annotated[str, Field(pattern=r"^[a-z0-9._/-]{1,63}$")]
LabelValue = Annotated[str, Field(max_length=200), AfterValidator(_json), AfterValidator(text.without_controls)]
Labels = Annotated[dict[LabelKey, LabelValue], Field(max_length=64, json_schema_extra={"additionalProperties": False})]
Priority = Annotated[int, Field(ge=-MOST_PRIORITY, le=MOST_PRIORITY)]
Overrides = Annotated[dict[Key, Json], AfterValidator(_limited), Field(max_length=200)]


class Body(BaseModel):
    """A request body without unknown fields, implicit conversions or non-finite numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)


class _Base(Body):
    """The source of a configuration."""

    preset: str | None = None
    """Name of a preset (`GET /v1/presets`) as the base configuration. Give either this or `config`."""
    config: JsonObject | None = None
    """A complete run configuration (`GET /v1/schemas/config`) as the base. Give either this or `preset`."""
    overrides: Overrides = {}
    """Dotted configuration keys and their values, with precedence over everything else: `{"training.steps": 300}`."""
    labels: Labels = {}
    """Labels, for filtering with `GET /v1/jobs?label=key:value`. Values are one line, as names are, or empty."""
    priority: Priority = 0
    """Value from -10 to 10; each level counts as ten minutes of waiting."""
    wall_seconds_limit: Annotated[float, Field(gt=0)] | None = None
    """Limit of the running time over all attempts, in seconds; beyond it the job fails with reason `timeout`."""

    @model_validator(mode="after")
    def _one_base(self) -> Self:
        if (self.preset is None) == (self.config is None):
            raise ValueError(
                f"expected either preset or config, got {'both' if self.config is not None else 'neither'}"
            )
        return self

    def source(self) -> Source:
        """The source of the configuration."""
        return Source(preset=self.preset, config=self.config, overrides=self.overrides)


class SubmitJob(_Base):
    """A job, from a preset or a complete configuration."""

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
    """Display name: one line without control characters; spaces around it are removed."""
    variant: str | None = None
    """Name of a variant (`GET /v1/variants`); replaces the constraints of the base configuration."""
    seed: int | None = None
    """Training seed."""
    start_deadline: Moment | None = None
    """RFC 3339 time; a job that has not started by then is cancelled with reason `deadline_before_start`."""

    def source(self) -> Source:
        """The source of the configuration."""
        return replace(super().source(), variant=self.variant, seed=self.seed)

    def deadline_ms(self) -> int | None:
        """`start_deadline` in milliseconds."""
        return None if self.start_deadline is None else int(self.start_deadline.timestamp() * 1000)


class SubmitExperiment(_Base):
    """An experiment: one job for each combination of the matrix."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "preset": "digits_cnn",
                    "matrix": {"variant": ["none", "spectral_norm", "mhe_sn"], "seed": [0, 1, 2]},
                    "name": "what MHE adds to spectral normalization",
                }
            ]
        }
    )

    matrix: Annotated[dict[Key, Annotated[list[Json], Field(min_length=1)]], Field(min_length=1, max_length=20)]
    """Configuration keys with the values to combine; may include `variant` and `seed`."""
    name: Name | None = None
    """Display name: one line without control characters; spaces around it are removed."""


class ChangeJob(Body):
    """Changes of a job. Omitted fields stay unchanged; `labels` replaces all labels."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "kept", "labels": {"paper": "mhe"}}]})

    name: Name | None = None
    """Display name, as in a submission; null removes it."""
    labels: Labels = {}
    """All labels."""
    priority: Priority = 0
    """Value from -10 to 10; each level counts as ten minutes of waiting."""


class StopJob(Body):
    """How to stop a job."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"mode": "graceful"}]})

    mode: Literal["graceful", "now"] = "graceful"
    """`graceful` saves a checkpoint first; `now` does not."""


class RetryJob(Body):
    """Where a retried job begins."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"from": "checkpoint"}]})

    begin: Annotated[Literal["checkpoint", "start"], Field(alias="from")] = "checkpoint"
    """`checkpoint` continues from the newest intact checkpoint; `start` sets all checkpoints aside and trains from
    step 0, or from the fork's checkpoint."""


class ForkJob(Body):
    """A new job that starts from a checkpoint of another job."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"step": 200, "overrides": {"training.steps": 600}}]})

    checkpoint_id: str | None = None
    """Checkpoint to start from. If neither this nor `step` is given, the newest one."""
    step: Annotated[int, Field(ge=0)] | None = None
    """Step of the checkpoint to start from."""
    overrides: Overrides = {}
    """Dotted configuration keys and their values, which override the job's configuration."""
    name: Name | None = None
    """Display name: one line without control characters; spaces around it are removed."""
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
    """The action."""
    ids: Annotated[list[Annotated[str, Field(max_length=64)]], Field(min_length=1, max_length=MAX_BATCH)]
    """Ids of the jobs."""
    mode: Literal["graceful", "now"] = "graceful"
    """How to stop, for `cancel` and `pause`."""
