"""The record of a data set: its line, its JSON form, and what is refused when it is read back."""

import json
from typing import Any

import pytest

from gan_mhe.records.data_summary import DataSummary, counts_text

SUMMARY = DataSummary(
    name="image_folder",
    split="undivided",
    images=12,
    classes={"bee": 5, "ant": 7},
    passed_over={".gif": 2, ".tif": 30},
    conversions={"alpha dropped": 3},
    sha256="0123456789ab" + "c" * 52,
)


def changed(**fields: Any) -> DataSummary:
    return DataSummary(**{**SUMMARY.document(), **fields})


def test_the_line_states_images_classes_split_other_files_conversions_and_content() -> None:
    assert SUMMARY.line() == (
        "image_folder: 12 images; 2 classes (bee 5, ant 7); undivided; passed over: .tif 30, .gif 2; "
        "converted: alpha dropped 3; content 0123456789ab"
    )


def test_the_line_says_that_there_is_no_label_and_that_nothing_was_passed_over() -> None:
    plain = changed(split="test", images=1, classes={}, passed_over={}, conversions={})
    assert plain.line() == "image_folder: 1 image; no labels; split test; no file passed over; content 0123456789ab"


def test_many_classes_are_summed_up_in_the_line() -> None:
    many = changed(classes={f"class {k}": 3 + k for k in range(100)})
    assert "; 100 classes of 3 to 102 images; " in many.line()


def test_many_kinds_are_shortened_to_the_most_frequent() -> None:
    assert counts_text({f".{k}": k for k in range(1, 8)}) == ".7 7, .6 6, .5 5, .4 4, .3 3, 3 more"


def test_names_that_would_act_on_a_terminal_are_escaped() -> None:
    assert "\x1b" not in changed(classes={"\x1b[2J": 1}).line()


def test_a_summary_survives_json_with_the_order_of_its_classes() -> None:
    read = DataSummary.from_document(json.loads(json.dumps(SUMMARY.document())))
    assert read == SUMMARY
    assert list(read.classes) == ["bee", "ant"]


def test_a_key_of_a_later_version_is_ignored() -> None:
    assert DataSummary.from_document({**SUMMARY.document(), "new": 1}) == SUMMARY


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"images": "many"}, "images: "),
        ({"classes": [1]}, "classes: "),
        ({"passed_over": {".tif": None}}, "passed_over"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named) as caught:
        DataSummary.from_document({**SUMMARY.document(), **fields})
    assert "http" not in str(caught.value)


def test_a_document_that_is_no_table_is_refused() -> None:
    with pytest.raises(ValueError, match="input should be a dictionary"):
        DataSummary.from_document([])
