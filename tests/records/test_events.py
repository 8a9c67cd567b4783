"""Events survive the journal, NaN included, and a resume voids what it overtakes."""

import json
import math
from dataclasses import MISSING, fields
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gan_mhe.records.events import (
    CheckpointRejected,
    CheckpointSaved,
    Evaluated,
    Event,
    Finished,
    Notice,
    Progress,
    SampleGrid,
    Scalars,
    Started,
    decode,
    decode_number,
    describe,
    effective,
    encode,
    encode_number,
)
from gan_mhe.records.fields import MAX_NAME, MAX_NAMES, Flag, Name, Names, Number, Numbers, Sha256, Step, Text

EVENT_TYPES = get_args(Event)
NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp", "Cf")), max_size=8) | st.sampled_from(
    ["NaN", "Infinity", "-Infinity"]
)
STEPS = st.integers(0, 2**53 - 1)
STRATEGIES: tuple[tuple[Any, st.SearchStrategy[Any]], ...] = (  # a list, because types with bounds have no hashes
    (Step, STEPS),
    (Flag, st.booleans()),
    (Step | None, st.none() | STEPS),
    (Text, st.text() | NAMES),
    (Name, NAMES),
    (Sha256, st.text("0123456789abcdef", min_size=64, max_size=64)),
    (Number, st.floats()),
    (Numbers, st.dictionaries(NAMES, st.floats(), max_size=4)),
    (Names, st.dictionaries(NAMES, NAMES, max_size=4)),
)
EXAMPLES = (
    Started(0, 100, resumed=False),
    Progress(50, 100, 2.5, 160.0, 20.0),
    Scalars(50, {"d_loss": 1.25, "mhe/layer_1": 0.5}),
    SampleGrid(50, "samples/step_00000050.png", "ab" * 32),
    CheckpointSaved(50, "checkpoints/step_00000050", "cd" * 32),
    Evaluated(50, "final", {"inception_score": 7.5, "fid": math.nan}, "digits-v1", {"fid": "ef"}, 1.5),
    CheckpointRejected(4, 8, "manifest.json is damaged"),
    Notice(0, "the penalty skips layer 7"),
    Finished(100, "completed", ""),
)


def events_of(cls: type[Event]) -> st.SearchStrategy[Event]:
    strategies = {
        field.name: next(strategy for kind, strategy in STRATEGIES if kind == field.type) for field in fields(cls)
    }
    return st.builds(cls, **strategies)


@pytest.mark.parametrize("cls", EVENT_TYPES)
@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.data())
def test_an_event_comes_back_from_json_as_it_was(cls: type[Event], data: st.DataObject) -> None:
    event = data.draw(events_of(cls))
    decoded = decode(json.loads(json.dumps(encode(event), allow_nan=False)))
    # NaN differs from itself; its repr does not, and the repr of a float is exact.
    assert type(decoded) is cls and repr(decoded) == repr(event)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.one_of([events_of(cls) for cls in EVENT_TYPES]))
def test_every_event_is_described_in_one_line(event: Event) -> None:
    assert len(describe(event).splitlines()) == 1


def test_descriptions_say_this() -> None:
    assert [describe(event) for event in EXAMPLES] == [
        "started, 100 steps",
        "step 50/100  2.50 steps/s  160 images/s  20 s left",
        "step 50  d_loss 1.25",
        "samples samples/step_00000050.png",
        "checkpoint checkpoints/step_00000050",
        "step 50  final  inception_score 7.5  fid nan  (digits-v1, 1.5 s)",
        "note: checkpoint of step 8 refused: manifest.json is damaged",
        "note: the penalty skips layer 7",
        "completed at step 100",
    ]


def test_a_resume_and_a_reason_are_described_too() -> None:
    assert describe(Started(40, 100, resumed=True)) == "resumed at step 40 of 100"
    assert describe(Finished(7, "failed", "disk\nfull")) == "failed at step 7: disk full"


