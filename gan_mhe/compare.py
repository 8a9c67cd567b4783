"""Finished runs as one table: by variant, over training seeds, under one protocol.

The unit of a result is the training seed. An interval is the 95 % t-interval of the mean over seeds; with one seed
there is none, and the table says so. Against a reference variant, differences are taken seed by seed: runs of one seed
see the same data in the same order, so what they share cancels. Needs no torch.
"""

import csv
import io
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scipy.special import stdtrit

from gan_mhe.config import RunConfig
from gan_mhe.errors import ConfigError, ProtocolMismatchError, RunDirError
from gan_mhe.events import decode_number, encode_number
from gan_mhe.metrics import METRICS
from gan_mhe.rundir import RunDir
from gan_mhe.suggest import nearest

CONFIDENCE = 0.95


@dataclass(frozen=True)
class RunScore:
    """What comparison needs to know of one run. Scores are None where the run did not get that far.

    recipe and budget: digests of the configuration without its seed, and without what a variant owns.
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


@dataclass(frozen=True)
class Row:
    """One variant. `n` counts the seeds with a final score; `failed` those without, which no mean can include.

    difference: mean of this variant's final score minus the reference's with the same seed, and its 95 % interval, over
    the `pairs` of runs whose seed both have a final score of. The four are None in the reference's own row, and in all
    rows when there is no reference.
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
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    pairs: int | None = None


@dataclass(frozen=True)
class Comparison:
    """The table, the real data's own score under the same protocol, and how many scores each best was chosen from.

    same_budget: whether all runs share data, networks, optimiser, steps and scoring, so that only variants differ.
    reference: the variant that the differences are to, None when none was named.
    """

    metric: str
    protocol: str
    fingerprint: str
    rows: tuple[Row, ...]
    real: float | None
    evaluations: int
    same_budget: bool
    reference: str | None = None


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
    )


def _numbers(scores: Mapping[str, Any]) -> dict[str, float]:
    return {name: decode_number(value) for name, value in scores.items()}


def compare(scores: Sequence[RunScore], *, metric: str = "inception_score", reference: str | None = None) -> Comparison:
    """The comparison of `scores` by `metric`, best variant first, with differences to the variant `reference`.

    Raises ConfigError for an unknown metric, a reference that is not among the variants, or a variant that has a seed
    twice or several recipes; ProtocolMismatchError when the runs were scored under different protocols; RunDirError
    when none was scored.
    """
    if metric not in METRICS:
        raise ConfigError(f"unknown metric {metric!r}{nearest(metric, METRICS)}")
    scored = [score for score in scores if score.final is not None]
    if not scored:
        raise RunDirError(f"none of the {len(scores)} runs has a final score yet")
    protocol, fingerprint = _one_protocol(scored)
    runs = {variant: _of_variant(scores, variant) for variant in _variants(scores)}
    rows = [_row(variant, runs[variant], metric, protocol) for variant in runs]
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
    )


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
    return Row(
        variant=variant,
        n=len(finals),
        mean=_mean(finals) if finals else None,
        std=_std(finals) if len(finals) > 1 else None,
        ci_low=low,
        ci_high=high,
        best_mean=_mean(bests) if bests else None,
        protocol=protocol,
        jobs=tuple(run.job for run in runs),
        failed=len(runs) - len(finals),
    )


def _with_differences(
    rows: Sequence[Row], runs: Mapping[str, Sequence[RunScore]], metric: str, reference: str
) -> list[Row]:
    """The rows with their differences to `reference`, paired by seed. ConfigError when it is not among `runs`."""
    if reference not in runs:
        raise ConfigError(f"reference {reference!r} is not among the compared variants{nearest(reference, runs)}")
    base = _finals(runs[reference], metric)
    return [row if row.variant == reference else _with_difference(row, runs[row.variant], metric, base) for row in rows]


def _with_difference(row: Row, runs: Sequence[RunScore], metric: str, base: Mapping[int, float]) -> Row:
    differences = [final - base[seed] for seed, final in _finals(runs, metric).items() if seed in base]
    low, high = t_interval(differences)
    return replace(
        row,
        difference=_mean(differences) if differences else None,
        difference_low=low,
        difference_high=high,
        pairs=len(differences),
    )


def _finals(runs: Sequence[RunScore], metric: str) -> dict[int, float]:
    """Final scores by training seed."""
    return {run.seed: run.final[metric] for run in runs if run.final is not None}


def _mean(values: Sequence[float]) -> float:
    """Mean; NaN where a value is not finite, because a seed that broke down is not to be averaged away."""
    return statistics.fmean(values) if all(map(math.isfinite, values)) else math.nan


def _std(values: Sequence[float]) -> float:
    """Standard deviation with n - 1; NaN where a value is not finite."""
    return statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan


