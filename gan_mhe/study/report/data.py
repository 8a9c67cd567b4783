"""The data of a report, read from the run directories of a study. Tables, text and figures use only this."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gan_mhe.comparison.compare import compare, read_score
from gan_mhe.comparison.inference import ALPHA, mean
from gan_mhe.comparison.results import Comparison, Row, RunScore
from gan_mhe.config.constraints import PenaltyTiming
from gan_mhe.config.run_config import RunConfig
from gan_mhe.errors import RunDirError
from gan_mhe.evaluation.metrics import METRICS
from gan_mhe.records.events import Evaluated, Event, Finished, Scalars, effective
from gan_mhe.records.run_dir import RunDir
from gan_mhe.study.definition import Arm, Study, StudyRun, run_directory, runs
from gan_mhe.study.report.environment import read_environment

COMPLETED = "completed"


@dataclass(frozen=True)
class Point:
    """A number at one generator step."""

    step: int
    value: float


@dataclass(frozen=True)
class Spread:
    """Mean, smallest and largest number of `n` seeds at one step; NaN if one of them is not finite."""

    step: int
    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class RunReport:
    """One run of the study, as far as it exists."""

    arm: str
    """Name of the arm."""
    seed: int
    """Training seed."""
    status: str
    """That of the result (`completed`, `stopped`, `diverged`), or `failed` by the last event, or `unfinished`.

    `missing` without a run, unless its start failed; `unreadable`; `foreign` if its configuration is not the study's,
    in which case nothing else of it is used.
    """
    run_dir: str
    """Run directory, relative to the study's folder."""
    digest: str
    """Digest of the configuration."""
    message: str = ""
    """Why the run is not completed."""
    score: RunScore | None = None
    """Scores of the run."""
    train_seconds: float | None = None
    """Seconds of training without evaluation."""
    curve: tuple[Point, ...] = ()
    """Score at every evaluation."""
    energy: tuple[Point, ...] = ()
    """Hyperspherical energy of the discriminator, mean over layers."""
    angle: tuple[Point, ...] = ()
    """Smallest angle between two filters in radians, mean over layers."""
    ratios: Mapping[str, Sequence[Point]] = field(default_factory=dict)
    """Norm of the weighted gradient of each penalty over that of the loss."""
    strengths: Mapping[str, Sequence[Point]] = field(default_factory=dict)
    """Factor that multiplied each penalty."""
    grid: Path | None = None
    """Last sample grid."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    """Versions and device; empty if unknown."""

    @property
    def final(self) -> Mapping[str, float] | None:
        """Scores of the last generator; None if the run has none."""
        return self.score.final if self.score else None


@dataclass(frozen=True)
class ArmReport:
    """The runs of one arm."""

    arm: Arm
    config: RunConfig
    """Configuration of the first seed."""
    runs: tuple[RunReport, ...]

    def finals(self, metric: str) -> dict[int, float]:
        """Final scores by training seed."""
        return {run.seed: run.final[metric] for run in self.runs if run.final is not None}

    def curve(self) -> list[Spread]:
        """Score by generator step."""
        return across_seeds(run.curve for run in self.runs)

    def energy(self) -> list[Spread]:
        """Hyperspherical energy by generator step."""
        return across_seeds(run.energy for run in self.runs)

    def angle(self) -> list[Spread]:
        """Smallest angle between two filters in radians, by generator step."""
        return across_seeds(run.angle for run in self.runs)

    def ratios(self) -> dict[str, float]:
        """Gradient ratio by penalty: mean over the reports of a run, then over seeds."""
        return _mean_by_name([means(run.ratios) for run in self.runs])

    def strengths(self) -> dict[str, float]:
        """Factor by penalty: mean over the reports of a run, then over seeds."""
        return _mean_by_name([means(run.strengths) for run in self.runs])

    def position(self) -> float:
        """The arm's strength. If it is a target ratio that its penalty did not reach, the ratio that it did reach."""
        strength, reached = self.arm.strength or 0.0, list(self.ratios().values())
        sections = [getattr(self.config.constraints, name) for name in type(self.config.constraints).model_fields]
        held = [section for section in sections if isinstance(section, PenaltyTiming) and section.ratio]
        if len(held) != 1 or len(reached) != 1 or held[0].ratio is None or held[0].ratio.target != strength:
            return strength
        ratio = reached[0] / held[0].interval  # a penalty that is computed less often acts more strongly when it is
        return strength if math.isnan(ratio) or held[0].ratio.is_reached(ratio) else float(f"{ratio:.3g}")

    def ratio_curves(self) -> dict[str, list[Spread]]:
        """Gradient ratio by penalty and generator step."""
        names = dict.fromkeys(name for run in self.runs for name in run.ratios)
        return {name: across_seeds(run.ratios.get(name, ()) for run in self.runs) for name in names}

    def train_seconds(self) -> float | None:
        """Seconds of training: mean over the completed runs."""
        times = [r.train_seconds for r in self.runs if r.status == COMPLETED and r.train_seconds is not None]
        return mean(times) if times else None


