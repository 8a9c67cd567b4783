"""`report.md`: question, answer, tables, figures, protocol and configurations."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from gan_mhe.comparison.inference import ALPHA, POWER
from gan_mhe.comparison.results import Comparison
from gan_mhe.comparison.table import equal_time, without_spread
from gan_mhe.config.summaries import SUMMARIES
from gan_mhe.evaluation.metrics import METRICS
from gan_mhe.study.report import tables
from gan_mhe.study.report.answer import answer, code, incompleteness, number
from gan_mhe.study.report.data import StudyReport
from gan_mhe.study.report.document import changes, protocol
from gan_mhe.study.report.environment import made_with

SAMPLES = "samples.png"


def markdown(report: StudyReport, figures: Collection[str]) -> str:
    """The report. figures: names of the files in its folder."""
    return "\n\n".join([*_head(report), *_results(report), *_figures(report, figures), *_setting(report)]) + "\n"


def _head(report: StudyReport) -> Iterator[str]:
    yield f"# Study: {report.study.name}"
    missing = incompleteness(report)
    if missing is not None:
        yield f"> **{missing}**"
    yield f"**Question.** {' '.join(report.study.question.split())}"
    yield f"**Answer.** {answer(report)}"
    yield "Every number below is in [data.json](data.json), with the run that it comes from."


def _results(report: StudyReport) -> Iterator[str]:
    if report.by_steps is not None:
        yield "## Scores"
        yield tables.scores(report.by_steps)
        yield _about_scores(report.by_steps, report.ranking_metric())
        if report.by_steps.reference is not None and len(report.by_steps.rows) > 1:
            yield f"## Differences to {code([report.study.reference])}"
            yield tables.differences(report.by_steps)
            yield _about_differences(report.by_steps)
    strengths = tables.penalties(report)
    if strengths is not None:
        yield "## Strength of the penalties"
        yield strengths
        yield (
            "Gradient ratio: norm of the weighted penalty's gradient over that of the adversarial loss, over all "
            "parameters of the discriminator. Factor: the factor on the penalty, including schedule and interval. Both "
            "are means over the reports of a run, then over seeds."
        )
    if report.by_time is not None:
        yield "## At equal training time"
        yield tables.at_equal_time(report, report.by_time)
        yield _about_time(report.by_time)


def _about_scores(comparison: Comparison, ranked_by: str) -> str:
    metric = METRICS[comparison.metric]
    text = (
        f"{metric.title} of the final generator, {'higher' if metric.higher_is_better else 'lower'} is better; n: "
        f"number of training seeds. Best: score of the run's checkpoint with the best {METRICS[ranked_by].title}, "
        "measured again with fresh latents, mean over seeds; in brackets, the number of evaluations that it was chosen "
        "from."
    )
    if any(row.boot_low is not None for row in comparison.rows):
        text += " The bootstrap interval is too narrow for few seeds; read it together with the t-interval."
    if comparison.ranked_seeds:
        text += (
            f" Mean rank: over the {comparison.ranked_seeds} seeds that all ranked arms have; 1 is the best. First: "
            "share of the resamples of these seeds in which the arm has the best mean."
        )
    if any(row.n == 1 for row in comparison.rows):
        text += " One seed says nothing about the spread between seeds."
    text = " ".join([text, *without_spread(comparison)])
    return text if comparison.same_budget else f"{text} The runs differ in more than variant, loss and constraints."


def _about_differences(comparison: Comparison) -> str:
    better = "positive" if METRICS[comparison.metric].higher_is_better else "negative"
    return (
        f"Final score minus that of `{comparison.reference}` with the same training seed; {better} is better. p: "
        "paired t-test; Holm p: corrected for the number of arms; permutation p: all sign flips, which cannot go below "
        "2/2ⁿ with n pairs. Minimum detectable effect: the true difference that an uncorrected test detects with "
        f"probability {POWER:g}, given the observed spread. A difference is significant if Holm p < "
        f"{number(ALPHA, 2)}."
    )


def _about_time(comparison: Comparison) -> str:
    text = f"{equal_time(comparison.budget_seconds or 0.0, 'arm')} Training: mean over the completed runs, without "
    text += "evaluation."
    if any(row.step is not None and not row.n for row in comparison.rows):
        text += " An arm with a step but no score was not evaluated by then."
    return text


def _figures(report: StudyReport, figures: Collection[str]) -> Iterator[str]:
    shown = {name: text for name, text in _captions(report).items() if name in figures}
    if shown:
        yield "## Figures"
    for index, (name, (title, legend)) in enumerate(shown.items(), start=1):
        yield f"![Figure {index}: {title}]({name})"
        yield f"**Figure {index}. {title}.** {legend}"


def _captions(report: StudyReport) -> dict[str, tuple[str, str]]:
    """Title and legend by file name, in the order of the report."""
    metric, reference = METRICS[report.study.metric].title, code([report.study.reference])
    return {
        "score.svg": (
            f"{metric} by generator step",
            "Line with dots: mean over the evaluated seeds; thin lines: single seeds; band: smallest to largest. "
            f"Dashed: mean of {reference}.",
        ),
        "strength.svg": (
            f"Final {metric} by strength and family",
            "Dots: mean; whiskers: 95 % t-interval; dashes: single seeds. Dashed line and gray band: mean and 95 % "
            f"t-interval of {reference}. The axis is logarithmic; a strength of 0 is drawn at its left end, and a "
            "target ratio that was not reached, within a factor of two, at the ratio that was.",
        ),
        "geometry.svg": (
            "Geometry of the discriminator's filters by generator step",
            "Left: hyperspherical energy (s = 0, mean over pairs); right: smallest angle between two filters. Both are "
            "means over layers, then over seeds.",
        ),
        "gradient_ratio.svg": (
            "Gradient ratio of the penalties by generator step",
            "Norm of the weighted penalty's gradient over that of the adversarial loss, over all parameters of the "
            "discriminator; mean over seeds, on a logarithmic axis.",
        ),
        "differences.svg": (
            f"Differences to {reference}, paired by training seed",
            "Dots: mean, filled if significant after Holm's correction; whiskers: 95 % t-interval; ticks below: single "
            "seeds.",
        ),
        SAMPLES: (
            "Samples",
            "The first images of the last sample grid of each arm's first seed that has one, with the final score of "
            "that run. Nothing is selected; runs of one seed use the same latents.",
        ),
    }


def _setting(report: StudyReport) -> Iterator[str]:
    yield "## Protocol"
    yield "\n".join(f"- {line}" for line in _shared(report))
    if len(report.arms) == 1:
        return
    yield "## Configurations"
    yield f"The keys in which each arm differs from {code([report.study.reference])}, whose value is in brackets."
    yield "\n".join(_changed(report))


def _shared(report: StudyReport) -> Iterator[str]:
    facts, config = protocol(report), report.reference().config
    yield f"data: {facts['data']}, {facts['image_size']} pixels"
    yield from SUMMARIES[config.task].lines(config)
    yield f"seeds: {', '.join(map(str, facts['seeds']))}"
    yield f"scoring: {facts['scoring']}" + (f", fingerprint `{facts['fingerprint']}`" if facts["fingerprint"] else "")
    if facts["evaluations"]:
        yield f"evaluations per run: {facts['evaluations']}"
    yield from made_with(report.environments())


def _changed(report: StudyReport) -> Iterator[str]:
    for arm in report.arms:
        if arm.arm.name != report.study.reference:
            yield f"- `{arm.arm.name}`: {_by_section(changes(arm, report.reference())) or 'nothing'}"


def _by_section(changed: Mapping[str, tuple[Any, Any]]) -> str:
    """A list such as "`constraints.mhe`: lambda_hidden 1, s 0; `constraints.normalization`: spectral (none)"."""
    sections: dict[str, list[str]] = {}
    for key, (theirs, mine) in changed.items():
        first, second, *rest = [*key.split("."), ""]
        section, name = (f"{first}.{second}", ".".join(rest[:-1])) if rest else (first, "")
        was = "" if theirs is None else f" ({_value(theirs)})"
        sections.setdefault(section, []).append(f"{name} {_value(mine)}{was}".strip())
    return "; ".join(f"`{section}`: {', '.join(values)}" for section, values in sections.items())


def _value(value: Any) -> str:
    return "absent" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
