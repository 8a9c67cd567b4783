"""Finished runs as one table: by variant, over training seeds, under one protocol.

The unit of a result is the training seed, and what seeds allow to be said is in `statistics.py`; with one seed there is
no interval, and the table says so. Against a reference variant, differences are taken seed by seed: runs of one seed
see the same data in the same order, so what they share cancels. `compare_table.py` shows it. Needs no torch.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite, isnan, nan
from pathlib import Path
from typing import Any, Literal, get_args

from gan_mhe.config import RunConfig
from gan_mhe.errors import ConfigError, ProtocolMismatchError, RunDirError
from gan_mhe.events import decode_number
from gan_mhe.metrics import METRICS, PRIMARY_METRIC
from gan_mhe.rundir import RunDir
from gan_mhe.statistics import (
    bootstrap_interval,
    holm,
    mean,
    minimum_detectable_effect,
    paired_t,
    rank_stability,
    sign_flip,
    std,
    t_interval,
)
from gan_mhe.suggest import nearest

View = Literal["steps", "wall_time"]


@dataclass(frozen=True)
class RunScore:
    """What comparison needs to know of one run. Scores are None where the run did not get that far.

    variant: what rows are grouped by; a caller may put a label of its own there (`dataclasses.replace`). recipe and
    budget: digests of the configuration without its seed, and without what a variant owns. evaluations: how many
    generators `best` was chosen from. steps and train_seconds: how long it trained, evaluation not included; 0 where
    that is not known. curve: step and scores of every evaluation, in order; empty for results that did not tell.
    """

    job: str
    variant: str
    seed: int
    recipe: str
    budget: str
    status: str
    protocol: str | None
    fingerprint: str | None
    evaluations: int
    final: Mapping[str, float] | None
    best: Mapping[str, float] | None
    real: Mapping[str, float] | None
    steps: int = 0
    train_seconds: float = 0.0
    curve: tuple[tuple[int, Mapping[str, float]], ...] = ()


@dataclass(frozen=True)
class Row:
    """One variant. `n` counts the seeds with a final score; `failed` those without, which no mean can include.

    ci_low, ci_high: 95 % t-interval of the mean; boot_low, boot_high: the bootstrap's. peeks: the most evaluations that
    a best of this row was chosen from. mean_rank, first_share: see `Standing`, over the seeds that all scored variants
    have; None where those are fewer than two, and where only one variant is scored.

    difference: mean of this variant's final score minus the reference's with the same seed, and its 95 % interval, over
    the `pairs` of runs whose seed both have a final score of. p_value: of the paired t-test; p_permutation: of all
    flips of signs; p_holm: p_value adjusted by Holm for the tests of the table. detectable: the true difference that
    such a test, unadjusted, finds four times in five, given these pairs and their standard deviation. All of these are
    None in the reference's own row, and in all rows when there is no reference.
    """

    variant: str
    n: int
    mean: float | None
    std: float | None
    ci_low: float | None
    ci_high: float | None
    best_mean: float | None
    protocol: str
    jobs: tuple[str, ...]
    failed: int
    boot_low: float | None = None
    boot_high: float | None = None
    peeks: int = 0
    mean_rank: float | None = None
    first_share: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    pairs: int | None = None
    p_value: float | None = None
    p_holm: float | None = None
    p_permutation: float | None = None
    detectable: float | None = None


@dataclass(frozen=True)
class Comparison:
    """The table, the real data's own score under the same protocol, and how many scores each best was chosen from.

    evaluations: the largest number of them; a row's own is its `peeks`. same_budget: whether all runs share data,
    networks, optimiser, steps and scoring, so that only variants differ. reference: the variant that the differences
    are to, None when none was named. view: by what the runs are equal. budget_seconds: the training time that runs are
    compared at in the view `wall_time`, else None. ranked_seeds: how many seeds ranks are taken over, 0 without ranks.
    """

    metric: str
    protocol: str
    fingerprint: str
    rows: tuple[Row, ...]
    real: float | None
    evaluations: int
    same_budget: bool
    reference: str | None = None
    view: View = "steps"
    budget_seconds: float | None = None
    ranked_seeds: int = 0


def find_runs(paths: Iterable[Path]) -> list[RunDir]:
    """The run directories at or below the given paths. RunDirError when a path holds none."""
    found: list[RunDir] = []
    for path in paths:
        below = sorted(config.parent for config in path.rglob("config.json")) if path.is_dir() else []
        if not below:
            raise RunDirError(f"{path} is not a run directory and holds none")
        found += [RunDir(directory) for directory in below]
    return found


def read_score(run: RunDir) -> RunScore:
    """One run's score, from its result, or from its configuration where it has none yet."""
    return score_of(str(run.root), run.read_config(), run.read_result())


