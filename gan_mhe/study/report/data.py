"""What the run directories of a study say, read once. Every table, sentence and figure is made from this alone."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gan_mhe.comparison.compare import compare, read_score
from gan_mhe.comparison.inference import ALPHA, mean
from gan_mhe.comparison.results import Comparison, Row, RunScore
from gan_mhe.config.run_config import RunConfig
from gan_mhe.errors import RunDirError
from gan_mhe.evaluation.metrics import METRICS
from gan_mhe.records.events import Evaluated, Event, Finished, Scalars, effective
from gan_mhe.records.run_dir import RunDir
from gan_mhe.study.definition import Arm, Cell, Study, cell_directory, cells
from gan_mhe.study.report.environment import read_environment

FINISHED = "completed"


@dataclass(frozen=True)
class Point:
    """One number at one generator step."""

    step: int
    value: float


@dataclass(frozen=True)
class Spread:
    """Mean, smallest and largest of the `n` seeds that have a number at this step; NaN where one is not finite."""

    step: int
    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class CellReport:
    """One run, or what is there of it.

    status: the result's (`completed`, `stopped`, `diverged`); `failed` by its last event; `unfinished` when it has
    neither; `missing` without a configuration; `unreadable`; `foreign` when it was made with another configuration
    than the study's, and then nothing else of it is taken. energy, angle: means over layers. ratios, strengths: of the
    gradients, and what the penalty was multiplied by, by penalty. environment: what the run says it was made with.
    """

    arm: str
    seed: int
    status: str
    place: str
    digest: str
    message: str = ""
    score: RunScore | None = None
    train_seconds: float | None = None
    curve: tuple[Point, ...] = ()
    energy: tuple[Point, ...] = ()
    angle: tuple[Point, ...] = ()
    ratios: Mapping[str, Sequence[Point]] = field(default_factory=dict)
    strengths: Mapping[str, Sequence[Point]] = field(default_factory=dict)
    grid: Path | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def final(self) -> Mapping[str, float] | None:
        """Scores of the last generator, None where the run has none."""
        return self.score.final if self.score else None


@dataclass(frozen=True)
class ArmReport:
    """The runs of one arm, and the configuration that they share."""

    arm: Arm
    config: RunConfig
    cells: tuple[CellReport, ...]

    def finals(self, metric: str) -> dict[int, float]:
        """Final scores by training seed."""
        return {cell.seed: cell.final[metric] for cell in self.cells if cell.final is not None}

    def curve(self) -> list[Spread]:
        """Score against generator step."""
        return across_seeds(cell.curve for cell in self.cells)

    def energy(self) -> list[Spread]:
        """Hyperspherical energy against generator step."""
        return across_seeds(cell.energy for cell in self.cells)

    def angle(self) -> list[Spread]:
        """Smallest angle between two filters, in radians, against generator step."""
        return across_seeds(cell.angle for cell in self.cells)

    def ratios(self) -> dict[str, float]:
        """Mean gradient ratio over reports, then over seeds, by penalty."""
        return _mean_by_name([means(cell.ratios) for cell in self.cells])

    def strengths(self) -> dict[str, float]:
        """Mean effective factor over reports, then over seeds, by penalty."""
        return _mean_by_name([means(cell.strengths) for cell in self.cells])

    def pulls(self) -> dict[str, list[Spread]]:
        """Gradient ratio against generator step, by penalty."""
        names = dict.fromkeys(name for cell in self.cells for name in cell.ratios)
        return {name: across_seeds(cell.ratios.get(name, ()) for cell in self.cells) for name in names}

    def train_seconds(self) -> float | None:
        """Mean over the completed runs."""
        times = [c.train_seconds for c in self.cells if c.status == FINISHED and c.train_seconds is not None]
        return mean(times) if times else None


@dataclass(frozen=True)
class StudyReport:
    """A study and all that was found of it. The comparisons are None while no run has a final score."""

    study: Study
    arms: tuple[ArmReport, ...]
    by_steps: Comparison | None
    by_time: Comparison | None

    def cells(self) -> list[CellReport]:
        """All runs, arm by arm."""
        return [cell for arm in self.arms for cell in arm.cells]

    def environments(self) -> list[Mapping[str, Any]]:
        """What the runs say that they were made with, of those that say it."""
        return [cell.environment for cell in self.cells() if cell.environment]

    def reference(self) -> ArmReport:
        """The arm that differences are to."""
        return self.arm(self.study.reference)

    def arm(self, name: str) -> ArmReport:
        """The arm called `name`."""
        return next(arm for arm in self.arms if arm.arm.name == name)

    def rows(self) -> list[Row]:
        """The comparison at equal steps, best first; empty while no run has a final score."""
        return list(self.by_steps.rows) if self.by_steps else []

    def compared(self) -> list[Row]:
        """The rows with a finite difference to the reference, the best difference first."""
        rows = [row for row in self.rows() if row.difference is not None and math.isfinite(row.difference)]
        rows.sort(key=lambda row: float(row.difference or 0), reverse=METRICS[self.study.metric].higher_is_better)
        return rows

    def seed_differences(self, name: str) -> dict[int, float]:
        """Final score of an arm minus the reference's, by training seed, where both have one."""
        base, own = self.reference().finals(self.study.metric), self.arm(name).finals(self.study.metric)
        return {seed: value - base[seed] for seed, value in own.items() if seed in base}