def test_examples_and_strategies_cover_every_event() -> None:
    assert {type(event) for event in EXAMPLES} == set(EVENT_TYPES)


def test_types_have_different_names() -> None:
    assert len({cls.type for cls in EVENT_TYPES}) == len(EVENT_TYPES)


@pytest.mark.parametrize(
    ("number", "name"), [(math.nan, "NaN"), (-math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity")]
)
def test_numbers_that_json_lacks_travel_by_name(number: float, name: str) -> None:
    assert encode_number(number) == name
    assert repr(decode_number(name)) == repr(float(name))
    assert encode(Scalars(1, {"loss": number}))["values"] == {"loss": name}


@pytest.mark.parametrize("value", [0, 1.5, True, None, "text", 10**30])
def test_other_values_travel_as_they_are(value: Any) -> None:
    assert encode_number(value) is value
    assert decode_number(value) is value


def test_a_text_that_is_called_nan_stays_a_text() -> None:
    assert decode(encode(Notice(1, "NaN"))) == Notice(1, "NaN")


def test_the_json_form_is_pinned() -> None:
    assert encode(Progress(1, 2, 0.5, math.inf, 3.0)) == {
        "type": "progress",
        "step": 1,
        "total_steps": 2,
        "steps_per_second": 0.5,
        "images_per_second": "Infinity",
        "eta_seconds": 3.0,
        "peak_memory_bytes": None,
    }


def test_progress_that_tells_no_memory_is_read_too() -> None:
    document = {key: value for key, value in encode(EXAMPLES[1]).items() if key != "peak_memory_bytes"}
    assert decode(document) == EXAMPLES[1]


def test_the_envelope_around_an_event_is_ignored() -> None:
    assert decode({"seq": 7, "time": "now"} | encode(EXAMPLES[0])) == EXAMPLES[0]


@pytest.mark.parametrize("document", [{}, {"type": "rumour"}, {"type": None}])
def test_an_unknown_type_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="unknown event type"):
        decode(document)


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: event.type)
def test_a_missing_field_is_named(event: Event) -> None:
    for field in (field for field in fields(event) if field.default is MISSING):
        document = encode(event)
        del document[field.name]
        with pytest.raises(ValueError, match=f"'{event.type}' lacks {field.name}"):
            decode(document)


NOTICE = {"type": "notice", "step": 1, "message": ""}
SCALARS = {"type": "scalars", "step": 1, "values": {}}
GRID = encode(SampleGrid(1, "samples/step_00000001.png", "a" * 64))


@pytest.mark.parametrize(
    ("document", "field"),
    [
        (NOTICE | {"step": "1"}, "step"),
        (NOTICE | {"step": True}, "step"),
        (NOTICE | {"step": 1.5}, "step"),
        (NOTICE | {"step": -1}, "step"),
        (NOTICE | {"step": 2**53}, "step"),
        (NOTICE | {"step": 10**30}, "step"),
        (NOTICE | {"message": ["x"]}, "message"),
        (encode(EXAMPLES[0]) | {"resumed": 1}, "resumed"),
        (encode(EXAMPLES[1]) | {"eta_seconds": "soon"}, "eta_seconds"),
        (SCALARS | {"values": [["loss", 1.0]]}, "values"),
        (SCALARS | {"values": {"loss": "abc"}}, "values.loss"),
        (SCALARS | {"values": {"loss": None}}, "values.loss"),
        (SCALARS | {"values": {"loss": 10**400}}, "values.loss"),
        (SCALARS | {"values": {"a" * (MAX_NAME + 1): 1.0}}, "at most 200 characters"),
        (SCALARS | {"values": {"a\nb": 1.0}}, "control characters"),
        (SCALARS | {"values": dict.fromkeys(map(str, range(MAX_NAMES + 1)), 1.0)}, "at most 1000 items"),
        (GRID | {"sha256": "a" * 63}, "sha256"),
        (GRID | {"sha256": "a" * 64 + "\r\n"}, "sha256"),
    ],
)
def test_a_field_of_another_type_or_out_of_its_bounds_is_named(document: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=field) as refused:
        decode(document)
    assert len(str(refused.value)) < 400


