"""The figures of a report, for print: 6.5 inches wide, 8 points, no two arms told apart by colour alone.

Palette: Okabe and Ito 2008, without the yellow that white paper swallows. The one door to matplotlib.
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
from gan_mhe.study.report.data import ArmReport, Spread, StudyReport, is_told

_WIDTH = 6.5  # inches
_LEGEND_COLUMNS = 4
_ROUND = (1, 2, 5, 10)  # ticks at these times a power of ten
_BLACK, _GREY = "#000000", "#777777"
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
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
    """How one arm is drawn, in every figure."""

    colour: str
    line: str
    marker: str

    def of_line(self) -> dict[str, Any]:
        return {"color": self.colour, "linestyle": self.line, "marker": self.marker}


def draw_all(report: StudyReport) -> dict[str, bytes]:
    """SVG files by name; a figure without data is not among them. The same report gives the same bytes."""
    # Fonts and the salt of the identifiers can be set nowhere else; a user's own settings are put back.
    with style.context(dict(_STYLE), after_reset=True):
        figures = {name: draw(report) for name, draw in _FIGURES.items()}
        return {name: _svg(figure) for name, figure in figures.items() if figure is not None}


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _looks(report: StudyReport) -> dict[str, _Look]:
    """By arm; the reference is black."""
    others = [arm.arm.name for arm in report.arms if arm.arm.name != report.study.reference]
    looks = {
        name: _Look(_COLOURS[index % len(_COLOURS)], _LINES[index % len(_LINES)], _MARKERS[index % len(_MARKERS)])
        for index, name in enumerate(others, start=1)  # not with the reference's line and marker
    }
    return {report.study.reference: _Look(_BLACK, "-", "o"), **looks}


def _title(report: StudyReport) -> str:
    return METRICS[report.study.metric].title


def scores(report: StudyReport) -> Figure | None:
    """Score against step: a panel an arm, with mean, range and every seed; the reference's mean in all of them."""
    arms = [arm for arm in report.arms if any(math.isfinite(p.value) for cell in arm.cells for p in cell.curve)]
    if not arms:
        return None
    columns = min(3, len(arms))
    rows = math.ceil(len(arms) / columns)
    figure = Figure(figsize=(_WIDTH, 0.5 + 1.35 * rows if rows > 1 else 2.4), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    looks, reference = _looks(report), report.reference()
    for place, arm in zip(axes.flat, arms, strict=False):
        _arm_panel(place, arm, looks[arm.arm.name])
        if arm is not reference:
            _mean_line(place, _finite(reference.curve()), color=_BLACK, linestyle="--", linewidth=0.8)
    for place in axes.flat[len(arms) :]:
        place.set_visible(False)
    for place in axes.flat[max(0, len(arms) - columns) : len(arms)]:
        place.xaxis.set_tick_params(labelbottom=True)
    figure.supxlabel("generator step")
    figure.supylabel(_title(report))
    return figure


def _arm_panel(axes: Axes, arm: ArmReport, look: _Look) -> None:
    curve = _finite(arm.curve())
    steps = [spread.step for spread in curve]
    axes.fill_between(
        steps, [s.low for s in curve], [s.high for s in curve], color=look.colour, alpha=0.18, linewidth=0
    )
    for cell in arm.cells:
        axes.plot([p.step for p in cell.curve], [p.value for p in cell.curve], color=look.colour, lw=0.5, alpha=0.6)
    _mean_line(axes, curve, color=look.colour, marker="o")
    axes.set_title(arm.arm.name, loc="left", pad=3)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=_ROUND))
    axes.yaxis.set_major_locator(MaxNLocator(4))


def _finite(curve: Sequence[Spread]) -> list[Spread]:
    return [spread for spread in curve if math.isfinite(spread.mean)]


def _mean_line(axes: Axes, curve: Sequence[Spread], **look: Any) -> None:
    axes.plot([spread.step for spread in curve], [spread.mean for spread in curve], **look)