def is_told(row: Row) -> bool:
    """Whether a difference can be told from seed noise: by its p-value, corrected for the number of arms."""
    return row.p_holm is not None and row.p_holm < ALPHA


def across_seeds(series: Iterable[Sequence[Point]]) -> list[Spread]:
    """The series of several seeds as one, step by step."""
    by_step: dict[int, list[float]] = {}
    for points in series:
        for point in points:
            by_step.setdefault(point.step, []).append(point.value)
    return [_spread(step, by_step[step]) for step in sorted(by_step)]


def _spread(step: int, values: Sequence[float]) -> Spread:
    centre = mean(values)
    low, high = (math.nan, math.nan) if math.isnan(centre) else (min(values), max(values))
    return Spread(step, centre, low, high, len(values))


def means(by_name: Mapping[str, Sequence[Point]]) -> dict[str, float]:
    """Mean over the points of each series."""
    return {name: mean([point.value for point in points]) for name, points in by_name.items()}


def _mean_by_name(tables: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for table in tables for name in table)
    return {name: mean([table[name] for table in tables if name in table]) for name in names}


def read_study(study: Study, root: Path) -> StudyReport:
    """Everything below `root` that belongs to `study`.

    Raises ProtocolMismatchError when its runs were scored under different protocols. A run that cannot be read is a
    cell of that status, not an error.
    """
    planned = cells(study)
    found = [_read_cell(cell, root, study.metric) for cell in planned]
    arms = tuple(
        ArmReport(
            arm=arm,
            config=next(cell.config for cell in planned if cell.arm == arm),
            cells=tuple(cell for cell in found if cell.arm == arm.name),
        )
        for arm in study.arms
    )
    scores = [cell.score for arm in arms for cell in arm.cells if cell.score is not None]
    return StudyReport(study, arms, *_compare(study, scores))


def _compare(study: Study, scores: Sequence[RunScore]) -> tuple[Comparison | None, Comparison | None]:
    if not any(score.final for score in scores):
        return None, None
    reference = study.reference if any(score.variant == study.reference for score in scores) else None
    by_steps = compare(scores, metric=study.metric, reference=reference)
    if not any(score.final and score.train_seconds > 0 for score in scores):
        return by_steps, None
    return by_steps, compare(scores, metric=study.metric, reference=reference, view="wall_time")


def _read_cell(cell: Cell, root: Path, metric: str) -> CellReport:
    run = RunDir(cell_directory(root, cell.arm.name, cell.seed))
    empty = CellReport(
        arm=cell.arm.name,
        seed=cell.seed,
        status="missing",
        place=run.root.relative_to(root).as_posix(),
        digest=cell.config.digest(),
    )
    if not run.exists():
        return empty
    try:
        return _read_run(run, empty, metric)
    except RunDirError as error:
        return replace(empty, status="unreadable", message=str(error).replace(f"{root}/", ""))


def _read_run(run: RunDir, empty: CellReport, metric: str) -> CellReport:
    if run.read_config().digest() != empty.digest:
        return replace(empty, status="foreign", message="its configuration is not the study's")
    result = run.read_result()
    events = list(effective(run.read_events()))
    status, message = _status(result, events)
    evaluated = [event for event in events if isinstance(event, Evaluated) and event.purpose != "best_rescored"]
    score = replace(read_score(run), job=empty.place, variant=empty.arm)
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
    return (last.reason, last.message) if last and last.reason != FINISHED else ("unfinished", "")


def _mean_over_layers(events: Iterable[Event], kind: str) -> Iterable[Point]:
    for event in events:
        if isinstance(event, Scalars):
            layers = [value for name, value in event.values.items() if name.startswith(f"{kind}/")]
            if layers:
                yield Point(event.step, mean(layers))


def _by_penalty(events: Iterable[Event], kind: str) -> dict[str, list[Point]]:
    """Names with a layer behind the penalty's are left out."""
    found: dict[str, list[Point]] = {}
    for event in events:
        if isinstance(event, Scalars):
            for name, value in event.values.items():
                prefix, _, penalty = name.partition("/")
                if prefix == kind and "/" not in penalty:
                    found.setdefault(penalty, []).append(Point(event.step, value))
    return found