def score_of(job: str, config: RunConfig, result: Mapping[str, Any] | None) -> RunScore:
    """The score of the run that messages call `job`, from the document of its result, None where it has none yet."""
    result = result or {}
    final, best, real = result.get("final"), result.get("best"), result.get("real")
    return RunScore(
        job=job,
        variant=config.variant,
        seed=config.seed,
        recipe=config.recipe_digest(),
        budget=config.budget_digest(),
        status=result.get("status", "unfinished"),
        protocol=result.get("protocol"),
        fingerprint=result.get("fingerprint"),
        evaluations=result.get("evaluations", 0),
        final=_numbers(final["scores"]) if final else None,
        best=_numbers(best["scores"]) if best else None,
        real=_numbers(real) if real else None,
        steps=result.get("step", 0),
        train_seconds=result.get("train_seconds") or 0.0,
        curve=tuple((point["step"], _numbers(point["scores"])) for point in result.get("curve", ())),
    )


def _numbers(scores: Mapping[str, Any]) -> dict[str, float]:
    return {name: decode_number(value) for name, value in scores.items()}


def compare(
    scores: Sequence[RunScore], *, metric: str = PRIMARY_METRIC, reference: str | None = None, view: View = "steps"
) -> Comparison:
    """The comparison of `scores` by `metric`, best variant first, with differences to the variant `reference`.

    view: `steps` takes each run's final generator. `wall_time` takes generators of equal training time: the budget is
    the time of the scored run that trained the shortest, and each run is represented by the last generator that was
    scored within it, taking the run's steps to be equally long; a run that had scored none by then counts as without
    score. Best generators were chosen from whole runs and have no place in that view.

    Raises ConfigError for an unknown metric or view, a reference that is not among the variants, a variant that has a
    seed twice or several recipes, or the view `wall_time` of runs that do not tell how long they trained;
    ProtocolMismatchError when the runs were scored under different protocols; RunDirError when none was scored.
    """
    if metric not in METRICS:
        raise ConfigError(f"unknown metric {metric!r}{nearest(metric, METRICS)}")
    if view not in get_args(View):
        raise ConfigError(f"unknown view {view!r}; expected one of {', '.join(get_args(View))}")
    scored = [score for score in scores if score.final is not None]
    if not scored:
        raise RunDirError(f"none of the {len(scores)} runs has a final score yet")
    protocol, fingerprint = _one_protocol(scored)
    budget_seconds = _shortest(scored) if view == "wall_time" else None
    shown = scores if budget_seconds is None else [_within(score, budget_seconds) for score in scores]
    runs = {variant: _of_variant(shown, variant) for variant in _variants(shown)}
    rows, ranked_seeds = _with_ranks([_row(variant, runs[variant], metric, protocol) for variant in runs], runs, metric)
    if reference is not None:
        rows = _with_differences(rows, runs, metric, reference)
    real = next((score.real[metric] for score in scored if score.real and metric in score.real), None)
    return Comparison(
        metric=metric,
        protocol=protocol,
        fingerprint=fingerprint,
        rows=tuple(sorted(rows, key=lambda row: _rank(row, metric))),
        real=real,
        evaluations=max(score.evaluations for score in scored),
        same_budget=len({score.budget for score in scores}) == 1,
        reference=reference,
        view=view,
        budget_seconds=budget_seconds,
        ranked_seeds=ranked_seeds,
    )


def _shortest(scored: Sequence[RunScore]) -> float:
    """The training time that all of these runs have had, of those that tell it. ConfigError when none does."""
    seconds = [score.train_seconds for score in scored if score.train_seconds > 0]
    if not seconds:
        raise ConfigError(f"view 'wall_time' needs train_seconds in the results; none of the {len(scored)} has it")
    return min(seconds)


def _within(score: RunScore, seconds: float) -> RunScore:
    """The run as it stood after so many seconds of training."""
    if score.final is None or score.train_seconds <= 0:
        return replace(score, final=None, best=None)
    reached = score.steps * (seconds / score.train_seconds)
    points = [*score.curve, (score.steps, score.final)]
    shown = [scores for step, scores in points if step <= reached]
    return replace(score, final=shown[-1] if shown else None, best=None)


