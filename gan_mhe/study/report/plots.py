"""The figures of a report, sized for print (6.5 inches wide, 8 points). Only this file uses matplotlib.

Arms differ in line and marker as well as in color. Palette: Okabe and Ito 2008, without yellow, which is hard to see on
white paper.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gan_mhe.comparison.results import Row
from gan_mhe.evaluation.metrics import METRICS
from gan_mhe.study.report.data import ArmReport, Spread, StudyReport, is_significant

_WIDTH = 6.5  # inches
_LEGEND_COLUMNS = 4
_ROUND = (1, 2, 5, 10)  # ticks at these times a power of ten
_BLACK, _GRAY = "#000000", "#777777"
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_LINES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_STYLE: Mapping[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "figure.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "svg.hashsalt": "gan-mhe report",
    "svg.fonttype": "path",
    "text.parse_math": False,
}


@dataclass(frozen=True)
class _Look:
    """The style of one arm in all figures."""

    color: str
    line: str
    marker: str

    def line_style(self) -> dict[str, Any]:
        return {"color": self.color, "linestyle": self.line, "marker": self.marker}


def draw_all(report: StudyReport) -> dict[str, bytes]:
    """The figures as SVG files, by name; figures without data are left out. The same report gives the same bytes."""
    # Fonts and the salt of SVG identifiers can only be set globally; the user's own settings are restored.
    with style.context(dict(_STYLE), after_reset=True):
        figures = {name: draw(report) for name, draw in _FIGURES.items()}
        return {name: _svg(figure) for name, figure in figures.items() if figure is not None}


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _looks(report: StudyReport) -> dict[str, _Look]:
    """The style of each arm; the reference is black."""
    others = [arm.arm.name for arm in report.arms if arm.arm.name != report.study.reference]
    looks = {
        name: _Look(_COLORS[index % len(_COLORS)], _LINES[index % len(_LINES)], _MARKERS[index % len(_MARKERS)])
        for index, name in enumerate(others, start=1)  # the reference has line and marker 0
    }
    return {report.study.reference: _Look(_BLACK, "-", "o"), **looks}


def _title(report: StudyReport) -> str:
    return METRICS[report.study.metric].title


def scores(report: StudyReport) -> Figure | None:
    """Score by step, one panel per arm: mean, range and single seeds, and the reference's mean."""
    arms = [arm for arm in report.arms if any(math.isfinite(p.value) for run in arm.runs for p in run.curve)]
    if not arms:
        return None
    columns = min(3, len(arms))
    rows = math.ceil(len(arms) / columns)
    figure = Figure(figsize=(_WIDTH, 0.5 + 1.35 * rows if rows > 1 else 2.4), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    looks, reference = _looks(report), report.reference()
    for axes, arm in zip(panels.flat, arms, strict=False):
        _arm_panel(axes, arm, looks[arm.arm.name])
        if arm is not reference:
            _mean_line(axes, _finite(reference.curve()), color=_BLACK, linestyle="--", linewidth=0.8)
    for axes in panels.flat[len(arms) :]:
        axes.set_visible(False)
    for axes in panels.flat[max(0, len(arms) - columns) : len(arms)]:
        axes.xaxis.set_tick_params(labelbottom=True)
    figure.supxlabel("generator step")
    figure.supylabel(_title(report))
    return figure


def _arm_panel(axes: Axes, arm: ArmReport, look: _Look) -> None:
    curve = _finite(arm.curve())
    steps = [spread.step for spread in curve]
    axes.fill_between(steps, [s.low for s in curve], [s.high for s in curve], color=look.color, alpha=0.18, linewidth=0)
    for run in arm.runs:
        axes.plot([p.step for p in run.curve], [p.value for p in run.curve], color=look.color, lw=0.5, alpha=0.6)
    _mean_line(axes, curve, color=look.color, marker="o")
    axes.set_title(arm.arm.name, loc="left", pad=3)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=_ROUND))
    axes.yaxis.set_major_locator(MaxNLocator(4))


def _finite(curve: Sequence[Spread]) -> list[Spread]:
    return [spread for spread in curve if math.isfinite(spread.mean)]


def _mean_line(axes: Axes, curve: Sequence[Spread], **look: Any) -> None:
    axes.plot([spread.step for spread in curve], [spread.mean for spread in curve], **look)


