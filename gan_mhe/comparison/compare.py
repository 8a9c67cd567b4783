"""Compares finished runs: one row per variant, over training seeds, under one protocol. Loads no torch.

The sample is the training seed (statistics in `inference.py`); with one seed there is no interval. Differences to a
reference variant are paired by seed: runs of one seed see the same data in the same order, so their common part
cancels. `table.py` prints a comparison.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from math import isfinite, isnan, nan
from pathlib import Path
from statistics import median
from typing import Any, get_args

from gan_mhe.comparison.grouping import check_inputs, find_reference, with_networks
from gan_mhe.comparison.inference import (
    Interval,
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
from gan_mhe.comparison.results import Comparison, Row, RunScore, View
from gan_mhe.config.names import TASKS
from gan_mhe.config.run_config import RunConfig
from gan_mhe.errors import ConfigError, ProtocolMismatchError, RunDirError, nearest
from gan_mhe.evaluation.metrics import METRICS
from gan_mhe.records.events import decode_number
from gan_mhe.records.inputs import Inputs
from gan_mhe.records.result import contradictions, read_fingerprints
from gan_mhe.records.run_dir import RunDir
from gan_mhe.streams import reason_of

_ENOUGH_TO_TELL = 2  # scores that two trainings do not have in common to the last bit; one alone may saturate


def find_runs(paths: Iterable[Path], notice: Callable[[str], None] = lambda text: None) -> list[RunDir]:
    """The run directories at or below the given paths, each once. RunDirError if there are none at a path.

    notice: receives a line about each directory that is left out because its `config.json` is another program's.
    """
    found: dict[Path, RunDir] = {}
    for path in paths:
        below = [run for run in _directories(path) if not _left_out(run, notice)]
        if not below:
            raise RunDirError(f"{path} is not a run directory and contains none")
        for run in below:
            found.setdefault(run.root.resolve(), run)
    return list(found.values())


def _directories(path: Path) -> list[RunDir]:
    """The directories with a `config.json`, at or below `path`."""
    try:
        return [RunDir(config.parent) for config in sorted(path.rglob("config.json"))] if path.is_dir() else []
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise RunDirError(f"{path} cannot be read: {reason_of(error)}") from error


def _left_out(run: RunDir, notice: Callable[[str], None]) -> bool:
    foreign = run.is_foreign()
    if foreign:
        notice(f"{run.config} is not the configuration of a run; left out")
    return foreign


def read_score(run: RunDir) -> RunScore:
    """The scores of one run, none without a result. RunDirError if the result is damaged or not this run's."""
    try:
        score = score_of(str(run.root), run.read_config(), run.read_result())
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunDirError(f"{run.result} is not the result of a run: {error!r}") from error
    return score if score.inputs != Inputs() else replace(score, inputs=run.read_inputs())


def score_of(job: str, config: RunConfig, result: Mapping[str, Any] | None) -> RunScore:
    """The scores of one run.

    job: its name in messages. result: the document of its RunResult, None if it has none. RunDirError if the result is
    of another configuration.
    """
    result = result or {}
    wrong = contradictions(config, result)
    if wrong:
        raise RunDirError(f"{job}: the result is not of its configuration: {'; '.join(wrong)}")
    final, best, real = result.get("final"), result.get("best"), result.get("real")
    return RunScore(
        job=job,
        variant=config.label,
        seed=config.seed,
        digest_without_seed=config.digest("without_seed"),
        comparable_digest=config.digest("comparable"),
        status=result.get("status", "unfinished"),
        protocol=result.get("protocol"),
        fingerprints=read_fingerprints(result),
        metric=result.get("metric") or TASKS[config.task].metric,
        evaluations=result.get("evaluations", 0),
        final=_numbers(final["scores"]) if final else None,
        best=_numbers(best["scores"]) if best else None,
        real=_numbers(real) if real else None,
        steps=result.get("step", 0),
        train_seconds=result.get("train_seconds") or 0.0,
        curve=tuple((point["step"], _numbers(point["scores"])) for point in result.get("curve", ())),
        networks=config.network_settings,
        inputs=Inputs.of_result(result),
    )


