"""What a study answers and what it still lacks, in sentences made from its numbers. Nothing is said beyond them."""

import math
from collections.abc import Iterable, Sequence

from gan_mhe.comparison.results import Row
from gan_mhe.comparison.table import without_score
from gan_mhe.evaluation.metrics import METRICS
from gan_mhe.study.report.data import FINISHED, CellReport, StudyReport, is_told

_UNEXPLAINED = ("missing", "unfinished")  # these need no message: nothing went wrong that one could tell


def number(value: float | None, decimals: int, *, signed: bool = False) -> str:
    """A number for people; "-" for none, "nan" for one that is not a number."""
    if value is None:
        return "-"
    return "nan" if math.isnan(value) else f"{value:{'+' if signed else ''}.{decimals}f}"


def probability(value: float | None, decimals: int = 3) -> str:
    """Such as "0.012"; "< 0.001" for what would read as zero."""
    least = 10**-decimals
    return f"< {number(least, decimals)}" if value is not None and value < least else number(value, decimals)


def code(names: Iterable[str]) -> str:
    """Names of arms, set apart from the words around them: one may be called `none`."""
    return ", ".join(f"`{name}`" for name in names)


def interval(low: float | None, high: float | None, decimals: int) -> str:
    """Such as "0.62 to 2.00"; "-" for none, "nan" for one that is not a number."""
    if low is None or math.isnan(low):
        return number(low, decimals)
    return f"{number(low, decimals)} to {number(high, decimals)}"


def lacking(report: StudyReport) -> str | None:
    """What keeps the study from being whole; None when every cell is completed."""
    cells = report.cells()
    finished = sum(cell.status == FINISHED for cell in cells)
    if finished == len(cells):
        return None
    reasons = [_listed(status, cells) for status in _UNEXPLAINED]
    reasons += [
        f"{cell.status}: `{cell.arm}` seed {cell.seed}{_because(cell)}"
        for cell in cells
        if cell.status not in (FINISHED, *_UNEXPLAINED)
    ]
    given = "; ".join(reason for reason in reasons if reason)
    return f"This study is incomplete: {finished} of {len(cells)} cells are finished; {given}."


def _listed(status: str, cells: Sequence[CellReport]) -> str:
    """Such as "missing: mhe seeds 1, 2; mhe_sn seed 2"; empty where no cell has the status."""
    seeds: dict[str, list[str]] = {}
    for cell in cells:
        if cell.status == status:
            seeds.setdefault(cell.arm, []).append(str(cell.seed))
    arms = [f"`{arm}` seed{'s' if len(own) > 1 else ''} {', '.join(own)}" for arm, own in seeds.items()]
    return f"{status}: {'; '.join(arms)}" if arms else ""


def _because(cell: CellReport) -> str:
    """The message on one line, without what would end a sentence twice."""
    return f" ({' '.join(cell.message.split()).rstrip('.')})" if cell.message else ""


def answer(report: StudyReport) -> str:
    """One paragraph. A difference counts as told from seed noise by its p-value after Holm's correction alone."""
    if report.by_steps is None:
        return _unscored(report)
    return " ".join([*_verdict(report), *_without_score(report)])


def _unscored(report: StudyReport) -> str:
    if report.reference().config.evaluation.protocol != "none":
        return "No run has a final score, so this study says nothing about its question yet."
    said = "Nothing is scored in this study"
    if any(cell.ratios or cell.strengths for cell in report.cells()):
        return f"{said}; the section on how strongly the penalties pull says what was measured."
    return f"{said}."


def _verdict(report: StudyReport) -> list[str]:
    reference, rows = code([report.study.reference]), report.compared()
    if len(report.study.arms) == 1:
        return [f"There is only one arm, {reference}, so nothing is compared. {_alone(report)}"]
    if not report.reference().finals(report.study.metric):
        return [f"The reference, {reference}, has no final score, so nothing can be compared with it yet."]
    if not rows:
        return [f"No arm has a finite final score with a seed that {reference} has one with, so nothing is compared."]
    return [_opening(report, rows), *_findings(report, rows), *_limits(report, rows), *_left_out(report, rows)]


def _without_score(report: StudyReport) -> list[str]:
    """In the order of the arms; a seed that was not begun is named by `lacking` alone."""
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
    so_far = "" if lacking(report) is None else "So far, a"
    against = (
        f"{so_far or 'A'}gainst {code([report.study.reference])} ({pairs(rows)}; {metric.title}, {direction} is better)"
    )
    return f"{against}:"


def pairs(rows: Sequence[Row]) -> str:
    """How many seeds the differences are over, such as "n = 5 seeds" or "n = 3 to 5 seeds"."""
    counts = [row.pairs or 0 for row in rows]
    few, many = min(counts), max(counts)
    if few == many:
        return f"n = {few} seed{'s' if few > 1 else ''}"
    return f"n = {few} to {many} seeds"


def _findings(report: StudyReport, rows: Sequence[Row]) -> list[str]:
    metric = METRICS[report.study.metric]
    told, untold = [row for row in rows if is_told(row)], [row for row in rows if not is_told(row)]
    better = [row for row in told if metric.better(row.difference or 0.0, 0.0)]
    groups = [("better", better), ("worse", [row for row in told if row not in better])]
    found = [
        f"{name} are {_each(group, metric.decimals)}"
        if len(group) > 1
        else f"{name} is {_each(group, metric.decimals)}"
        for name, group in groups
        if group
    ]
    if all(row.p_holm is None for row in rows):
        return ["one seed says nothing about the spread between seeds, so no difference can be told from seed noise."]
    if not found:
        lowest = min(row.p_holm for row in rows if row.p_holm is not None)
        return [f"no difference could be told from seed noise (lowest Holm p = {probability(lowest)})."]
    if untold:
        found.append(f"no difference that could be told from seed noise for {code(row.variant for row in untold)}")
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
    """What the design could have found."""
    effects = (row.minimum_detectable_effect for row in rows)
    sizes = [effect for effect in effects if effect is not None and math.isfinite(effect)]
    if not sizes:
        return []
    decimals = METRICS[report.study.metric].decimals
    few, many = number(min(sizes), decimals), number(max(sizes), decimals)
    size = few if few == many else f"{few} to {many}, depending on the arm,"
    return [
        f"With these seeds a true difference must be at least {size} to be found four times in five, before correction "
        "for the number of arms; a smaller one is missed more often, and one not found is not shown to be absent."
    ]


def _left_out(report: StudyReport, rows: Sequence[Row]) -> list[str]:
    compared = {row.variant for row in rows} | {report.study.reference}
    names = [arm.arm.name for arm in report.arms if arm.arm.name not in compared]
    return [f"Not compared, for want of finite scores: {code(names)}."] if names else []
