"""The LaTeX form of a comparison, read back by a small parser of its own: no TeX is needed."""

import math
import re
from collections.abc import Sequence

import pytest

from gan_mhe.comparison.compare import compare
from gan_mhe.comparison.latex import as_latex, escaped
from gan_mhe.comparison.results import Comparison
from gan_mhe.comparison.table import footnote
from gan_mhe.evaluation.metrics import METRICS
from tests.comparison.test_compare import scored, unscored

COMMANDS = {
    r"\textbackslash{}": "\\",
    r"\textasciitilde{}": "~",
    r"\textasciicircum{}": "^",
    r"\textless{}": "<",
    r"\textgreater{}": ">",
    r"\textbar{}": "|",
}
SPECIAL = r"""a_b & 100% $x$ #1 {y} ~ ^ \input{z} <i> | [q] * "w" """.strip()


def printed(source: str) -> str:
    """What TeX prints for a piece of text: its commands and escapes undone, one token at a time."""
    token = re.compile(r"\\text\w+\{\}|\\[&%$#_{}]|\\,|\{([\[\]*])\}|\$|.", re.DOTALL)
    kept = (
        COMMANDS.get(m[0]) or m[1] or {"$": "", "\\,": " "}.get(m[0], m[0].lstrip("\\")) for m in token.finditer(source)
    )
    return "".join(kept)


def table(source: str) -> tuple[str, list[list[str]]]:
    """The column letters and the cells of the only tabular; every row must have as many cells as there are columns."""
    [(letters, body)] = re.findall(r"\\begin\{tabular\}\{(\w+)\}\n(.*)\\end\{tabular\}", source, re.DOTALL)
    lines = [line for line in body.splitlines() if not re.fullmatch(r"\\(top|mid|bottom)rule", line)]
    assert all(line.endswith(r" \\") for line in lines)
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)&", line.removesuffix(r"\\"))] for line in lines]
    assert {len(row) for row in rows} == {len(letters)}
    return letters, rows


def balanced(source: str) -> bool:
    """Whether braces and environments are closed in order, and the signs of mathematics in pairs."""
    text = re.sub(r"\\[^a-zA-Z]", "", source)
    open_now: list[str] = []
    for begin, end, brace in re.findall(r"\\begin\{(\w+)\}|\\end\{(\w+)\}|([{}])", text):
        if begin or brace == "{":
            open_now.append(begin or brace)
        elif not open_now or open_now.pop() != (end or "{"):
            return False
    return not open_now and text.count("$") % 2 == 0


def of(reference: str | None = None, metric: str | None = None, **scores: Sequence[float]) -> Comparison:
    runs = [scored(name, seed, score) for name, row in scores.items() for seed, score in enumerate(row)]
    return compare(runs, reference=reference, metric=metric)


@pytest.fixture
def comparison() -> Comparison:
    """A row of every kind: tested, the reference, one seed, a broken seed, no score, special characters."""
    runs = [scored("mhe", seed, 7 + seed / 2) for seed in range(3)] + [scored("none", seed, 6.0) for seed in range(3)]
    runs += [scored(SPECIAL, 0, 5.5), scored("wgan_gp", 0, math.nan), scored("wgan_gp", 1, 5.0), unscored("gan_gp", 0)]
    return compare(runs, reference="none")


def test_special_characters_are_printed_and_not_obeyed() -> None:
    assert printed(escaped(SPECIAL)) == SPECIAL
    assert not re.search(r"(?<!\\)[&%#_]|\\input", escaped(SPECIAL))


def test_a_name_of_several_lines_stays_on_one() -> None:
    assert escaped("one\ntwo\r\n\nthree") == "one two three"


def test_no_row_begins_with_what_the_end_of_a_row_takes_for_its_argument(comparison: Comparison) -> None:
    runs = [scored(name, 0, 5.0) for name in ("[1cm]", "*")]
    _, rows = table(as_latex(compare(runs)))
    assert {row[0] for row in rows[2:]} == {"{[}1cm{]}", "{*}"}
    assert all(row[0][:1] not in ("[", "*") for row in table(as_latex(comparison))[1])


