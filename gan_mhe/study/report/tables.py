"""The tables of a report, in Markdown."""

from collections.abc import Sequence

from gan_mhe.comparison.results import Comparison, Row
from gan_mhe.comparison.table import effect
from gan_mhe.evaluation.metrics import METRICS
from gan_mhe.study.report.answer import interval, number, probability
from gan_mhe.study.report.data import StudyReport


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with right-aligned numbers; bars in cells are escaped."""
    lines = [f"| {' | '.join(headings)} |", f"|{'---|'}{'---:|' * (len(headings) - 1)}"]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join(lines)


def scores(comparison: Comparison) -> str:
    """The score of the real data, and by arm, best first: final scores and stability of the rank."""
    decimals = METRICS[comparison.metric].decimals
    headings = ("arm", "n", "mean", "sd", "95 % t", "95 % bootstrap", "best (chosen from)", "mean rank", "first")
    real = [] if comparison.real is None else [("real data", "", number(comparison.real, decimals), *[""] * 6)]
    return table(headings, [*real, *(_scores(row, decimals) for row in comparison.rows)])


def _scores(row: Row, decimals: int) -> tuple[str, ...]:
    best = "-" if row.best_mean is None else f"{number(row.best_mean, decimals)} ({row.best_of})"
    return (
        row.variant,
        counted(row),
        number(row.mean, decimals),
        number(row.std, decimals),
        interval(row.ci_low, row.ci_high, decimals),
        interval(row.boot_low, row.boot_high, decimals),
        best,
        number(row.mean_rank, 1),
        number(row.first_share, 2),
    )


def counted(row: Row) -> str:
    """The number of seeds with a score, and of started runs without one."""
    return f"{row.n} (+{row.failed} without score)" if row.failed else str(row.n)


def differences(comparison: Comparison) -> str:
    """Difference to the reference by arm, best first, with tests and minimum detectable effect."""
    decimals = METRICS[comparison.metric].decimals
    headings = ("arm", "pairs", "difference", "95 % t", "p", "Holm p", "permutation p", "minimum detectable effect")
    rows = [
        (
            row.variant,
            str(row.pairs),
            number(row.difference, decimals, signed=True),
            interval(row.difference_low, row.difference_high, decimals),
            probability(row.p_value),
            probability(row.p_holm),
            probability(row.p_permutation, 4),
            effect(row.minimum_detectable_effect, decimals),
        )
        for row in comparison.rows
        if row.variant != comparison.reference
    ]
    return table(headings, rows)


def penalties(report: StudyReport) -> str | None:
    """Gradient ratio and factor by arm and penalty; None if no arm has a penalty."""
    rows = [
        (arm.arm.name, name, *(f"{values[name]:.4g}" if name in values else "-" for values in (ratios, strengths)))
        for arm in report.arms
        for ratios, strengths in [(arm.ratios(), arm.strengths())]
        for name in ratios | strengths
    ]
    return table(("arm", "penalty", "gradient ratio", "factor"), rows) if rows else None


def at_equal_time(report: StudyReport, comparison: Comparison) -> str:
    """Training time by arm, and the scores at the training time of the fastest arm."""
    decimals = METRICS[comparison.metric].decimals
    headings = ("arm", "training, s", "at step", "n", "mean", "95 % t", "difference", "95 % t", "Holm p")
    rows = [
        (
            row.variant,
            number(report.arm(row.variant).train_seconds(), 1),
            number(row.step, 0),
            counted(row),
            number(row.mean, decimals),
            interval(row.ci_low, row.ci_high, decimals),
            number(row.difference, decimals, signed=True),
            interval(row.difference_low, row.difference_high, decimals),
            probability(row.p_holm),
        )
        for row in comparison.rows
    ]
    return table(headings, rows)
