"""Prints a comparison: as a table for the terminal, as JSON, CSV and Markdown, with footnotes that explain the numbers.

The terminal's table has the main columns; the other forms have every number.
"""

import json
import math
from dataclasses import asdict
from typing import Any

from gan_mhe.comparison.inference import ALPHA, CONFIDENCE, POWER
from gan_mhe.comparison.results import Comparison, Row
from gan_mhe.evaluation.metrics import METRICS
from gan_mhe.records.events import decode_number, encode_number
from gan_mhe.records.export import to_csv

HEADINGS = ("variant", "n", "mean", "std", "95 % interval", "best")

_OF_DIFFERENCES = (
    *("difference", "difference_low", "difference_high", "pairs"),
    *("p_value", "p_holm", "p_permutation", "minimum_detectable_effect"),
)


def as_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """The rows as JSON values; non-finite numbers as strings. Without a reference there are no keys of differences."""
    left_out = _OF_DIFFERENCES if comparison.reference is None else ()
    return [
        {
            key: list(value) if key == "jobs" else encode_number(value)
            for key, value in asdict(row).items()
            if key not in left_out
        }
        for row in comparison.rows
    ]


def as_json(comparison: Comparison) -> str:
    """The whole comparison as indented JSON."""
    budget = {} if comparison.budget_seconds is None else {"budget_seconds": comparison.budget_seconds}
    document = {
        "metric": comparison.metric,
        **({} if comparison.reference is None else {"reference": comparison.reference}),
        "view": comparison.view,
        **budget,
        "protocol": comparison.protocol,
        "fingerprint": comparison.fingerprint,
        "confidence": CONFIDENCE,
        "real": encode_number(comparison.real),
        "evaluations": comparison.evaluations,
        "same_budget": comparison.same_budget,
        "ranked_seeds": comparison.ranked_seeds,
        "rows": as_rows(comparison),
    }
    return json.dumps(document, indent=2, allow_nan=False)


def as_csv(comparison: Comparison) -> str:
    """One line per variant, as `to_csv` writes numbers; `same_budget` is the same in all lines."""
    rows = [
        {key: " ".join(value) if key == "jobs" else decode_number(value) for key, value in row.items()}
        | {"same_budget": str(comparison.same_budget).lower()}
        for row in as_rows(comparison)
    ]
    return to_csv(list(rows[0]), rows).rstrip("\n")


def headings(comparison: Comparison) -> tuple[str, ...]:
    """The headings of `table_cells`."""
    return HEADINGS if comparison.reference is None else (*HEADINGS, f"difference to {comparison.reference}")


def table_cells(comparison: Comparison) -> list[tuple[str, ...]]:
    """The rows of the terminal's table, the real data first."""
    decimals = METRICS[comparison.metric].decimals
    cells = [_cells(row, decimals) for row in comparison.rows]
    if comparison.reference is not None:
        cells = [
            (*before, _difference_cell(row, decimals) + _tests(row))
            for before, row in zip(cells, comparison.rows, strict=True)
        ]
    return [*_real_cells(comparison, len(headings(comparison))), *cells]