@dataclass(frozen=True)
class StudyReport:
    """A study and the runs of it that exist. The comparisons are None if no run has a final score."""

    study: Study
    arms: tuple[ArmReport, ...]
    by_steps: Comparison | None
    """Comparison after equal steps."""
    by_time: Comparison | None
    """Comparison after equal training time; None without training times."""

    def runs(self) -> list[RunReport]:
        """All runs, arm by arm."""
        return [run for arm in self.arms for run in arm.runs]

    def environments(self) -> list[Mapping[str, Any]]:
        """The known environments of the runs."""
        return [run.environment for run in self.runs() if run.environment]

    def ranking_metric(self) -> str:
        """The metric by which the runs choose their best checkpoints; the study's if no run is scored."""
        return next((run.score.metric for run in self.runs() if run.final and run.score), self.study.metric)

    def reference(self) -> ArmReport:
        """The arm to which differences are computed."""
        return self.arm(self.study.reference)

    def arm(self, name: str) -> ArmReport:
        """The arm called `name`."""
        return next(arm for arm in self.arms if arm.arm.name == name)

    def rows(self) -> list[Row]:
        """The rows of the comparison after equal steps, best first; empty if no run has a final score."""
        return list(self.by_steps.rows) if self.by_steps else []

    def compared(self) -> list[Row]:
        """The rows with a finite difference to the reference, best first."""
        rows = [row for row in self.rows() if row.difference is not None and math.isfinite(row.difference)]
        rows.sort(key=lambda row: float(row.difference or 0), reverse=METRICS[self.study.metric].higher_is_better)
        return rows

    def seed_differences(self, name: str) -> dict[int, float]:
        """Final score of an arm minus the reference's, by training seed, for the seeds that both have."""
        base, own = self.reference().finals(self.study.metric), self.arm(name).finals(self.study.metric)
        return {seed: value - base[seed] for seed, value in own.items() if seed in base}


def is_significant(row: Row) -> bool:
    """Whether the difference to the reference is significant after Holm's correction for the number of arms."""
    return row.p_holm is not None and row.p_holm < ALPHA


def across_seeds(series: Iterable[Sequence[Point]]) -> list[Spread]:
    """The series of several seeds as one, by step."""
    by_step: dict[int, list[float]] = {}
    for points in series:
        for point in points:
            by_step.setdefault(point.step, []).append(point.value)
    return [_spread(step, by_step[step]) for step in sorted(by_step)]


def _spread(step: int, values: Sequence[float]) -> Spread:
    center = mean(values)
    low, high = (math.nan, math.nan) if math.isnan(center) else (min(values), max(values))
    return Spread(step, center, low, high, len(values))


def means(by_name: Mapping[str, Sequence[Point]]) -> dict[str, float]:
    """Mean of each series over its points."""
    return {name: mean([point.value for point in points]) for name, points in by_name.items()}


def _mean_by_name(tables: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for table in tables for name in table)
    return {name: mean([table[name] for table in tables if name in table]) for name in names}


