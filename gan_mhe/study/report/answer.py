"""The answer of a study, and what is missing from it, as sentences made from its numbers."""

import math
from collections.abc import Iterable, Sequence

from gan_mhe.comparison.inference import POWER
from gan_mhe.comparison.results import Row
from gan_mhe.comparison.table import effect, without_score
from gan_mhe.evaluation.metrics import METRICS
from gan_mhe.study.report.data import COMPLETED, RunReport, StudyReport, is_significant

_WITHOUT_MESSAGE = ("missing", "unfinished")


def number(value: float | None, decimals: int, *, signed: bool = False) -> str:
    """A number for people; "-" for None, "nan" for NaN."""
    if value is None:
        return "-"
    return "nan" if math.isnan(value) else f"{value:{'+' if signed else ''}.{decimals}f}"


def probability(value: float | None, decimals: int = 3) -> str:
    """A probability such as "0.012"; "< 0.001" instead of zero."""
    least = 10**-decimals
    return f"< {number(least, decimals)}" if value is not None and value < least else number(value, decimals)


def code(names: Iterable[str]) -> str:
    """Names of arms as code, because an arm may have a name such as `none`."""
    return ", ".join(f"`{name}`" for name in names)


def interval(low: float | None, high: float | None, decimals: int) -> str:
    """An interval such as "0.62 to 2.00"; "-" for None, "nan" for NaN."""
    if low is None or math.isnan(low):
        return number(low, decimals)
    return f"{number(low, decimals)} to {number(high, decimals)}"


def incompleteness(report: StudyReport) -> str | None:
    """Which runs of the study are not completed, and why; None if all are."""
    runs = report.runs()
    completed = sum(run.status == COMPLETED for run in runs)
    if completed == len(runs):
        return None
    reasons = [_listed(status, runs) for status in _WITHOUT_MESSAGE]
    reasons += [
        f"{run.status}: `{run.arm}` seed {run.seed}{_because(run)}"
        for run in runs
        if run.status not in (COMPLETED, *_WITHOUT_MESSAGE)
    ]
    given = "; ".join(reason for reason in reasons if reason)
    return f"This study is incomplete: {completed} of {len(runs)} runs are completed; {given}."


def _listed(status: str, runs: Sequence[RunReport]) -> str:
    """A list such as "missing: mhe seeds 1, 2; mhe_sn seed 2"; empty if no run has the status."""
    seeds: dict[str, list[str]] = {}
    for run in runs:
        if run.status == status:
            seeds.setdefault(run.arm, []).append(str(run.seed))
    arms = [f"`{arm}` seed{'s' if len(own) > 1 else ''} {', '.join(own)}" for arm, own in seeds.items()]
    return f"{status}: {'; '.join(arms)}" if arms else ""


def _because(run: RunReport) -> str:
    """The message in brackets, on one line and without its full stop."""
    return f" ({' '.join(run.message.split()).rstrip('.')})" if run.message else ""


def answer(report: StudyReport) -> str:
    """The answer as one paragraph. Only the p-value after Holm's correction decides whether a difference counts."""
    if report.by_steps is None:
        return _unscored(report)
    return " ".join([*_verdict(report), *_without_score(report)])


def _unscored(report: StudyReport) -> str:
    if report.reference().config.evaluation.protocol != "none":
        return "No run has a final score yet, so the question cannot be answered."
    if any(run.ratios or run.strengths for run in report.runs()):
        return "This study has no scores; its results are the gradient ratios of the penalties."
    return "This study has no scores."


def _verdict(report: StudyReport) -> list[str]:
    reference, rows = code([report.study.reference]), report.compared()
    if len(report.study.arms) == 1:
        return [f"There is only one arm, {reference}, so nothing is compared. {_alone(report)}"]
    if not report.reference().finals(report.study.metric):
        return [f"The reference, {reference}, has no final score, so nothing can be compared with it yet."]
    if not rows:
        return [f"No arm has a finite final score for a seed of {reference}, so nothing is compared."]
    return [_opening(report, rows), *_findings(report, rows), *_limits(report, rows), *_left_out(report, rows)]