def _numbers(scores: Mapping[str, Any]) -> dict[str, float]:
    return {name: decode_number(value) for name, value in scores.items()}


def compare(
    scores: Sequence[RunScore], *, metric: str | None = None, reference: str | None = None, view: View = "steps"
) -> Comparison:
    """Compare `scores` by `metric`: one row per variant, best first, with differences to the variant `reference`.

    A row is one label of a configuration (`RunConfig.label`); network settings are added to it if the runs differ in
    them. A seed that diverged has no score, whether its run ended in a non-finite loss or in a score that is not
    finite, and its variant stands below those without such seeds. reference: a label, or a variant that has only one
    row.

    metric: None takes the metric that ranks the runs. view: `steps` compares the final generators. `wall_time` compares
    generators of equal training time, that of the variant that trains fastest. Every variant is taken at the step that
    it reaches in this time, given the median of its runs' seconds per step, because a single run's speed depends on
    what else its machine does. The score at that step is interpolated linearly between evaluations: a run without an
    evaluation before it has no score, and one whose score is not finite there has diverged. Best checkpoints are chosen
    from whole runs and are left out of this view.

    Raises ConfigError for an unknown metric or view, no metric where the runs rank by different ones, a reference that
    is not among the variants, a variant with several runs of one seed, with copies of one run under several seeds, or
    with several configurations, or the view `wall_time` of runs without training times; ProtocolMismatchError if the
    metric was measured under different protocols, or not in all runs, or if runs whose configurations name the same
    files have read different images or weights; RunDirError if no run was scored.
    """
    _check_names(metric, view)
    check_inputs(scores)
    scores = with_networks(scores)
    if reference is not None:
        reference = find_reference(reference, _variants(scores))
    scored = [score for score in scores if score.final is not None]
    if not scored:
        raise RunDirError(f"none of the {len(scores)} runs has a final score yet")
    metric = metric or _common_metric(scored)
    protocol, fingerprint = _one_protocol(scored, metric)
    counted = [_as_diverged(score, metric) for score in scores]
    runs = {variant: _of_variant(counted, variant) for variant in _variants(counted)}
    budget_seconds, steps = _equal_time(runs) if view == "wall_time" else (None, _last_steps(runs))
    if budget_seconds is not None:
        runs = {name: [_at_step(run, steps.get(name), metric) for run in own] for name, own in runs.items()}
    rows = [_row(variant, own, metric, protocol, steps.get(variant)) for variant, own in runs.items()]
    rows, ranked_seeds = _with_ranks(rows, runs, metric)
    if reference is not None:
        rows = _with_differences(rows, runs, metric, reference)
    return Comparison(
        metric=metric,
        protocol=protocol,
        fingerprint=fingerprint,
        rows=tuple(sorted(rows, key=lambda row: _rank(row, metric))),
        real=next((score.real[metric] for score in scored if score.real and metric in score.real), None),
        evaluations=max(score.evaluations for score in scored),
        same_budget=len({score.comparable_digest for score in scores}) == 1,
        reference=reference,
        view=view,
        budget_seconds=budget_seconds,
        ranked_seeds=ranked_seeds,
    )


def _check_names(metric: str | None, view: str) -> None:
    if metric is not None and metric not in METRICS:
        raise ConfigError(f"unknown metric {metric!r}{nearest(metric, METRICS)}")
    if view not in get_args(View):
        raise ConfigError(f"unknown view {view!r}; expected one of {', '.join(get_args(View))}")


def _common_metric(scored: Sequence[RunScore]) -> str:
    by_metric = {score.metric: score for score in scored}
    if len(by_metric) > 1:
        examples = "; ".join(f"{score.job}: {metric}" for metric, score in by_metric.items())
        raise ConfigError(f"metric: expected a name, because the runs rank by different metrics: {examples}")
    return scored[0].metric


def _last_steps(runs: Mapping[str, Sequence[RunScore]]) -> dict[str, float]:
    """The step of the final generators, by variant; variants without a known step are left out."""
    return {
        variant: float(max(run.steps for run in scored))
        for variant, own in runs.items()
        if (scored := _with_known_step(own))
    }