def t_interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """The 95 % t-interval of the mean; (None, None) for fewer than two values."""
    if len(values) < 2:
        return None, None
    half = stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2) * _std(values) / len(values) ** 0.5
    mean = _mean(values)
    return float(mean - half), float(mean + half)


def _rank(row: Row, metric: str) -> float:
    if row.mean is None or math.isnan(row.mean):
        return float("inf")
    return -row.mean if METRICS[metric].higher_is_better else row.mean


def as_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """JSON rows; non-finite numbers by name. The keys of the difference are there only with a reference."""
    keys = ["variant", "n", "mean", "std", "ci_low", "ci_high", "best_mean", "protocol", "jobs", "failed"]
    if comparison.reference is not None:
        keys += ["difference", "difference_low", "difference_high", "pairs"]
    return [
        {key: list(value) if key == "jobs" else encode_number(value) for key in keys for value in [getattr(row, key)]}
        for row in comparison.rows
    ]


def as_json(comparison: Comparison) -> str:
    """The whole comparison as indented JSON."""
    document = {
        "metric": comparison.metric,
        **({} if comparison.reference is None else {"reference": comparison.reference}),
        "protocol": comparison.protocol,
        "fingerprint": comparison.fingerprint,
        "confidence": CONFIDENCE,
        "real": encode_number(comparison.real),
        "evaluations": comparison.evaluations,
        "same_budget": comparison.same_budget,
        "rows": as_rows(comparison),
    }
    return json.dumps(document, indent=2, allow_nan=False)


def as_csv(comparison: Comparison) -> str:
    """One line a variant; an absent number is an empty cell."""
    out = io.StringIO()
    rows = [row | {"jobs": " ".join(row["jobs"])} for row in as_rows(comparison)]
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().rstrip("\n")


HEADINGS = ("variant", "n", "mean", "std", "95 % interval", "best")


def headings(comparison: Comparison) -> tuple[str, ...]:
    """What stands above `table_cells`."""
    return HEADINGS if comparison.reference is None else (*HEADINGS, f"difference to {comparison.reference}")


def table_cells(comparison: Comparison) -> list[tuple[str, ...]]:
    """Cells under `headings`, the real data first."""
    decimals = METRICS[comparison.metric].decimals
    cells = [_cells(row, decimals) for row in comparison.rows]
    differences = [_difference_cell(row, decimals) for row in comparison.rows]
    if comparison.real is not None:
        cells = [("real data", "", f"{comparison.real:.{decimals}f}", "", "", ""), *cells]
        differences = ["", *differences]
    if comparison.reference is None:
        return cells
    return [(*row, difference) for row, difference in zip(cells, differences, strict=True)]


def _cells(row: Row, decimals: int) -> tuple[str, ...]:
    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.{decimals}f}"

    interval = "-" if row.ci_low is None else f"{number(row.ci_low)} to {number(row.ci_high)}"
    count = f"{row.n} (+{row.failed} without score)" if row.failed else str(row.n)
    return row.variant, count, number(row.mean), number(row.std), interval, number(row.best_mean)


def _difference_cell(row: Row, decimals: int) -> str:
    """Such as "+0.31 (0.02 to 0.60), 5 pairs"; empty for the reference itself."""
    if row.pairs is None:
        return ""
    if row.difference is None:
        return "-, 0 pairs"
    difference = "nan" if math.isnan(row.difference) else f"{row.difference:+.{decimals}f}"
    if row.difference_low is None:
        return f"{difference}, 1 pair"
    return f"{difference} ({row.difference_low:.{decimals}f} to {row.difference_high:.{decimals}f}), {row.pairs} pairs"


def footnote(comparison: Comparison) -> str:
    """What the numbers are, in a few sentences."""
    metric = METRICS[comparison.metric]
    direction = "higher" if metric.higher_is_better else "lower"
    note = (
        f"{metric.title} ({direction} is better) of the final generator under {comparison.protocol} "
        f"[{comparison.fingerprint[:12]}]; mean, standard deviation and t-interval over training seeds."
    )
    if comparison.reference is not None:
        better = "positive" if metric.higher_is_better else "negative"
        note += (
            f" Difference: final score minus that of {comparison.reference} with the same training seed, mean and "
            f"t-interval over the seeds that both have; {better} is better."
        )
    if any(row.n == 1 for row in comparison.rows):
        note += " One seed says nothing about the spread between seeds."
    if comparison.evaluations > 1:
        note += f" Best: chosen from up to {comparison.evaluations} evaluations, scored again with fresh latents."
    if not comparison.same_budget:
        note += " The runs differ in more than the variant: data, networks, optimiser, steps or scoring."
    return note


def as_markdown(comparison: Comparison) -> str:
    """A Markdown table with its footnote."""
    titles = headings(comparison)
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    lines += [f"| {' | '.join(cells)} |" for cells in table_cells(comparison)]
    return "\n".join([*lines, "", footnote(comparison)])