def test_the_rows_are_those_of_the_comparison_in_its_order(comparison: Comparison) -> None:
    letters, rows = table(as_latex(comparison))
    assert letters == "lrrrrrrr"
    assert [printed(row[0]) for row in rows] == ["Variant", "real data", *(row.variant for row in comparison.rows)]
    by_name = {printed(row[0]): row for row in rows}
    mhe = next(row for row in comparison.rows if row.variant == "mhe")
    assert by_name["mhe"][1:5] == [
        "3",
        r"\textbf{7.50} $\pm$ $0.50$",
        f"${mhe.ci_low:.2f}$ to ${mhe.ci_high:.2f}$",
        "$7.50$",
    ]
    assert by_name["real data"][2] == "$9.71$"
    assert by_name["none"][5:] == ["", "", ""]
    assert by_name["gan_gp"][1:5] == ["0 (+1 without score)", "--", "--", "--"]
    assert by_name[SPECIAL][3] == "--"


def test_the_difference_stands_with_its_interval_its_p_and_what_could_be_detected(comparison: Comparison) -> None:
    cells = {printed(row[0]): row for row in table(as_latex(comparison))[1]}["mhe"]
    mhe = next(row for row in comparison.rows if row.variant == "mhe")
    assert mhe.p_holm is not None and 0.01 < mhe.p_holm < 0.1
    assert cells[5:] == [
        f"$+1.50$ (${mhe.difference_low:.2f}$ to ${mhe.difference_high:.2f}$)",
        f"{mhe.p_holm:.3f}",
        f"{mhe.minimum_detectable_effect:.2f}",
    ]


def test_the_source_is_closed_in_order(comparison: Comparison) -> None:
    assert balanced(as_latex(comparison))
    assert balanced(as_latex(of(mhe=[7.0])))


def test_a_best_mean_that_is_significantly_better_is_bold() -> None:
    source = as_latex(of("none", mhe=[7.0, 7.1, 7.2], none=[5.0, 5.1, 5.25]))
    assert re.findall(r"\\textbf\{([^}]*)\}", source) == ["7.10"]
    assert "Bold: the best mean, which is significantly better than none" in source


def test_a_lower_best_mean_is_bold_where_lower_is_better() -> None:
    source = as_latex(of("none", "fid", mhe=[3.0, 3.1, 3.2], none=[5.0, 5.1, 5.25]))
    assert re.findall(r"\\textbf\{([^}]*)\}", source) == ["3.10"]


@pytest.mark.parametrize(
    ("reference", "mhe", "sentence"),
    [
        (None, [7.0, 7.1, 7.2], "because no difference was tested"),
        ("none", [5.0, 5.3, 5.3], "is not significantly better than none"),
        ("mhe", [7.0, 7.1, 7.2], "is not significantly better than mhe"),
    ],
    ids=["no reference", "no significance", "the reference is best"],
)
def test_no_other_best_mean_is_bold_and_the_notes_say_why(
    reference: str | None, mhe: list[float], sentence: str
) -> None:
    source = as_latex(of(reference, mhe=mhe, none=[5.0, 5.1, 5.25]))
    assert r"\textbf" not in source and sentence in source


def test_the_caption_has_metric_protocol_seeds_and_confidence() -> None:
    [caption] = re.findall(r"\\caption\{(.*)\}", as_latex(of(mhe=[7.0, 7.1, 7.3], none=[5.0, 5.2])))
    for part in (METRICS["inception_score"].title, "higher is better", "digits-v1", "n = 2 to 3", "95 % t-interval"):
        assert part in printed(caption)


def test_the_notes_are_the_footnote(comparison: Comparison) -> None:
    notes = [printed(line) for line in re.findall(r"^(.*)\\par$", as_latex(comparison), re.MULTILINE)]
    assert notes[:-1] == footnote(comparison).splitlines()


def test_numbers_that_are_not_finite_are_words() -> None:
    source = as_latex(compare([scored("wgan_gp", 0, math.nan)]))
    assert "0 (+1 without score)" in source and "$nan$" not in source