def _with_known_step(runs: Iterable[RunScore]) -> list[RunScore]:
    """The scored runs whose result states the step."""
    return [run for run in runs if run.final is not None and run.steps > 0]


def _equal_time(runs: Mapping[str, Sequence[RunScore]]) -> tuple[float, dict[str, float]]:
    """The training seconds of the variant that trains fastest, and the step that each variant reaches in them."""
    last, seconds_per_step = _last_steps(runs), {}
    for variant, own in runs.items():
        timed = [run.train_seconds / run.steps for run in _with_known_step(own) if run.train_seconds > 0]
        if timed:
            seconds_per_step[variant] = median(timed)
    if not seconds_per_step:
        count = sum(run.final is not None for own in runs.values() for run in own)
        raise ConfigError(f"view 'wall_time' needs train_seconds in the results; none of the {count} results has it")
    whole = {variant: seconds * last[variant] for variant, seconds in seconds_per_step.items()}
    budget = min(whole.values())
    reached = {
        # For the fastest, the quotient may round to less than its last step, its only scored one without a curve.
        variant: last[variant] if whole[variant] == budget else min(last[variant], budget / seconds)
        for variant, seconds in seconds_per_step.items()
    }
    return budget, reached


def _at_step(run: RunScore, step: float | None, metric: str) -> RunScore:
    """The run with its score at `step`; without score if `step` is None or the first evaluation was later."""
    score = None
    if step is not None and run.final is not None and run.steps > 0:
        points = {at: scores[metric] for at, scores in (*run.curve, (run.steps, run.final)) if metric in scores}
        score = _interpolated(sorted(points.items()), step)
    return _as_diverged(replace(run, final=None if score is None else {metric: score}, best=None), metric)


def _interpolated(points: Sequence[tuple[int, float]], step: float) -> float | None:
    """The value at `step`, interpolated linearly; None outside the range of the points."""
    before, after = [point for point in points if point[0] <= step], [point for point in points if point[0] >= step]
    if not before or not after:
        return None
    (left, low), (right, high) = before[-1], after[0]
    return low if left == right else low + (high - low) * (step - left) / (right - left)


def _one_protocol(scored: Sequence[RunScore], metric: str) -> tuple[str, str]:
    """Name of the protocol, and fingerprint of the metric under it."""
    without = [score.job for score in scored if score.final is not None and metric not in score.final]
    if without:
        raise ProtocolMismatchError(
            f"{', '.join(without)}: no {metric!r} in the final scores; expected a metric that all runs have"
        )
    by_fingerprint = {score.fingerprints.get(metric): score for score in scored}
    if len(by_fingerprint) > 1:
        examples = "; ".join(
            f"{score.job}: {score.protocol} ({str(fingerprint)[:12]})" for fingerprint, score in by_fingerprint.items()
        )
        raise ProtocolMismatchError(
            f"the runs were scored under {len(by_fingerprint)} protocols, whose scores do not compare: {examples}"
        )
    [fingerprint] = by_fingerprint
    return str(scored[0].protocol), str(fingerprint)


def _variants(scores: Sequence[RunScore]) -> list[str]:
    return list(dict.fromkeys(score.variant for score in scores))


def _of_variant(scores: Sequence[RunScore], variant: str) -> list[RunScore]:
    runs = [score for score in scores if score.variant == variant]
    seeds = [run.seed for run in runs]
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if twice:
        raise ConfigError(
            f"variant {variant!r}: expected one run per seed, got several of seed {twice[0]}: "
            + ", ".join(run.job for run in runs if run.seed == twice[0])
        )
    _check_no_copies(variant, runs)
    by_digest = {run.digest_without_seed: run.job for run in runs}
    if len(by_digest) > 1:
        raise ConfigError(
            f"variant {variant!r}: expected runs of one configuration, got {len(by_digest)}: "
            + ", ".join(by_digest.values())
        )
    return runs