def as_markdown(comparison: Comparison) -> str:
    """A Markdown table of all numbers, the footnote, and a legend of the columns that the terminal does not show."""
    titles, cells = _wide_headings(comparison), _wide_cells(comparison)
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    lines += [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([*lines, "", footnote(comparison), "", _legend(comparison)])


def _wide_headings(comparison: Comparison) -> tuple[str, ...]:
    titles = (*HEADINGS, "at step", "best of", "bootstrap interval", "mean rank", "ranked first")
    if comparison.reference is None:
        return titles
    return (
        *titles,
        f"difference to {comparison.reference}",
        "p",
        "p (Holm)",
        "p (sign flips)",
        "minimum detectable effect",
    )


def _wide_cells(comparison: Comparison) -> list[tuple[str, ...]]:
    decimals = METRICS[comparison.metric].decimals
    cells = []
    for row in comparison.rows:
        bootstrap = "-" if row.boot_low is None else f"{row.boot_low:.{decimals}f} to {row.boot_high:.{decimals}f}"
        step = "-" if row.step is None else str(row.step)
        wide = (*_cells(row, decimals), step, str(row.best_of), bootstrap)
        wide += (_number(row.mean_rank, 2), _share(row.first_share))
        if comparison.reference is not None:
            wide += (_difference_cell(row, decimals),)
            wide += tuple("" if row.pairs is None else p_text(p) for p in (row.p_value, row.p_holm, row.p_permutation))
            wide += ("" if row.pairs is None else effect(row.minimum_detectable_effect, decimals),)
        cells.append(wide)
    return [*_real_cells(comparison, len(_wide_headings(comparison))), *cells]


def _real_cells(comparison: Comparison, columns: int) -> list[tuple[str, ...]]:
    if comparison.real is None:
        return []
    score = _number(comparison.real, METRICS[comparison.metric].decimals)
    return [("real data", "", score, *[""] * (columns - 3))]


def _cells(row: Row, decimals: int) -> tuple[str, ...]:
    interval = "-" if row.ci_low is None else f"{row.ci_low:.{decimals}f} to {row.ci_high:.{decimals}f}"
    count = f"{row.n} (+{row.failed} without score)" if row.failed else str(row.n)
    return (
        row.variant,
        count,
        *(_number(row.mean, decimals), _number(row.std, decimals)),
        interval,
        _number(row.best_mean, decimals),
    )


def _difference_cell(row: Row, decimals: int) -> str:
    """A cell such as "+0.31 (0.02 to 0.60), 5 pairs"; empty for the reference itself."""
    if row.pairs is None:
        return ""
    if row.difference is None:
        return "-, 0 pairs"
    difference = "nan" if math.isnan(row.difference) else f"{row.difference:+.{decimals}f}"
    if row.difference_low is None:
        return f"{difference}, {row.pairs} pair{'' if row.pairs == 1 else 's'}"
    return f"{difference} ({row.difference_low:.{decimals}f} to {row.difference_high:.{decimals}f}), {row.pairs} pairs"


def _tests(row: Row) -> str:
    return (
        ""
        if row.p_value is None or math.isnan(row.p_value)
        else f", p {p_text(row.p_value)} (Holm {p_text(row.p_holm)})"
    )


def _number(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


def effect(value: float | None, decimals: int) -> str:
    """A minimum detectable effect, which is never zero: "<0.01" if it would be printed as such, "-" for None."""
    if value is not None and round(value, decimals) == 0:
        return f"<{10**-decimals:.{decimals}f}"
    return _number(value, decimals)


def _share(value: float | None) -> str:
    return "-" if value is None else "nan" if math.isnan(value) else f"{100 * value:.0f} %"


def p_text(value: float | None) -> str:
    """A p-value with two decimals, or three where they may decide about significance; "-" for None."""
    if value is None or value >= 0.1:
        return _number(value, 2)
    return "<0.001" if value < 0.001 else _number(value, 3)


def footnote(comparison: Comparison) -> str:
    """Explains the numbers, what they show, and what they cannot show; one subject per line."""
    metric = METRICS[comparison.metric]
    direction = "higher" if metric.higher_is_better else "lower"
    generator = "final generator" if comparison.view == "steps" else "compared generator"
    lines = [
        f"{metric.title} ({direction} is better) of the {generator} under {comparison.protocol} "
        f"[{comparison.fingerprint[:12]}]; mean, standard deviation and t-interval over training seeds.",
        *_about_budget(comparison),
        *_about_view(comparison),
        *_about_missing_scores(comparison),
        *_about_differences(comparison),
        *_about_ranks(comparison),
    ]
    if any(row.n == 1 for row in comparison.rows):
        lines.append("One seed says nothing about the spread between seeds.")
    lines += without_spread(comparison)
    lines += _about_best(comparison)
    return "\n".join(lines)


def without_spread(comparison: Comparison) -> list[str]:
    """Why rows of several seeds have no interval or no minimum detectable effect; one sentence a cause."""
    scores = [row.variant for row in comparison.rows if row.n > 1 and row.ci_low is None]
    pairs = [row.variant for row in comparison.rows if (row.pairs or 0) > 1 and row.difference_low is None]
    lines = []
    if scores:
        lines.append(f"No interval for {', '.join(scores)}: all seeds have the same score, so their spread is unknown.")
    if pairs:
        lines.append(
            f"No interval and no detectable difference for {', '.join(pairs)}: the difference to "
            f"{comparison.reference} is the same for all seeds, so its spread is unknown."
        )
    return lines


def _about_budget(comparison: Comparison) -> list[str]:
    if comparison.same_budget:
        return []
    return ["The runs differ in more than the variant: in data, networks, optimizer, steps or scoring."]


def _about_view(comparison: Comparison) -> list[str]:
    if comparison.budget_seconds is None:
        return []
    lines = [equal_time(comparison.budget_seconds, "variant")]
    unscored = [row for row in comparison.rows if not row.n and row.failed > row.diverged]
    early = [f"{row.variant} (step {row.step})" for row in unscored if row.step is not None]
    if early:
        lines.append(
            f"Not scored by then: {', '.join(early)}; set evaluation.every_steps so that the first evaluation comes "
            "before that step."
        )
    return lines


def equal_time(seconds: float, kind: str) -> str:
    """An explanation of the view `wall_time`. kind: what a row is, such as "variant"."""
    return (
        f"Equal training time: each {kind} is compared at the step that it reaches in {seconds:.4g} s, the training "
        f"time of the fastest {kind}, given its median time per step over seeds. Scores between evaluations are "
        f"interpolated linearly. If the learning rate decays, only the fastest {kind} has completed the decay. Times "
        "measured on a shared machine are imprecise."
    )


def _about_missing_scores(comparison: Comparison) -> list[str]:
    rest = "unfinished" if comparison.view == "steps" else "unfinished, untimed or not scored by then"
    return [without_score(row, row.variant, rest) for row in comparison.rows if row.failed]


def without_score(row: Row, name: str, rest: str = "unfinished") -> str:
    """A sentence such as "mhe: 4 of 8 seeds have no score (4 diverged); its numbers are over the other seeds.".

    rest: why the seeds that did not diverge have no score.
    """
    total, others = row.n + row.failed, row.failed - row.diverged
    causes = [f"{count} {cause}" for count, cause in ((row.diverged, "diverged"), (others, rest)) if count]
    lack = f"{row.failed} of {total} seed{'s' if total > 1 else ''} {'have' if row.failed > 1 else 'has'} no score"
    return f"{name}: {lack} ({', '.join(causes)})" + ("; its numbers are over the other seeds." if row.n else ".")


def _about_differences(comparison: Comparison) -> list[str]:
    if comparison.reference is None:
        return []
    better = "positive" if METRICS[comparison.metric].higher_is_better else "negative"
    lines = [
        f"Difference: score minus that of {comparison.reference} with the same training seed, mean and t-interval over "
        f"the seeds that both have; {better} is better. p: paired t-test; Holm: corrected for all tests of the table."
    ]
    tested = [row for row in comparison.rows if row.p_holm is not None and not math.isnan(row.p_holm)]
    if tested:
        lines += [_verdict(comparison.reference, tested), *_detectable(comparison, tested)]
    return [*lines, *_untested(comparison, tested)]


def _untested(comparison: Comparison, tested: list[Row]) -> list[str]:
    """The variants that were not tested, with the reasons."""
    causes: dict[str, list[str]] = {}
    for row in comparison.rows:
        if row.pairs is not None and row not in tested:
            cause = "fewer than two common seeds" if row.pairs < 2 else "a score is not finite"
            causes.setdefault(cause, []).append(row.variant)
    named = "; ".join(f"{', '.join(names)} ({cause})" for cause, names in causes.items())
    return [f"Not tested against {comparison.reference}: {named}."] if named else []


def _verdict(reference: str, tested: list[Row]) -> str:
    by_p = sorted((row.p_holm, row.variant, _pairs(row)) for row in tested if row.p_holm is not None)
    found = [f"{variant} (Holm-corrected p {p_text(p)}, {pairs})" for p, variant, pairs in by_p if p < ALPHA]
    level = f"at the {100 * ALPHA:.0f} % level"
    if found:
        return f"Significantly different from {reference} {level}: {', '.join(found)}."
    smallest, _, pairs = by_p[0]
    return f"No significant difference to {reference} {level} (smallest Holm-corrected p {p_text(smallest)}, {pairs})."


def _pairs(row: Row) -> str:
    """The seeds that a test rests on, such as "3 pairs of seeds, 2 diverged"."""
    return f"{row.pairs} pairs of seeds" + (f", {row.diverged} diverged" if row.diverged else "")


def _detectable(comparison: Comparison, tested: list[Row]) -> list[str]:
    """The range of minimum detectable effects, in words; nothing if no row has one."""
    decimals = METRICS[comparison.metric].decimals
    sizes = sorted(
        (row.minimum_detectable_effect, row.pairs, row.variant)
        for row in tested
        if row.minimum_detectable_effect is not None
    )
    named = [f"{effect(size, decimals)} ({variant}, n = {pairs})" for size, pairs, variant in sizes]
    if not named:
        return []
    extremes = named[0] if len(named) == 1 else f"{named[0]} to {named[-1]}"
    return [
        f"Given the observed spread, a single test at the {100 * ALPHA:.0f} % level detects a true difference of "
        f"{extremes} with probability {POWER:g}, and smaller ones less often."
    ]


def _about_ranks(comparison: Comparison) -> list[str]:
    ranked = [
        (row.first_share, row.variant)
        for row in comparison.rows
        if row.first_share is not None and not math.isnan(row.first_share)
    ]
    if not ranked:
        return []
    share, variant = max(ranked, key=lambda entry: entry[0])
    return [
        f"In {_share(share)} of resamples of the {comparison.ranked_seeds} seeds that all ranked variants have, "
        f"{variant} has the best mean."
    ]


def _about_best(comparison: Comparison) -> list[str]:
    best_of = {row.variant: row.best_of for row in comparison.rows if row.best_mean is not None}
    if max(best_of.values(), default=0) < 2:
        return []
    each = "" if len(set(best_of.values())) == 1 else f" ({', '.join(f'{name} {n}' for name, n in best_of.items())})"
    return [f"Best: chosen from up to {max(best_of.values())} evaluations{each}, scored again with fresh latents."]


def _legend(comparison: Comparison) -> str:
    lines = [
        "Best of: number of evaluations that the best was chosen from. Bootstrap interval: BCa interval of the mean; "
        "for 5 normal values it covers the true mean in 84 % of cases instead of 95 %. Mean rank and ranked first: "
        "over the seeds that all ranked variants have, and over 10,000 resamples of them; nan for a variant that "
        "failed on a seed."
    ]
    if comparison.reference is not None:
        lines.append(
            "p (sign flips): permutation test of the mean difference over all sign flips; with 5 pairs it cannot be "
            "below 0.0625. Minimum detectable effect: the true difference that a paired t-test at the 5 % level "
            f"detects with probability {POWER:g}."
        )
    return "\n".join(lines)