def differences(report: StudyReport) -> Figure | None:
    """Differences to the reference, best at the top, with their intervals and the differences of single seeds."""
    rows = report.compared()
    if not rows:
        return None
    figure = Figure(figsize=(_WIDTH, 0.75 + 0.27 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=_BLACK, linewidth=0.8)
    for height, row in zip(reversed(range(len(rows))), rows, strict=True):
        if row.difference_low is not None and row.difference_high is not None:
            axes.plot([row.difference_low, row.difference_high], [height] * 2, color=_BLACK)
        face = _BLACK if is_significant(row) else "white"
        axes.plot([row.difference or 0.0], [height], "o", color=_BLACK, markerfacecolor=face, markersize=5)
        own = report.seed_differences(row.variant).values()
        axes.plot(list(own), [height - 0.28] * len(own), "|", color=_COLORS[0], markersize=5, markeredgewidth=0.8)
    axes.set_yticks(range(len(rows)), [row.variant for row in reversed(rows)])
    axes.set_ylim(-0.7, len(rows) - 0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    better = "positive" if METRICS[report.study.metric].higher_is_better else "negative"
    axes.set_xlabel(f"{_title(report)} minus that of {report.study.reference}, same seed ({better} is better)")
    return figure


def geometry(report: StudyReport) -> Figure | None:
    """Energy and smallest angle of the discriminator's filters by step, for all arms in one pair of panels."""
    arms = [arm for arm in report.arms if _finite(arm.energy()) or _finite(arm.angle())]
    if not arms:
        return None
    legend_rows = math.ceil(len(arms) / _LEGEND_COLUMNS)
    figure = Figure(figsize=(_WIDTH, 2.7 + 0.17 * legend_rows), layout="constrained")
    left, right = figure.subplots(1, 2)
    looks = _looks(report)
    for index, arm in enumerate(arms):
        look = looks[arm.arm.name].line_style() | {"label": arm.arm.name}
        for axes, curve in ((left, _finite(arm.energy())), (right, _finite(arm.angle()))):
            every = max(1, len(curve) // 6)
            _mean_line(axes, curve, **look, markevery=(index % every, every))
    left.set_ylabel("energy")
    right.set_ylabel("smallest angle (radians)")
    for axes in (left, right):
        axes.set_xlabel("generator step")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=_ROUND))
    _legend_below(figure, left)
    return figure


def _legend_below(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=_LEGEND_COLUMNS, frameon=False, handlelength=3.5)


def gradient_ratios(report: StudyReport) -> Figure | None:
    """Gradient ratio of every penalty by step. The axis is logarithmic, so ratios of 0 are left out."""
    curves = {
        (arm.arm.name, penalty): [spread for spread in _finite(curve) if spread.mean > 0]
        for arm in report.arms
        for penalty, curve in arm.ratio_curves().items()
    }
    curves = {key: curve for key, curve in curves.items() if curve}
    if not curves:
        return None
    figure = Figure(figsize=(_WIDTH, 2.9 + 0.17 * math.ceil(len(curves) / _LEGEND_COLUMNS)), layout="constrained")
    axes = figure.subplots()
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")  # the default of logarithmic axes uses mathtext
    looks, arms = _looks(report), [arm for arm, _ in curves]
    for index, ((arm, penalty), curve) in enumerate(curves.items()):
        every = max(1, len(curve) // 6)
        label = arm if arms.count(arm) == 1 else f"{arm}: {penalty}"
        _mean_line(axes, curve, **looks[arm].line_style(), label=label, markevery=(index % every, every))
    axes.set_xlabel("generator step")
    axes.set_ylabel("gradient ratio")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=_ROUND))
    _legend_below(figure, axes)
    return figure


def strengths(report: StudyReport) -> Figure | None:
    """Final score by strength, one panel per family: mean, interval and single seeds; the reference as a band."""
    rows = {row.variant: row for row in report.rows() if row.mean is not None and math.isfinite(row.mean)}
    families: dict[str, list[ArmReport]] = {}
    for arm in report.arms:
        if arm.arm.family is not None and arm.arm.strength is not None and arm.arm.name in rows:
            families.setdefault(arm.arm.family, []).append(arm)
    if not families:
        return None
    columns = min(3, len(families))
    lines = math.ceil(len(families) / columns)
    figure = Figure(figsize=(_WIDTH, 0.3 + 2.1 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False)
    for axes, (family, arms) in zip(panels.flat, families.items(), strict=False):
        _reference_band(axes, rows.get(report.study.reference))
        _family(axes, arms, rows, report.study.metric)
        axes.set_title(family, loc="left", pad=3)
        axes.set_xlabel("strength")
    for axes in panels.flat[len(families) :]:
        axes.set_visible(False)
    figure.supylabel(_title(report))
    return figure


def _reference_band(axes: Axes, row: Row | None) -> None:
    if row is None or row.mean is None:
        return
    axes.axhline(row.mean, color=_GRAY, linestyle="--", linewidth=1.0)
    if row.ci_low is not None and row.ci_high is not None:
        axes.axhspan(row.ci_low, row.ci_high, color=_GRAY, alpha=0.18, linewidth=0)


def _family(axes: Axes, arms: Sequence[ArmReport], rows: Mapping[str, Row], metric: str) -> None:
    """Draw one family. Strength 0 is drawn a decade left of the smallest, because the axis is logarithmic."""
    arms = sorted(arms, key=ArmReport.position)
    strengths = [arm.position() for arm in arms]
    positive = [strength for strength in strengths if strength > 0]
    zero = min(positive, default=1.0) / 10
    positions = [strength or zero for strength in strengths]
    axes.set_xscale("log")
    drawn = [rows[arm.arm.name] for arm in arms]
    for position, arm, row in zip(positions, arms, drawn, strict=True):
        finals = [run.final[metric] for run in arm.runs if run.final is not None]
        axes.plot([position] * len(finals), finals, "_", color=_BLACK, markersize=6, markeredgewidth=0.6)
        if row.ci_low is not None and row.ci_high is not None:
            axes.plot([position] * 2, [row.ci_low, row.ci_high], color=_COLORS[0], linewidth=0.8)
    axes.plot(positions, [row.mean or 0.0 for row in drawn], "o-", color=_COLORS[0])
    axes.set_xticks(positions, [f"{strength:g}" for strength in strengths])
    axes.minorticks_off()
    axes.set_xlim(min(positions) / 2, max(positions) * 2)


_FIGURES: Mapping[str, Callable[[StudyReport], Figure | None]] = {
    "score.svg": scores,
    "strength.svg": strengths,
    "geometry.svg": geometry,
    "gradient_ratio.svg": gradient_ratios,
    "differences.svg": differences,
}