def _check_no_copies(variant: str, runs: Sequence[RunScore]) -> None:
    """ConfigError if two seeds have the same scores to the last bit, which no two trainings have."""
    by_scores: dict[tuple[Any, ...], RunScore] = {}
    for run in runs:
        if run.final is None or len(run.final) < _ENOUGH_TO_TELL:
            continue
        scores = (*sorted(run.final.items()), *((step, *sorted(point.items())) for step, point in run.curve))
        first = by_scores.setdefault(scores, run)
        if first is not run:
            raise ConfigError(
                f"variant {variant!r}: expected seeds that were each trained; {first.job} (seed {first.seed}) and "
                f"{run.job} (seed {run.seed}) have the same scores in every digit, so one is a copy of the other"
            )


def _as_diverged(run: RunScore, metric: str) -> RunScore:
    """The run, without its scores if its final score, or the one that stands for it, is not finite."""
    if run.final is None or isfinite(run.final.get(metric, 0.0)):
        return run
    return replace(run, final=None, best=None, status="diverged")


def _row(variant: str, runs: Sequence[RunScore], metric: str, protocol: str, step: float | None) -> Row:
    finals = list(_finals(runs, metric).values())
    bests = [run.best[metric] for run in runs if run.best is not None and run.evaluations != 1]
    low, high = _with_width(t_interval(finals))
    boot_low, boot_high = _with_width(bootstrap_interval(finals))
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
        diverged=sum(_has_diverged(run) for run in runs),
        step=None if step is None else round(step),
        boot_low=boot_low,
        boot_high=boot_high,
        best_of=max((run.evaluations for run in runs if run.best is not None), default=0),
    )


def _with_ranks(rows: Sequence[Row], runs: Mapping[str, Sequence[RunScore]], metric: str) -> tuple[list[Row], int]:
    """The rows with their ranks over the seeds that all ranked variants have, and the number of those seeds."""
    found = {variant: table for variant, own in runs.items() if (table := _with_diverged(own, metric))}
    # A variant that failed on any seed ranks last, and its missing seeds are not taken from the others.
    finite = {variant: table for variant, table in found.items() if all(map(isfinite, table.values()))}
    common = sorted(set.intersection(*map(set, (finite or found).values()))) if found else []
    scores = {
        variant: [table[seed] if variant in finite else nan for seed in common] for variant, table in found.items()
    }
    standings = rank_stability(scores, higher_is_better=METRICS[metric].higher_is_better)
    ranked = [replace(row, **standings[row.variant]._asdict()) if row.variant in standings else row for row in rows]
    return ranked, len(common) if standings else 0


def _with_differences(
    rows: Sequence[Row], runs: Mapping[str, Sequence[RunScore]], metric: str, reference: str
) -> list[Row]:
    """The rows with their differences to `reference`, paired by seed. ConfigError if it is not among `runs`."""
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
    low, high = _with_width(t_interval(differences))
    pairs = len(differences)
    effect = minimum_detectable_effect(std(differences), pairs) if pairs > 1 else None
    return replace(
        row,
        difference=mean(differences) if differences else None,
        difference_low=low,
        difference_high=high,
        pairs=pairs,
        p_value=paired_t(differences),
        p_permutation=sign_flip(differences),
        minimum_detectable_effect=effect or None,
    )


def _with_width(interval: Interval) -> Interval:
    """The interval, or none if it has no width: one value repeated says nothing about the spread."""
    return (None, None) if interval[0] == interval[1] else interval


def _finals(runs: Sequence[RunScore], metric: str) -> dict[int, float]:
    """Final scores by training seed."""
    return {run.seed: run.final[metric] for run in runs if run.final is not None}


def _with_diverged(runs: Sequence[RunScore], metric: str) -> dict[int, float]:
    """Final scores by training seed; NaN for seeds that diverged."""
    return _finals(runs, metric) | {run.seed: nan for run in runs if _has_diverged(run)}


def _has_diverged(run: RunScore) -> bool:
    return run.final is None and run.status == "diverged"


def _rank(row: Row, metric: str) -> tuple[bool, bool, float]:
    """Sorts variants by mean, after them those of which seeds diverged, and last those without scores."""
    if row.mean is None or isnan(row.mean):
        return True, True, 0.0
    return False, row.diverged > 0, -row.mean if METRICS[metric].higher_is_better else row.mean
