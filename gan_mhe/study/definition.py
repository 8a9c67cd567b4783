"""A study: arms x training seeds on one configuration, to answer one question. Needs no torch.

Arms may differ in what a variant owns, its constraints and its loss, and in nothing else: a difference between two of
them is then theirs, and not that of the data, the networks, the optimiser, the steps or the scoring.
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
from gan_mhe.config.names import PRIMARY_METRIC
from gan_mhe.config.run_config import RunConfig
from gan_mhe.config.sections import NonNegative, Positive, Section
from gan_mhe.errors import ConfigError, RunDirError, nearest
from gan_mhe.evaluation.metrics import METRICS
from gan_mhe.files import canonical_json, write_json
from gan_mhe.records.run_dir import RunDir
from gan_mhe.variants import VARIANTS

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")]
Seed = Annotated[int, Field(ge=0, lt=2**53)]

_FILE = "study.json"
_REPORT = "report"  # the folder that `gan_mhe.study.report` replaces
_TAKEN = frozenset({"variant", "seed"})  # an arm's and the study's own fields, not overrides


class Arm(Section):
    """One of the things compared: a variant with overrides, over every seed."""

    name: Name
    """What tables and folders call it."""
    variant: str
    """Named variant (`gan-mhe variants`)."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Overrides, as tables or with dotted keys."""
    family: str | None = None
    """Arms of one family with strengths are one curve of score against strength."""
    strength: NonNegative | None = None
    """Where on its family's curve it is, such as the coefficient of its penalty."""

    @field_validator("name")
    @classmethod
    def _free_name(cls, name: str) -> str:
        if name in (_FILE, _REPORT):
            raise ValueError(f"{name!r} is taken in a study's folder; expected another name")
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
            raise ValueError(f"family is missing; expected the curve on which strength {self.strength:g} is a point")
        return self


class Study(Section):
    """Arms x seeds, and how they are compared."""

    name: Name
    """What its folder is called."""
    question: str
    """What it is to answer; heads the report."""
    config: str
    """Name of a preset, or path of a TOML file, relative to the study's own."""
    seeds: tuple[Seed, ...]
    """Training seeds, in the order in which they are taken."""
    arms: tuple[Arm, ...]
    """What is compared."""
    reference: str
    """Name of the arm that differences are to."""
    metric: str = PRIMARY_METRIC
    """Score that is compared."""
    wall_time_minutes: Positive | None = None
    """How long one command may take; unset is as long as it needs."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Overrides of every arm, beneath the arm's own."""
    base: dict[str, Any] = Field(default_factory=dict)
    """The document that `config` names. `load` fills it in; a study's file may not."""

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
            raise ValueError(f"reference: {self.reference!r} is no arm{nearest(self.reference, names)}")
        return self


@dataclass(frozen=True)
class Cell:
    """One run of a study."""

    arm: Arm
    seed: int
    config: RunConfig

    @property
    def title(self) -> str:
        """What people call it."""
        return f"{self.arm.name} seed {self.seed}"


def load(path: Path) -> Study:
    """The study of a TOML file, checked whole.

    ConfigError names the field, what was expected and what came: for a file that cannot be read, an unknown key or
    value, an arm without a valid configuration, one that differs from the first in more than variants may, and two
    that are the same.
    """
    document = documents.load_document(path)
    if "base" in document:
        raise ConfigError("base: unknown key; expected `config` with the name or path of the base configuration")
    try:
        study = Study.model_validate(document)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(problem) for problem in error.errors())) from error
    try:
        base = documents.find_document(study.config, path.parent)
    except ConfigError as error:
        raise ConfigError(f"config: {error}") from error
    study = study.model_copy(update={"base": base})
    _check_fair(study)
    return study


def cells(study: Study) -> list[Cell]:
    """Its runs, seed by seed: all arms of a seed before the next seed."""
    return [Cell(arm, seed, _config(study, arm, seed)) for seed in study.seeds for arm in study.arms]