def _without_score(report: StudyReport) -> list[str]:
    """The arms with runs that have no score; `incompleteness` names the runs that were not started."""
    rows = {row.variant: row for row in report.rows() if row.failed}
    return [without_score(rows[arm.name], code([arm.name])) for arm in report.study.arms if arm.name in rows]


def _alone(report: StudyReport) -> str:
    row, decimals = report.rows()[0], METRICS[report.study.metric].decimals
    spread = "" if row.ci_low is None else f" (95 % interval {interval(row.ci_low, row.ci_high, decimals)})"
    seeds = "1 seed" if row.n == 1 else f"{row.n} seeds"
    return f"Its {METRICS[report.study.metric].title} is {number(row.mean, decimals)}{spread} over {seeds}."


def _opening(report: StudyReport, rows: Sequence[Row]) -> str:
    metric = METRICS[report.study.metric]
    direction = "higher" if metric.higher_is_better else "lower"
    compared = "Compared" if incompleteness(report) is None else "So far, compared"
    return f"{compared} with {code([report.study.reference])} ({pairs(rows)}; {metric.title}, {direction} is better):"


def pairs(rows: Sequence[Row]) -> str:
    """The number of seeds of the differences, such as "n = 5 seeds" or "n = 3 to 5 seeds"."""
    counts = [row.pairs or 0 for row in rows]
    few, many = min(counts), max(counts)
    if few == many:
        return f"n = {few} seed{'s' if few > 1 else ''}"
    return f"n = {few} to {many} seeds"


def _findings(report: StudyReport, rows: Sequence[Row]) -> list[str]:
    metric = METRICS[report.study.metric]
    significant = [row for row in rows if is_significant(row)]
    better = [row for row in significant if metric.better(row.difference or 0.0, 0.0)]
    groups = [("better", better), ("worse", [row for row in significant if row not in better])]
    found = [
        f"significantly {name} {'are' if len(group) > 1 else 'is'} {_each(group, metric.decimals)}"
        for name, group in groups
        if group
    ]
    if all(row.p_holm is None for row in rows):
        return ["one seed says nothing about the spread between seeds, so no difference can be tested."]
    if not found:
        lowest = min(row.p_holm for row in rows if row.p_holm is not None)
        return [f"no difference is significant (lowest Holm p = {probability(lowest)})."]
    others = [row.variant for row in rows if row not in significant]
    if others:
        found.append(f"not significantly different: {code(others)}")
    return ["; ".join(found) + "."]


def _each(rows: Sequence[Row], decimals: int) -> str:
    return ", ".join(
        f"`{row.variant}` by {number(row.difference, decimals, signed=True)} "
        f"({interval(row.difference_low, row.difference_high, decimals)}; Holm p {_equals(row.p_holm)})"
        for row in rows
    )


def _equals(value: float | None) -> str:
    shown = probability(value)
    return shown if shown.startswith("<") else f"= {shown}"


def _limits(report: StudyReport, rows: Sequence[Row]) -> list[str]:
    """The size of a difference that the study can detect."""
    found = (row.minimum_detectable_effect for row in rows)
    sizes = [size for size in found if size is not None and math.isfinite(size)]
    if not sizes:
        return []
    decimals = METRICS[report.study.metric].decimals
    few, many = effect(min(sizes), decimals), effect(max(sizes), decimals)
    size = few if few == many else f"{few} to {many} (depending on the arm)"
    return [
        f"Before correction for the number of arms, these seeds detect a true difference of {size} with probability "
        f"{POWER:g}, and smaller ones less often; a difference that is not significant may still exist."
    ]


def _left_out(report: StudyReport, rows: Sequence[Row]) -> list[str]:
    compared = {row.variant for row in rows} | {report.study.reference}
    names = [arm.arm.name for arm in report.arms if arm.arm.name not in compared]
    return [f"Not compared, because scores are missing or not finite: {code(names)}."] if names else []
