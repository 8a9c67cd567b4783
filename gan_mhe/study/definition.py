"""A study: arms x training seeds on one configuration, to answer one question. Loads no torch.

Arms may differ only in variant, constraints and loss. A difference between their scores is then due to these, and not
to the data, the networks, the optimizer, the number of steps or the scoring.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from gan_mhe.comparison.compare import read_score
from gan_mhe.comparison.results import RunScore
from gan_mhe.config import compose, documents
from gan_mhe.config.documents import merge, unflatten
from gan_mhe.config.names import DEFAULT_TASK, TASKS
from gan_mhe.config.run_config import RunConfig
from gan_mhe.config.sections import NonNegative, Positive, Section
from gan_mhe.errors import ConfigError, RunDirError, nearest
from gan_mhe.evaluation.metrics import METRICS
from gan_mhe.files import canonical_json, write_json
from gan_mhe.records.run_dir import RunDir
from gan_mhe.streams import reason_of
from gan_mhe.variants import VARIANTS

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")]
Seed = Annotated[int, Field(ge=0, lt=2**53)]

_FILE = "study.json"
_REPORT = "report"  # the folder that `gan_mhe.study.report` writes
_NOT_OVERRIDES = frozenset({"variant", "seed"})  # fields of arm and study


class Arm(Section):
    """One of the compared configurations: a variant with overrides."""

    name: Name
    """Name in tables and of the folder of its runs."""
    variant: str
    """Named variant (`gan-mhe variants`)."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Overrides, as tables or with dotted keys."""
    family: str | None = None
    """Name of a curve of score against strength, of which this arm is a point."""
    strength: NonNegative | None = None
    """Position on that curve, such as the coefficient of a penalty."""

    @field_validator("name")
    @classmethod
    def _free_name(cls, name: str) -> str:
        if name in (_FILE, _REPORT):
            raise ValueError(f"{name!r} is reserved in the folder of a study; expected another name")
        return name

    @field_validator("variant")
    @classmethod
    def _known_variant(cls, variant: str) -> str:
        if variant not in VARIANTS:
            raise ValueError(f"unknown variant {variant!r}{nearest(variant, VARIANTS)}")
        return variant

    @model_validator(mode="after")
    def _strength_has_a_family(self) -> Self:
        if self.strength is not None and self.family is None:
            raise ValueError(f"family is missing; expected the curve of which strength {self.strength:g} is a point")
        return self


class Study(Section):
    """Arms x seeds, and how they are compared."""

    name: Name
    """Name of the study and of its folder."""
    question: str
    """The question that it answers; printed at the top of the report."""
    config: str
    """Name of a preset, or path of a TOML file relative to the study's own."""
    seeds: tuple[Seed, ...]
    """Training seeds, in the order in which they are run."""
    arms: tuple[Arm, ...]
    """The compared configurations."""
    reference: str
    """Name of the arm to which differences are computed."""
    metric: str = TASKS[DEFAULT_TASK].metric
    """Metric that is compared; the one of the configuration's task if unset."""
    wall_time_minutes: Positive | None = None
    """Time limit of one command; no limit if unset."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Overrides of every arm; an arm's own win over them."""
    base: dict[str, Any] = Field(default_factory=dict)
    """The document that `config` names. `load` fills it in; a study's file must not have it."""

    @field_validator("seeds")
    @classmethod
    def _seeds_once(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        _once(seeds)
        return seeds

    @field_validator("arms")
    @classmethod
    def _names_once(cls, arms: tuple[Arm, ...]) -> tuple[Arm, ...]:
        _once([arm.name for arm in arms])
        return arms

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, metric: str) -> str:
        if metric not in METRICS:
            raise ValueError(f"unknown metric {metric!r}{nearest(metric, METRICS)}")
        return metric

    @model_validator(mode="after")
    def _reference_is_an_arm(self) -> Self:
        names = [arm.name for arm in self.arms]
        if self.reference not in names:
            raise ValueError(f"reference: unknown arm {self.reference!r}{nearest(self.reference, names)}")
        return self