class TestEffective:
    def test_without_a_resume_everything_holds(self) -> None:
        assert list(effective(EXAMPLES)) == list(EXAMPLES)

    def test_a_resume_voids_what_was_said_about_later_steps(self) -> None:
        said = [
            Started(0, 100, resumed=False),
            Scalars(10, {"loss": 1.0}),
            CheckpointSaved(20, "checkpoints/step_00000020", "ab" * 32),
            Scalars(20, {"loss": 2.0}),
            Scalars(30, {"loss": 3.0}),
            Started(20, 100, resumed=True),
            Scalars(30, {"loss": 4.0}),
        ]
        assert list(effective(said)) == [*said[:4], *said[5:]]

    def test_a_resume_voids_the_last_word_of_the_attempt_before(self) -> None:
        said = [Started(0, 10, resumed=False), Finished(5, "stopped", ""), Started(5, 10, resumed=True)]
        assert list(effective(said)) == [said[0], said[2]]

    def test_going_on_voids_the_rescored_best_of_the_shorter_run(self) -> None:
        scores = ({"inception_score": 7.0}, "digits-v1", {"inception_score": "f" * 64}, 0.5)
        said = [
            Started(0, 10, resumed=False),
            Evaluated(10, "final", *scores),
            Evaluated(5, "best_rescored", *scores),
            Started(10, 20, resumed=True),
        ]
        assert list(effective(said)) == [said[0], said[1], said[3]]

    def test_the_last_word_of_the_last_attempt_holds(self) -> None:
        said = [Started(0, 10, resumed=False), Finished(10, "completed", "")]
        assert list(effective(said)) == said

    def test_resumes_add_up(self) -> None:
        said = [
            Started(0, 100, resumed=False),
            *(Scalars(step, {"attempt": 1.0}) for step in (10, 20, 30)),
            Started(20, 100, resumed=True),
            *(Scalars(step, {"attempt": 2.0}) for step in (30, 40)),
            Started(10, 100, resumed=True),
            Scalars(20, {"attempt": 3.0}),
        ]
        scalars = [(event.step, event.values["attempt"]) for event in effective(said) if isinstance(event, Scalars)]
        assert scalars == [(10, 1.0), (20, 3.0)]

    def test_a_start_from_the_beginning_voids_everything_before(self) -> None:
        again = [Started(0, 100, resumed=False), SampleGrid(0, "samples/step_00000000.png", "ab" * 32)]
        assert list(effective([*again, Scalars(10, {"loss": 1.0}), *again])) == again

    def test_steps_never_go_back(self) -> None:
        said = [
            Started(0, 9, resumed=False),
            Scalars(4, {}),
            Scalars(8, {}),
            Started(4, 9, resumed=True),
            Scalars(5, {}),
        ]
        steps = [event.step for event in effective(said)]
        assert steps == sorted(steps)


OLDER = {"type": "evaluated", "step": 5, "purpose": "final", "scores": {"fid": "NaN", "kid": 0.5}}


class TestOlderJournals:
    def test_one_fingerprint_counts_for_each_score(self) -> None:
        event = decode({**OLDER, "protocol": "digits-v1", "fingerprint": "ab", "seconds": 1.0})
        assert isinstance(event, Evaluated)
        assert event.fingerprints == {"fid": "ab", "kid": "ab"}

    @pytest.mark.parametrize("damage", [{}, {"fingerprint": None}, {"fingerprint": "ab", "scores": None}])
    def test_an_event_without_fingerprints_is_refused(self, damage: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="event 'evaluated' lacks fingerprints"):
            decode({**OLDER, "protocol": "digits-v1", "seconds": 1.0, **damage})