def read_study(study: Study, root: Path) -> StudyReport:
    """Read the runs of a study from its folder `root`.

    Raises ProtocolMismatchError if they were scored under different protocols. A run that cannot be read is reported
    with this status and is no error.
    """
    planned = runs(study)
    found = [_read_run(run, root, study.metric) for run in planned]
    arms = tuple(
        ArmReport(
            arm=arm,
            config=next(run.config for run in planned if run.arm == arm),
            runs=tuple(run for run in found if run.arm == arm.name),
        )
        for arm in study.arms
    )
    scores = [run.score for arm in arms for run in arm.runs if run.score is not None]
    return StudyReport(study, arms, *_compare(study, scores))


def _compare(study: Study, scores: Sequence[RunScore]) -> tuple[Comparison | None, Comparison | None]:
    if not any(score.final for score in scores):
        return None, None
    reference = study.reference if any(score.variant == study.reference for score in scores) else None
    by_steps = compare(scores, metric=study.metric, reference=reference)
    if not any(score.final and score.train_seconds > 0 for score in scores):
        return by_steps, None
    return by_steps, compare(scores, metric=study.metric, reference=reference, view="wall_time")


def _read_run(planned: StudyRun, root: Path, metric: str) -> RunReport:
    run = RunDir(run_directory(root, planned.arm.name, planned.seed))
    empty = RunReport(
        arm=planned.arm.name,
        seed=planned.seed,
        status="missing",
        run_dir=run.root.relative_to(root).as_posix(),
        digest=planned.config.digest(),
    )
    try:
        if not run.exists():
            status, message = _status(None, list(effective(run.read_events())))
            return empty if status == "unfinished" else replace(empty, status=status, message=message)
        return _filled_in(empty, run, metric)
    except RunDirError as error:
        return replace(empty, status="unreadable", message=str(error).replace(f"{root}/", ""))


def _filled_in(empty: RunReport, run: RunDir, metric: str) -> RunReport:
    if run.read_config().digest() != empty.digest:
        return replace(empty, status="foreign", message="its configuration is not the study's")
    result = run.read_result()
    events = list(effective(run.read_events()))
    status, message = _status(result, events)
    evaluated = [event for event in events if isinstance(event, Evaluated) and event.purpose != "best_rescored"]
    score = replace(read_score(run), job=empty.run_dir, variant=empty.arm)
    return replace(
        empty,
        status=status,
        message=message,
        score=replace(score, curve=tuple((event.step, event.scores) for event in evaluated)),
        train_seconds=result.get("train_seconds") if result else None,
        curve=tuple(Point(event.step, event.scores[metric]) for event in evaluated if metric in event.scores),
        energy=tuple(_mean_over_layers(events, "energy")),
        angle=tuple(_mean_over_layers(events, "angle")),
        ratios=_by_penalty(events, "gradient_ratio"),
        strengths=_by_penalty(events, "strength"),
        grid=max(run.samples.glob("step_*.png"), default=None),
        environment=read_environment(run),
    )


def _status(result: Mapping[str, Any] | None, events: Sequence[Event]) -> tuple[str, str]:
    if result:
        return result["status"], result.get("message", "")
    last = next((event for event in reversed(events) if isinstance(event, Finished)), None)
    return (last.reason, last.message) if last and last.reason != COMPLETED else ("unfinished", "")


def _mean_over_layers(events: Iterable[Event], kind: str) -> Iterable[Point]:
    for event in events:
        if isinstance(event, Scalars):
            layers = [value for name, value in event.values.items() if name.startswith(f"{kind}/")]
            if layers:
                yield Point(event.step, mean(layers))


def _by_penalty(events: Iterable[Event], kind: str) -> dict[str, list[Point]]:
    """The series of one kind of scalar, by penalty; those of single layers are left out."""
    found: dict[str, list[Point]] = {}
    for event in events:
        if isinstance(event, Scalars):
            for name, value in event.values.items():
                prefix, _, penalty = name.partition("/")
                if prefix == kind and "/" not in penalty:
                    found.setdefault(penalty, []).append(Point(event.step, value))
    return found
