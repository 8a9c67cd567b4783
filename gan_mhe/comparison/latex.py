"""Prints a comparison as a LaTeX table in the style of booktabs."""

import math
from collections.abc import Sequence

from gan_mhe.comparison.inference import ALPHA, CONFIDENCE
from gan_mhe.comparison.results import Comparison, Row
from gan_mhe.comparison.table import effect, footnote, p_text
from gan_mhe.evaluation.metrics import METRICS

_ABSENT = "--"  # an en dash
_ESCAPES = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        **{character: f"\\{character}" for character in "&%$#_{}"},
        # After the end of a row TeX takes a star or a bracket for an argument of that end.
        **{character: f"{{{character}}}" for character in "[]*"},
    }
)


def escaped(text: str) -> str:
    """The text on one line, with every character that LaTeX would obey replaced by what prints it."""
    return " ".join(text.split()).translate(_ESCAPES)


def as_latex(comparison: Comparison) -> str:
    """A `table` environment with caption and notes; it needs the package booktabs.

    One row per variant, best first, the real data above. The best mean is bold only if its difference to the reference
    is significant (Holm-corrected p below 0.05) and for the better; without a reference nothing is bold.
    """
    titles = _titles(comparison)
    lines = [
        r"% Needs \usepackage{booktabs}.",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_caption(comparison)}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(titles) - 1)}}}",
        r"\toprule",
        _line(titles),
        r"\midrule",
        *_real(comparison, len(titles)),
        *(_line(_cells(comparison, row)) for row in comparison.rows),
        r"\bottomrule",
        r"\end{tabular}",
        "",
        r"\medskip",
        r"\begin{minipage}{\linewidth}\footnotesize",
        *(rf"{escaped(note)}\par" for note in [*footnote(comparison).splitlines(), _about_bold(comparison)]),
        r"\end{minipage}",
        r"\end{table}",
    ]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return rf"{' & '.join(cells)} \\"


def _caption(comparison: Comparison) -> str:
    metric = METRICS[comparison.metric]
    direction = "higher" if metric.higher_is_better else "lower"
    counts = sorted({row.n for row in comparison.rows})
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return (
        f"{escaped(metric.title)} ({direction} is better) under {escaped(comparison.protocol)}: mean $\\pm$ sample "
        f"standard deviation over $n$ training seeds ($n$ = {seeds}) and {_level()} $t$-interval of the mean."
    )


def _level() -> str:
    return rf"{100 * CONFIDENCE:.0f}\,\%"


def _titles(comparison: Comparison) -> list[str]:
    titles = ["Variant", "$n$", r"Mean $\pm$ sd", f"{_level()} interval", "Best"]
    if comparison.reference is not None:
        titles += [f"Difference to {escaped(comparison.reference)}", "$p$ (Holm)", "Detectable difference"]
    return titles


def _real(comparison: Comparison, columns: int) -> list[str]:
    if comparison.real is None:
        return []
    cells = ["real data", "", _number(comparison.real, METRICS[comparison.metric].decimals)]
    return [_line([*cells, *[""] * (columns - len(cells))]), r"\midrule"]


def _cells(comparison: Comparison, row: Row) -> list[str]:
    decimals = METRICS[comparison.metric].decimals
    mean = _number(row.mean, decimals)
    if row is _bold(comparison):
        mean = rf"\textbf{{{row.mean:.{decimals}f}}}"
    if row.std is not None:
        mean = rf"{mean} $\pm$ {_number(row.std, decimals)}"
    count = f"{row.n}" + (f" (+{row.failed} without score)" if row.failed else "")
    interval = _interval(row.ci_low, row.ci_high, decimals)
    cells = [escaped(row.variant), count, mean, interval, _number(row.best_mean, decimals)]
    return cells if comparison.reference is None else [*cells, *_difference(row, decimals)]


def _difference(row: Row, decimals: int) -> list[str]:
    """Difference, p and smallest detectable difference; empty for the reference itself."""
    if row.pairs is None:
        return ["", "", ""]
    difference = _number(row.difference, decimals, sign="+")
    if row.difference_low is not None:
        difference += f" ({_interval(row.difference_low, row.difference_high, decimals)})"
    detectable = effect(row.minimum_detectable_effect, decimals)
    return [difference, _dash(escaped(p_text(row.p_holm))), _dash(escaped(detectable))]


def _number(value: float | None, decimals: int, sign: str = "") -> str:
    """In math mode, so that a minus is one; a word if it is not finite."""
    if value is None:
        return _ABSENT
    return f"${value:{sign}.{decimals}f}$" if math.isfinite(value) else str(value)


def _interval(low: float | None, high: float | None, decimals: int) -> str:
    return _ABSENT if low is None else f"{_number(low, decimals)} to {_number(high, decimals)}"


def _dash(text: str) -> str:
    return _ABSENT if text == "-" else text


def _bold(comparison: Comparison) -> Row | None:
    """The best row, if it is significantly better than the reference."""
    best = comparison.rows[0]
    if best.p_holm is None or best.difference is None or not best.p_holm < ALPHA:
        return None
    higher_is_better = METRICS[comparison.metric].higher_is_better
    return best if (best.difference > 0) == higher_is_better else None


def _about_bold(comparison: Comparison) -> str:
    if comparison.reference is None:
        return "No mean is bold, because no difference was tested."
    rule = f"better than {comparison.reference} (Holm-corrected p below {ALPHA:g})"
    if _bold(comparison) is None:
        return f"No mean is bold: the best one is not significantly {rule}."
    return f"Bold: the best mean, which is significantly {rule}; the other means were not tested against it."