def cell_directory(root: Path, arm: str, seed: int) -> Path:
    """Where a study in `root` puts a run."""
    return root / arm / f"seed_{seed}"


def scores(study: Study, root: Path) -> list[RunScore]:
    """The scores of its runs in `root`, with the arm's name for the variant. Runs of anything else are left out."""
    found = []
    for cell in cells(study):
        run = RunDir(cell_directory(root, cell.arm.name, cell.seed))
        with suppress(RunDirError):  # not begun, or damaged
            if run.read_config().digest() == cell.config.digest():
                found.append(replace(read_score(run), variant=cell.arm.name))
    return found


def overrides(study: Study, arm: Arm) -> dict[str, Any]:
    """What an arm lays over the base besides its variant: the study's overrides, and its own on top, as tables."""
    return merge(unflatten(study.set), unflatten(arm.set))


def keep(study: Study, root: Path) -> None:
    """Write the study into its folder.

    ConfigError when the folder holds a study of the same cells with other configurations: finished runs would not be
    those that the study tells of. Arms and seeds may come and go, and so may what does not change a run.
    """
    changes = _changes(study, kept(root)) if (root / _FILE).exists() else []
    if changes:
        raise ConfigError(
            f"{root} holds this study with other configurations; expected the same, or another --out: "
            + "; ".join(changes)
        )
    write_json(root / _FILE, study.model_dump(mode="json"))


def kept(root: Path) -> Study:
    """The study that a folder holds. RunDirError when there is none or it is damaged."""
    try:
        return Study.model_validate_json((root / _FILE).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise RunDirError(f"{root} holds no study: it has no {_FILE}") from None
    except (OSError, ValueError) as error:
        raise RunDirError(f"{root / _FILE} cannot be read: {error}") from error


def _changes(study: Study, before: Study) -> list[str]:
    """How the arms that both have differ: each change once, with the arms it is in."""
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
    """ConfigError names the arm."""
    laid_over = overrides(study, arm)
    try:
        for key in _TAKEN & laid_over.keys():
            raise ConfigError(
                f"set.{key}: unknown override; expected an arm's `variant` and a study's `seeds` beside it"
            )
        return compose.compose(study.base, variant=arm.variant, seed=seed, overrides=laid_over)
    except ConfigError as error:
        raise ConfigError(f"arm {arm.name!r}: {error}") from error


def _check_fair(study: Study) -> None:
    """ConfigError where arms differ in more than variants may, or not at all."""
    first = study.arms[0]
    base = _config(study, first, study.seeds[0])
    recipes: dict[bytes, str] = {}
    for arm in study.arms:
        config = _config(study, arm, study.seeds[0])
        if config.digest("comparable") != base.digest("comparable"):
            raise ConfigError(
                f"arm {arm.name!r} differs from arm {first.name!r} in more than variant, loss and constraints: "
                + "; ".join(_budget_differences(first.name, base, arm.name, config))
            )
        recipe = canonical_json({k: v for k, v in config.identity().items() if k not in _TAKEN})
        if recipe in recipes:
            raise ConfigError(f"arm {arm.name!r} is the same configuration as arm {recipes[recipe]!r}")
        recipes[recipe] = arm.name


def _budget_differences(first: str, base: RunConfig, name: str, config: RunConfig) -> list[str]:
    was, now = base.identity(), config.identity()
    return [
        f"{key} is {was[key]!r} in {first!r} and {now[key]!r} in {name!r}"
        for key in sorted(was.keys() & now.keys())
        if was[key] != now[key] and key.split(".")[0] not in (*_TAKEN, "loss", "constraints")
    ]


def _once(values: Sequence[Any]) -> None:
    if not values:
        raise ValueError("expected at least one")
    twice = next((value for place, value in enumerate(values) if value in values[:place]), None)
    if twice is not None:
        raise ValueError(f"expected each once, but {twice!r} comes again")


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
