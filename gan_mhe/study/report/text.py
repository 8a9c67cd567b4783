"""`report.md`: question, answer, tables, figures, and what all of it was computed with."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from gan_mhe.comparison.inference import ALPHA
from gan_mhe.comparison.results import Comparison
from gan_mhe.config.names import PRIMARY_METRIC
from gan_mhe.evaluation.metrics import METRICS
from gan_mhe.study.report import tables
from gan_mhe.study.report.answer import answer, code, lacking, number
from gan_mhe.study.report.data import StudyReport
from gan_mhe.study.report.document import changes, protocol
from gan_mhe.study.report.environment import made_with

SAMPLES = "samples.png"


def markdown(report: StudyReport, figures: Collection[str]) -> str:
    """The report; figures: names of the files that lie beside it."""
    return "\n\n".join([*_head(report), *_results(report), *_figures(report, figures), *_setting(report)]) + "\n"


def _head(report: StudyReport) -> Iterator[str]:
    yield f"# Study: {report.study.name}"
    missing = lacking(report)
    if missing is not None:
        yield f"> **{missing}**"
    yield f"**Question.** {' '.join(report.study.question.split())}"
    yield f"**Answer.** {answer(report)}"
    yield "Every number below is in [data.json](data.json), with the run that it comes from."


def _results(report: StudyReport) -> Iterator[str]:
    if report.by_steps is not None:
        yield "## Scores"
        yield tables.scores(report.by_steps)
        yield _about_scores(report.by_steps)
        if report.by_steps.reference is not None and len(report.by_steps.rows) > 1:
            yield f"## Differences to {code([report.study.reference])}"
            yield tables.differences(report.by_steps)
            yield _about_differences(report.by_steps)
    strengths = tables.penalties(report)
    if strengths is not None:
        yield "## How strongly the penalties pull"
        yield strengths
        yield (
            "Gradient ratio: norm of the weighted penalty's gradient over that of the adversarial loss, in the "
            "discriminator. Factor: what the penalty was multiplied by, schedule and interval included. Both are means "
            "over the reports of a run, then over its seeds."
        )
    if report.by_time is not None:
        yield "## At equal training time"
        yield tables.at_equal_time(report, report.by_time)
        yield _about_time(report.by_time)


def _about_scores(comparison: Comparison) -> str:
    metric = METRICS[comparison.metric]
    text = (
        f"{metric.title} of the final generator, {'higher' if metric.higher_is_better else 'lower'} is better; n counts"
        " training seeds. Best: of the evaluated generators of a run the one with the best "
        f"{METRICS[PRIMARY_METRIC].title}, scored again with fresh latents, mean over seeds; in brackets how many it "
        "was chosen from."
    )
    if any(row.boot_low is not None for row in comparison.rows):
        text += " The bootstrap interval is too narrow for few seeds and is to be read beside the t-interval."
    if comparison.ranked_seeds:
        text += (
            f" Mean rank: from 1, the best, over the {comparison.ranked_seeds} seeds that all ranked arms have. First: "
            "share of resamples of these seeds in which the arm's mean is the best."
        )
    if any(row.n == 1 for row in comparison.rows):
        text += " One seed says nothing about the spread between seeds."
    return text if comparison.same_budget else f"{text} The runs differ in more than their arms may."


def _about_differences(comparison: Comparison) -> str:
    better = "positive" if METRICS[comparison.metric].higher_is_better else "negative"
    return (
        f"Final score minus that of `{comparison.reference}` with the same training seed; {better} is better. p: of "
        "the paired t-test; Holm p: adjusted for the number of arms; permutation p: of all flips of signs, "
        "which cannot go below 2/2ⁿ with n pairs. Detectable: the true difference that an unadjusted test finds four "
        "times in five, from this table's own spread. A difference counts as told from seed noise where Holm p < "
        f"{number(ALPHA, 2)}."
    )


def _about_time(comparison: Comparison) -> str:
    text = (
        f"Scores as above, but of each arm at the step that it reaches in {number(comparison.budget_seconds, 1)} s, "
        "which is what the fastest takes for its whole run, given the median over seeds of its time per step; scores "
        "between evaluations are interpolated linearly. Where the learning rate decays, only the fastest arm has seen "
        "its end, and seconds measured on a shared machine are rough. Training: mean of the completed runs, without "
        "evaluation."
    )
    if any(row.step is not None and not row.n for row in comparison.rows):
        text += " An arm with a step but no score had not been scored by then."
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
            f"{metric} against generator step",
            "Line with dots: mean of the seeds that were scored there; thin lines: each seed; band: smallest to "
            f"largest. Dashed: mean of {reference}.",
        ),
        "strength.svg": (
            f"Final {metric} against strength, by family",
            "Dots: mean; whiskers: 95 % t-interval; dashes: each seed. Dashed line and grey band: mean and 95 % "
            f"t-interval of {reference}. The axis is logarithmic; a strength of 0 stands at its left, out of scale.",
        ),
        "geometry.svg": (
            "The discriminator's filters against generator step",
            "Left: hyperspherical energy (s = 0, mean over pairs); right: smallest angle between two filters. Both are "
            "means over layers, then over seeds.",
        ),
        "pull.svg": (
            "How strongly the penalties pull, against generator step",
            "Norm of the weighted penalty's gradient over that of the adversarial loss, in the discriminator: mean of "
            "the seeds, on a logarithmic axis.",
        ),
        "differences.svg": (
            f"Differences to {reference}, paired by training seed",
            "Dots: mean, filled where it can be told from seed noise after Holm's correction; whiskers: 95 % "
            "t-interval; ticks below: each seed.",
        ),
        SAMPLES: (
            "Samples",
            "Of each arm's first seed with a picture, the first images of the last grid, and that run's final score. "
            "Nothing is chosen; runs of one seed draw from the same latents.",
        ),
    }


def _setting(report: StudyReport) -> Iterator[str]:
    yield "## Protocol"
    yield "\n".join(f"- {line}" for line in _shared(report))
    if len(report.arms) == 1:
        return
    yield "## Configurations"
    yield f"Keys in which an arm differs from {code([report.study.reference])}, whose own value is in brackets."
    yield "\n".join(_changed(report))


def _shared(report: StudyReport) -> Iterator[str]:
    facts = protocol(report)
    yield f"data: {facts['data']}, {facts['image_size']} pixels"
    yield f"networks: generator {facts['generator']}; discriminator {facts['discriminator']}"
    yield (
        f"training: {facts['steps']} generator steps, batch size {facts['batch_size']}, discriminator updates per step "
        f"{facts['discriminator_updates_per_step']}, {facts['precision']}"
    )
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
    """Such as "constraints.mhe (lambda_hidden 1, s 0); constraints.normalization spectral (none)"."""
    sections: dict[str, list[str]] = {}
    for key, (theirs, mine) in changed.items():
        first, second, *rest = [*key.split("."), ""]
        section, name = (f"{first}.{second}", ".".join(rest[:-1])) if rest else (first, "")
        was = "" if theirs is None else f" ({_value(theirs)})"
        sections.setdefault(section, []).append(f"{name} {_value(mine)}{was}".strip())
    return "; ".join(f"`{section}`: {', '.join(values)}" for section, values in sections.items())


def _value(value: Any) -> str:
    return "absent" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