def _one_protocol(scored: Sequence[RunScore]) -> tuple[str, str]:
    by_fingerprint = {score.fingerprint: score for score in scored}
    if len(by_fingerprint) > 1:
        examples = "; ".join(
            f"{score.job}: {score.protocol} ({str(fingerprint)[:12]})" for fingerprint, score in by_fingerprint.items()
        )
        raise ProtocolMismatchError(
            f"the runs were scored under {len(by_fingerprint)} protocols, whose numbers do not compare: {examples}"
        )
    first = scored[0]
    return str(first.protocol), str(first.fingerprint)


def _variants(scores: Sequence[RunScore]) -> list[str]:
    return list(dict.fromkeys(score.variant for score in scores))


def _of_variant(scores: Sequence[RunScore], variant: str) -> list[RunScore]:
    runs = [score for score in scores if score.variant == variant]
    seeds = [run.seed for run in runs]
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if twice:
        raise ConfigError(
            f"variant {variant!r} has seed {twice[0]} in several runs; a seed counts once: "
            + ", ".join(run.job for run in runs if run.seed == twice[0])
        )
    by_recipe = {run.recipe: run.job for run in runs}
    if len(by_recipe) > 1:
        raise ConfigError(
            f"variant {variant!r} has runs of {len(by_recipe)} configurations, whose seeds have no common mean: "
            + ", ".join(by_recipe.values())
        )
    return runs


def _row(variant: str, runs: Sequence[RunScore], metric: str, protocol: str) -> Row:
    finals = list(_finals(runs, metric).values())
    bests = [run.best[metric] for run in runs if run.best is not None]
    low, high = t_interval(finals)
    boot_low, boot_high = bootstrap_interval(finals)
    return Row(
        variant=variant,
        n=len(finals),
        mean=mean(finals) if finals else None,
        std=std(finals) if len(finals) > 1 else None,
        ci_low=low,
        ci_high=high,
        best_mean=mean(bests) if bests else None,
        protocol=protocol,
        jobs=tuple(run.job for run in runs),
        failed=len(runs) - len(finals),
        boot_low=boot_low,
        boot_high=boot_high,
        peeks=max((run.evaluations for run in runs if run.best is not None), default=0),
    )


def _with_ranks(rows: Sequence[Row], runs: Mapping[str, Sequence[RunScore]], metric: str) -> tuple[list[Row], int]:
    """The rows with their ranks over the seeds that all scored variants have, and how many those are."""
    finals = {variant: found for variant in runs if (found := _finals(runs[variant], metric))}
    common = sorted(set.intersection(*(set(found) for found in finals.values()))) if finals else []
    scores = {
        # A variant that broke down on a seed that others lack has broken down.
        variant: [found[seed] if all(map(isfinite, found.values())) else nan for seed in common]
        for variant, found in finals.items()
    }
    standings = rank_stability(scores, higher_is_better=METRICS[metric].higher_is_better)
    ranked = [replace(row, **standings[row.variant]._asdict()) if row.variant in standings else row for row in rows]
    return ranked, len(common) if standings else 0


def _with_differences(
    rows: Sequence[Row], runs: Mapping[str, Sequence[RunScore]], metric: str, reference: str
) -> list[Row]:
    """The rows with their differences to `reference`, paired by seed. ConfigError when it is not among `runs`."""
    if reference not in runs:
        raise ConfigError(f"reference {reference!r} is not among the compared variants{nearest(reference, runs)}")
    base = _finals(runs[reference], metric)
    found = [
        row if row.variant == reference else _with_difference(row, runs[row.variant], metric, base) for row in rows
    ]
    adjusted = holm([row.p_value for row in found])
    return [replace(row, p_holm=p_holm) for row, p_holm in zip(found, adjusted, strict=True)]


def _with_difference(row: Row, runs: Sequence[RunScore], metric: str, base: Mapping[int, float]) -> Row:
    differences = [final - base[seed] for seed, final in _finals(runs, metric).items() if seed in base]
    low, high = t_interval(differences)
    pairs = len(differences)
    return replace(
        row,
        difference=mean(differences) if differences else None,
        difference_low=low,
        difference_high=high,
        pairs=pairs,
        p_value=paired_t(differences),
        p_permutation=sign_flip(differences),
        detectable=minimum_detectable_effect(std(differences), pairs) if pairs > 1 else None,
    )


def _finals(runs: Sequence[RunScore], metric: str) -> dict[int, float]:
    """Final scores by training seed."""
    return {run.seed: run.final[metric] for run in runs if run.final is not None}


def _rank(row: Row, metric: str) -> float:
    if row.mean is None or isnan(row.mean):
        return float("inf")
    return -row.mean if METRICS[metric].higher_is_better else row.mean