def differences(report: StudyReport) -> Figure | None:
    """Differences to the reference, the best at the top, with their intervals and every seed's own difference."""
    rows = report.compared()
    if not rows:
        return None
    figure = Figure(figsize=(_WIDTH, 0.75 + 0.27 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=_BLACK, linewidth=0.8)
    for height, row in zip(reversed(range(len(rows))), rows, strict=True):
        if row.difference_low is not None and row.difference_high is not None:
            axes.plot([row.difference_low, row.difference_high], [height] * 2, color=_BLACK)
        face = _BLACK if is_told(row) else "white"
        axes.plot([row.difference or 0.0], [height], "o", color=_BLACK, markerfacecolor=face, markersize=5)
        own = report.seed_differences(row.variant).values()
        axes.plot(list(own), [height - 0.28] * len(own), "|", color=_COLOURS[0], markersize=5, markeredgewidth=0.8)
    axes.set_yticks(range(len(rows)), [row.variant for row in reversed(rows)])
    axes.set_ylim(-0.7, len(rows) - 0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    better = "positive" if METRICS[report.study.metric].higher_is_better else "negative"
    axes.set_xlabel(f"{_title(report)} minus that of {report.study.reference}, same seed ({better} is better)")
    return figure


def geometry(report: StudyReport) -> Figure | None:
    """Energy and smallest angle of the discriminator's filters against step, all arms in one pair of axes."""
    arms = [arm for arm in report.arms if _finite(arm.energy()) or _finite(arm.angle())]
    if not arms:
        return None
    legend_rows = math.ceil(len(arms) / _LEGEND_COLUMNS)
    figure = Figure(figsize=(_WIDTH, 2.7 + 0.17 * legend_rows), layout="constrained")
    left, right = figure.subplots(1, 2)
    looks = _looks(report)
    for index, arm in enumerate(arms):
        look = looks[arm.arm.name].of_line() | {"label": arm.arm.name}
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


def pulls(report: StudyReport) -> Figure | None:
    """Gradient ratio of every penalty against step, on a logarithmic axis, where a ratio of 0 has no place."""
    curves = {
        (arm.arm.name, penalty): [spread for spread in _finite(curve) if spread.mean > 0]
        for arm in report.arms
        for penalty, curve in arm.pulls().items()
    }
    curves = {key: curve for key, curve in curves.items() if curve}
    if not curves:
        return None
    figure = Figure(figsize=(_WIDTH, 2.9 + 0.17 * math.ceil(len(curves) / _LEGEND_COLUMNS)), layout="constrained")
    axes = figure.subplots()
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")  # that of logarithmic axes writes mathematics
    looks, arms = _looks(report), [arm for arm, _ in curves]
    for index, ((arm, penalty), curve) in enumerate(curves.items()):
        every = max(1, len(curve) // 6)
        label = arm if arms.count(arm) == 1 else f"{arm}: {penalty}"
        _mean_line(axes, curve, **looks[arm].of_line(), label=label, markevery=(index % every, every))
    axes.set_xlabel("generator step")
    axes.set_ylabel("gradient ratio")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=_ROUND))
    _legend_below(figure, axes)
    return figure


def strengths(report: StudyReport) -> Figure | None:
    """Final score against strength, a panel a family: mean, interval and seeds; the reference's as a band."""
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
    places = figure.subplots(lines, columns, sharey=True, squeeze=False)
    for place, (family, arms) in zip(places.flat, families.items(), strict=False):
        _reference_band(place, rows.get(report.study.reference))
        _family(place, arms, rows, report.study.metric)
        place.set_title(family, loc="left", pad=3)
        place.set_xlabel("strength")
    for place in places.flat[len(families) :]:
        place.set_visible(False)
    figure.supylabel(_title(report))
    return figure


def _reference_band(axes: Axes, row: Row | None) -> None:
    if row is None or row.mean is None:
        return
    axes.axhline(row.mean, color=_GREY, linestyle="--", linewidth=1.0)
    if row.ci_low is not None and row.ci_high is not None:
        axes.axhspan(row.ci_low, row.ci_high, color=_GREY, alpha=0.18, linewidth=0)


def _family(axes: Axes, arms: Sequence[ArmReport], rows: Mapping[str, Row], metric: str) -> None:
    """Zero has no place on a logarithmic axis: it stands a decade left of the smallest strength, and is named."""
    arms = sorted(arms, key=_strength)
    positive = [_strength(arm) for arm in arms if _strength(arm) > 0]
    zero = min(positive, default=1.0) / 10
    places = [_strength(arm) or zero for arm in arms]
    axes.set_xscale("log")
    drawn = [rows[arm.arm.name] for arm in arms]
    for place, arm, row in zip(places, arms, drawn, strict=True):
        finals = [cell.final[metric] for cell in arm.cells if cell.final is not None]
        axes.plot([place] * len(finals), finals, "_", color=_BLACK, markersize=6, markeredgewidth=0.6)
        if row.ci_low is not None and row.ci_high is not None:
            axes.plot([place] * 2, [row.ci_low, row.ci_high], color=_COLOURS[0], linewidth=0.8)
    axes.plot(places, [row.mean or 0.0 for row in drawn], "o-", color=_COLOURS[0])
    axes.set_xticks(places, [f"{_strength(arm):g}" for arm in arms])
    axes.minorticks_off()
    axes.set_xlim(min(places) / 2, max(places) * 2)


def _strength(arm: ArmReport) -> float:
    return arm.arm.strength or 0.0


_FIGURES: Mapping[str, Callable[[StudyReport], Figure | None]] = {
    "score.svg": scores,
    "strength.svg": strengths,
    "geometry.svg": geometry,
    "pull.svg": pulls,
    "differences.svg": differences,
}