@dataclass(frozen=True)
class StudyRun:
    """One run of a study: an arm with a seed."""

    arm: Arm
    seed: int
    config: RunConfig

    @property
    def title(self) -> str:
        """Name of the run in messages."""
        return f"{self.arm.name} seed {self.seed}"


def load(path: Path, *, at_service: bool = False) -> Study:
    """The study of a TOML file, with all its configurations checked.

    at_service: whether a service runs it, to which a path is the operator's name of a folder or file. Otherwise a path
    is relative to the file that has it.

    Raises ConfigError for a file that cannot be read, an unknown key or value, an arm without a valid configuration, an
    arm that differs from the first in more than variant, constraints and loss, and two equal arms. The message names
    the field, the expected and the given value.
    """
    document = documents.load_document(path)
    if "base" in document:
        raise ConfigError("base: unknown key; expected `config` with the name or path of the base configuration")
    try:
        study = Study.model_validate(document)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(problem) for problem in error.errors())) from error
    try:
        base = (documents.find_document if at_service else compose.find_local)(study.config, path.parent)
    except ConfigError as error:
        raise ConfigError(f"config: {error}") from error
    study = study.model_copy(update={"base": base})
    if not at_service:
        study = _anchored(study, path.parent)
    _check_fair(study)
    if "metric" not in study.model_fields_set:
        config = _config(study, study.arms[0], study.seeds[0])
        study = study.model_copy(update={"metric": TASKS[config.task].metric})
    return study


def _anchored(study: Study, folder: Path) -> Study:
    """The study with the paths of its overrides absolute."""
    arms = [arm.model_copy(update={"set": compose.anchored(unflatten(arm.set), folder)}) for arm in study.arms]
    return study.model_copy(
        update={"set": compose.anchored(unflatten(study.set), folder), "arms": tuple(arms)},
    )


def runs(study: Study) -> list[StudyRun]:
    """The runs of a study, seed by seed: all arms of a seed before the next seed."""
    return [StudyRun(arm, seed, _config(study, arm, seed)) for seed in study.seeds for arm in study.arms]


def run_directory(root: Path, arm: str, seed: int) -> Path:
    """The run directory of an arm and a seed in a study's folder `root`."""
    return root / arm / f"seed_{seed}"


def scores(study: Study, root: Path) -> list[RunScore]:
    """The scores of the study's runs in `root`, with the arm's name as variant. Other runs there are left out."""
    found = []
    for run in runs(study):
        directory = RunDir(run_directory(root, run.arm.name, run.seed))
        with suppress(RunDirError):  # not started, or damaged
            if directory.read_config().digest() == run.config.digest():
                found.append(replace(read_score(directory), variant=run.arm.name))
    return found


def overrides(study: Study, arm: Arm) -> dict[str, Any]:
    """The overrides of an arm as tables: the study's, updated with its own."""
    return merge(unflatten(study.set), unflatten(arm.set))


def save(study: Study, root: Path) -> None:
    """Write the study into its folder.

    ConfigError if the folder holds a study whose arms of the same names have other configurations: its finished runs
    would not belong to this study. Arms and seeds may be added and removed, and keys that do not affect what a run
    computes may change.
    """
    changes = _changes(study, load_saved(root)) if (root / _FILE).exists() else []
    if changes:
        raise ConfigError(
            f"{root} holds this study with other configurations; expected the same, or another --out: "
            + "; ".join(changes)
        )
    write_json(root / _FILE, study.model_dump(mode="json"))


