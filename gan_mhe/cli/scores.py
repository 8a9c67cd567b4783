"""Prints scores and comparisons. The statistics, which load scipy, are imported by what needs them."""

from typing import Any

from gan_mhe.cli.console import print_table, say
from gan_mhe.cli.options import Format
from gan_mhe.comparison import results


def print_scored(scores: list[results.RunScore], **options: Any) -> None:
    """Print the comparison of the runs that have scores. options: keyword arguments of `compare`."""
    from gan_mhe.comparison import compare as comparisons

    if any(score.final for score in scores):
        print_comparison(comparisons.compare(scores, **options), Format.table)
    else:
        say("no scores to compare")


def print_result(result: dict[str, Any]) -> None:
    """Print the scores of a run's result; nothing if it has none. A single evaluation is not scored again."""
    if result["final"] is None:
        return
    best = result["best"]["scores"] if result["best"] and result["evaluations"] != 1 else {}
    rows = [
        (name, _number(value), _number(best.get(name)), _number((result["real"] or {}).get(name)))
        for name, value in result["final"]["scores"].items()
    ]
    print_table(("metric", "final", "best, rescored", "real data"), rows)


def score_rows(scored: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Rows of metric, score of the generator, score of the real data and abbreviated fingerprint."""
    return [
        (name, _number(value), _number(scored["real"].get(name)), scored["fingerprints"][name][:12])
        for name, value in scored["scores"].items()
    ]


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def print_comparison(comparison: results.Comparison, format_: Format) -> None:
    """Print a comparison in one of the formats."""
    from gan_mhe.comparison import latex, table

    match format_:
        case Format.table:
            print_table(table.headings(comparison), table.table_cells(comparison))
            say(table.footnote(comparison))
        case Format.json:
            say(table.as_json(comparison))
        case Format.csv:
            say(table.as_csv(comparison))
        case Format.markdown:
            say(table.as_markdown(comparison))
        case Format.latex:
            say(latex.as_latex(comparison))