def load_saved(root: Path) -> Study:
    """The study that a folder holds. RunDirError if there is none or it is damaged."""
    try:
        return Study.model_validate_json((root / _FILE).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise RunDirError(f"{root} holds no study: it has no {_FILE}") from None
    except ValidationError as error:
        problems = "; ".join(_explain(problem) for problem in error.errors())
        raise RunDirError(f"{root / _FILE} cannot be read: {problems}") from error
    except (OSError, ValueError) as error:
        raise RunDirError(f"{root / _FILE} cannot be read: {reason_of(error)}") from error


def _changes(study: Study, before: Study) -> list[str]:
    """The differences of the arms that both studies have: each difference once, with the arms that have it."""
    earlier = {arm.name: arm for arm in before.arms}
    arms_of: dict[str, list[str]] = {}
    for arm in study.arms:
        if arm.name in earlier:
            for change in _differences(_config(before, earlier[arm.name], 0), _config(study, arm, 0)):
                arms_of.setdefault(change, []).append(arm.name)
    return [f"{change} (arm {', '.join(arms)})" for change, arms in arms_of.items()]


def _differences(old: RunConfig, new: RunConfig) -> list[str]:
    was, now = old.identity(), new.identity()
    return [
        f"{key} was {was.get(key)!r}, is {now.get(key)!r}"
        for key in sorted(was.keys() | now.keys())
        if was.get(key) != now.get(key)
    ]


def _config(study: Study, arm: Arm, seed: int) -> RunConfig:
    """The configuration of one run. ConfigError names the arm."""
    own = overrides(study, arm)
    try:
        for key in _NOT_OVERRIDES & own.keys():
            raise ConfigError(f"set.{key}: not an override; expected the arm's `variant` or the study's `seeds`")
        return compose.compose(study.base, variant=arm.variant, seed=seed, overrides=own)
    except ConfigError as error:
        raise ConfigError(f"arm {arm.name!r}: {error}") from error


def _check_fair(study: Study) -> None:
    """ConfigError if arms differ in more than variant, constraints and loss, or not at all."""
    first = study.arms[0]
    base = _config(study, first, study.seeds[0])
    names: dict[bytes, str] = {}
    for arm in study.arms:
        config = _config(study, arm, study.seeds[0])
        if config.digest("comparable") != base.digest("comparable"):
            raise ConfigError(
                f"arm {arm.name!r} differs from arm {first.name!r} in more than variant, loss and constraints: "
                + "; ".join(_unfair_differences(first.name, base, arm.name, config))
            )
        content = canonical_json({k: v for k, v in config.identity().items() if k not in _NOT_OVERRIDES})
        if content in names:
            raise ConfigError(f"arm {arm.name!r} has the same configuration as arm {names[content]!r}")
        names[content] = arm.name


def _unfair_differences(first: str, base: RunConfig, name: str, config: RunConfig) -> list[str]:
    was, now = base.identity(), config.identity()
    return [
        f"{key} is {was[key]!r} in {first!r} and {now[key]!r} in {name!r}"
        for key in sorted(was.keys() & now.keys())
        if was[key] != now[key] and key.split(".")[0] not in (*_NOT_OVERRIDES, "loss", "constraints")
    ]


def _once(values: Sequence[Any]) -> None:
    if not values:
        raise ValueError("expected at least one")
    repeated = next((value for index, value in enumerate(values) if value in values[:index]), None)
    if repeated is not None:
        raise ValueError(f"expected each once, got {repeated!r} several times")


def _explain(problem: Mapping[str, Any]) -> str:
    path = [str(part) for part in problem["loc"]]
    key = ".".join(path)
    if problem["type"] == "extra_forbidden":
        known = Arm.model_fields if path[0] == "arms" else Study.model_fields.keys() - {"base"}
        return f"{key}: unknown key{nearest(path[-1], known)}"
    message = str(problem["msg"])
    if problem["type"] == "value_error":
        message = message.removeprefix("Value error, ")
        return f"{key}: {message}" if key else message
    came = "" if problem["type"] == "missing" else f", but it is {problem['input']!r}"
    return f"{key}: {message[0].lower()}{message[1:]}{came}"
