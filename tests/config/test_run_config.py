"""What a run is: closed, documented, checked, and hashed by what it computes."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from gan_mhe.config.compose import parse, parse_stored
from gan_mhe.config.documents import flatten, merge
from gan_mhe.config.run_config import EXECUTION_KEYS, DigestKind, RunConfig
from gan_mhe.errors import ConfigError
from gan_mhe.variants import VARIANTS
from tests.support.looped import looped

# Documents that together have every key there is: what contradicts the one stands in another.
FOLLOWED = {"ratio": {}}
FULL = {
    "generator": {"ema_halflife_steps": 100.0},
    "evaluation": {"protocol": "none"},
    "constraints": {
        "clipping": {},
        "gradient_penalty": FOLLOWED,
        "orthonormal": FOLLOWED,
        "mhe": {**FOLLOWED, "minibatch": {}},
        "weight_decay": FOLLOWED,
    },
}
OFFICIAL = {"constraints": {"normalization": "spectral", "official_mhe": FOLLOWED}}
COMHE = {"constraints": {"comhe": FOLLOWED}}
UNIFORM = {"constraints": {"uniformity": FOLLOWED, "sphere_conv": {"operator": "cosine"}}}
DOCUMENTS = {"FULL": FULL, "OFFICIAL": OFFICIAL, "COMHE": COMHE, "UNIFORM": UNIFORM}

# Enough values of every type that one of them is valid at each key and differs from what is there.
CANDIDATES = {
    "bool": [True, False],
    "str": ["cpu", "inception-2015", "mhe"],
    "number": [0.25, 1.5, 2, 3, 48],
    "unset": [8, "/elsewhere"],
    "list": [[0.5]],
}


def nested(*path: str, value: Any) -> dict[str, Any]:
    document = value
    for key in reversed(path):
        document = {key: document}
    return dict(document)


def sections(model: type[BaseModel] = RunConfig, path: tuple[str, ...] = ()) -> Iterator[tuple[str, type[BaseModel]]]:
    """Every section that a document can have, with its dotted key; the configuration itself is ''."""
    yield ".".join(path), model
    for name, field in model.model_fields.items():
        for below in models_in(field.annotation):
            yield from sections(below, (*path, name))


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The section that a field holds or may hold; empty for a leaf."""
    kinds = (annotation, *get_args(annotation))
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]


SECTIONS = dict(sections())


def leaves() -> list[tuple[str, str]]:
    """(document, key) of every leaf that a document can have, found in the models rather than listed here."""
    present = {name: set(flatten(parse(document).document())) for name, document in DOCUMENTS.items()}
    wanted = {
        f"{path}.{name}".lstrip(".")
        for path, model in SECTIONS.items()
        for name, field in model.model_fields.items()
        if not models_in(field.annotation)
    }
    assert wanted <= set.union(*present.values())
    return [(next(name for name in DOCUMENTS if key in present[name]), key) for key in sorted(wanted)]


def changed(document: dict[str, Any], key: str) -> RunConfig:
    """The document's configuration with another valid value at `key`."""
    old = flatten(parse(document).document())[key]
    kind = "unset" if old is None else "number" if type(old) in (int, float) else type(old).__name__
    for value in CANDIDATES[kind] + choices(key):
        try:
            config = parse(merge(document, nested(*key.split("."), value=value)))
        except ConfigError:
            continue
        if flatten(config.document())[key] != old:
            return config
    raise AssertionError(f"no other valid value of {key} among the candidates")


def choices(key: str) -> list[Any]:
    """The values of a closed choice; empty for other keys."""
    *path, name = key.split(".")
    model = SECTIONS[".".join(path)]
    return [value for value in get_args(model.model_fields[name].annotation) if isinstance(value, (str, int))]


LEAVES = leaves()


class TestDocumentation:
    @looped(("document", "key"), LEAVES)
    def test_every_key_says_what_it_means(self, document: str, key: str) -> None:
        *path, name = key.split(".")
        description = SECTIONS[".".join(path)].model_fields[name].description
        assert description and description.endswith(".") and description == description.strip()

    @looped(("path", "model"), SECTIONS.items())
    def test_every_section_says_what_it_is(self, path: str, model: type[BaseModel]) -> None:
        assert model.__doc__ and "BaseModel" not in model.__doc__

    @looped(("path", "model"), SECTIONS.items())
    def test_every_key_has_a_default(self, path: str, model: type[BaseModel]) -> None:
        assert not [name for name, field in model.model_fields.items() if field.is_required()]


class TestClosedness:
    @looped("path", list(SECTIONS))
    def test_an_unknown_key_is_refused_at_every_level(self, path: str) -> None:
        keys = [*path.split("."), "unheard_of"] if path else ["unheard_of"]
        with pytest.raises(ConfigError, match=rf"^{'.'.join(keys)}: unknown key"):
            parse(nested(*keys, value=1))

    @looped("path", list(SECTIONS)[1:])
    def test_a_value_in_place_of_a_section_is_refused(self, path: str) -> None:
        with pytest.raises(ConfigError, match=rf"^{path}: .*, but it is 3$"):
            parse(nested(*path.split("."), value=3))

    @looped("path", list(SECTIONS))
    def test_no_section_can_be_changed_after_it_was_checked(self, path: str) -> None:
        keys = [key for key in path.split(".") if key]
        found = [reduce(lambda at, key: at and getattr(at, key), keys, parse(each)) for each in DOCUMENTS.values()]
        section = next(filter(None, found))
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, next(iter(type(section).model_fields)), 1)


class TestDigest:
    @looped(("document", "key"), LEAVES)
    def test_it_changes_with_every_key_but_those_of_execution(self, document: str, key: str) -> None:
        before, after = parse(DOCUMENTS[document]), changed(DOCUMENTS[document], key)
        assert (after.digest() == before.digest()) == (key in EXECUTION_KEYS)

    @pytest.mark.parametrize(
        ("kind", "ignored", "covered"),
        [
            ("without_seed", {"seed": 5}, [{"variant": "mhe"}, {"loss": "hinge"}, {"training": {"steps": 7}}]),
            (
                "comparable",
                {"seed": 5, "variant": "mhe", "loss": "hinge", "constraints": {"normalization": "spectral"}},
                [{"training": {"steps": 7}}, {"data": {"flip": True}}, {"optimizer": {"beta1": 0.25}}],
            ),
        ],
    )
    def test_a_kind_of_digest_leaves_out_its_keys_and_no_others(
        self, kind: DigestKind, ignored: dict[str, Any], covered: list[dict[str, Any]]
    ) -> None:
        digest = parse({}).digest(kind)
        assert [key for key in ignored if parse({key: ignored[key]}).digest(kind) != digest] == []
        assert [document for document in covered if parse(document).digest(kind) == digest] == []

    def test_the_keys_of_execution_are_pinned(self) -> None:
        where = {"data.root", "data.download", "evaluation.weights", "evaluation.download"}
        how = {"training.device", "training.engine"}
        kept = {"checkpoint.every_steps", "checkpoint.keep_last", "checkpoint.keep_best"}
        assert where | how | kept == EXECUTION_KEYS
        assert {key for _, key in LEAVES} >= EXECUTION_KEYS

    @settings(deadline=None, derandomize=True, max_examples=20)
    @given(st.randoms(use_true_random=False), st.sampled_from([FULL, OFFICIAL]))
    def test_it_does_not_depend_on_the_order_of_keys(self, order: random.Random, document: dict[str, Any]) -> None:
        written = parse(document).document()
        assert parse(_shuffled(written, order)).digest() == parse(document).digest()

    def test_it_is_the_same_in_every_process(self) -> None:
        script = "from gan_mhe.config.run_config import RunConfig; print(RunConfig(variant='mhe_sn').digest())"
        digests = {
            subprocess.run(
                [sys.executable, "-c", script],
                env=os.environ | {"PYTHONHASHSEED": seed},
                capture_output=True,
                text=True,
                check=True,
                timeout=60,
            ).stdout.strip()
            for seed in ("1", "2")
        }
        assert digests == {RunConfig(variant="mhe_sn").digest()}

    def test_a_written_default_is_the_same_experiment_as_an_absent_one(self) -> None:
        assert parse({"training": {"steps": 1000, "n_dis": 1}}).digest() == parse({}).digest()

    def test_an_integer_in_place_of_a_number_is_the_same_experiment(self) -> None:
        assert parse({"generator": {"width": 1}}).digest() == parse({"generator": {"width": 1.0}}).digest()


def _shuffled(document: dict[str, Any], order: random.Random) -> dict[str, Any]:
    keys = list(document)
    order.shuffle(keys)
    return {key: _shuffled(document[key], order) if isinstance(document[key], dict) else document[key] for key in keys}


class TestVariant:
    @looped("name", VARIANTS)
    def test_naming_it_equals_writing_it_out(self, name: str) -> None:
        written_out = {"variant": name, **VARIANTS[name].patch}
        assert parse({"variant": name}) == parse(written_out)

    @looped("name", VARIANTS)
    def test_a_dumped_configuration_is_read_back_equal(self, name: str) -> None:
        config = parse(
            {"variant": name, "data": {"root": "/data"}, "optimizer": {"schedule": {"kind": "linear_decay"}}}
        )
        assert parse(config.document()) == config
        assert RunConfig.model_validate_json(config.model_dump_json()) == config
        assert parse(config.document()).digest() == config.digest()

    def test_keys_beside_it_win_over_its_own(self) -> None:
        document = {
            "variant": "mhe_sn",
            "constraints": {"normalization": "none", "mhe": {"lambda_hidden": 3.0, "s": 1}},
        }
        constraints = parse(document).constraints
        assert (constraints.normalization, constraints.mhe.lambda_hidden, constraints.mhe.s) == ("none", 3.0, 1.0)

    def test_its_keys_that_are_not_written_beside_it_stay(self) -> None:
        mhe = parse({"variant": "half_angular_mhe", "constraints": {"mhe": {"s": 2}}}).constraints.mhe
        assert (mhe.lambda_hidden, mhe.distance, mhe.half_space, mhe.s) == (1.0, "geodesic", True, 2.0)

    def test_a_dump_that_switched_a_section_off_keeps_it_off(self) -> None:
        config = parse({"variant": "mhe", "constraints": {"mhe": None}})
        assert config.constraints.mhe is None
        assert parse(config.document()).constraints.mhe is None

    @pytest.mark.parametrize("name", ["mhes", "", 3, None, ["mhe"], {"name": "mhe"}])
    def test_an_unknown_one_is_refused(self, name: Any) -> None:
        with pytest.raises(ConfigError, match="unknown variant"):
            parse({"variant": name})

    def test_validating_leaves_the_table_and_the_document_alone(self) -> None:
        document = {"variant": "mhe_sn", "constraints": {"mhe": {"s": 1}}}
        parse(document)
        assert document == {"variant": "mhe_sn", "constraints": {"mhe": {"s": 1}}}
        assert VARIANTS["mhe_sn"].patch["constraints"]["mhe"] == {"lambda_hidden": 1.0}


class TestStored:
    """A configuration read back is what was written, whatever today's table of variants says."""

    @pytest.mark.parametrize("name", VARIANTS)
    def test_a_written_configuration_is_read_back_equal(self, name: str) -> None:
        config = parse({"variant": name})
        assert RunConfig.stored(config.document()) == config
        assert RunConfig.stored(config.document()).digest() == config.digest()

    def test_a_key_that_was_not_written_takes_its_own_default_and_not_the_variants(self) -> None:
        assert parse({"variant": "mhe"}).constraints.mhe.schedule.warmup_steps == 500
        written = parse({"variant": "mhe"}).document()
        del written["constraints"]["mhe"]["schedule"]
        assert RunConfig.stored(written).constraints.mhe.schedule.warmup_steps == 0
        written["constraints"] = {}
        assert RunConfig.stored(written).constraints.mhe is None

    def test_a_value_that_differs_from_the_variants_is_kept(self) -> None:
        written = parse({"variant": "mhe", "constraints": {"mhe": {"schedule": {"warmup_steps": 0}}}})
        assert RunConfig.stored(written.document()).constraints.mhe.schedule.warmup_steps == 0

    def test_a_variant_that_no_longer_exists_is_kept_by_name(self) -> None:
        written = merge(parse({"variant": "mhe"}).document(), {"variant": "mhe_of_old"})
        config = RunConfig.stored(written)
        assert config.variant == "mhe_of_old"
        assert config.constraints == parse({"variant": "mhe"}).constraints
        assert RunConfig.stored(config.document()) == config

    @pytest.mark.parametrize("document", [{"training": {"steps": 0}}, {"unheard_of": 1}, [], {"variant": 3}])
    def test_what_no_version_wrote_is_refused(self, document: Any) -> None:
        with pytest.raises(ValidationError):
            RunConfig.stored(document)

    def test_a_refusal_names_the_key_as_for_a_users_document(self) -> None:
        with pytest.raises(ConfigError, match=r"^training\.steps: input should be greater than or equal to 1"):
            parse_stored({"training": {"steps": 0}})


class TestRefusals:
    @looped(
        ("key", "value", "expectation"),
        [
            ("constraints.mhe.lambda_hidden", -1.0, "greater than or equal to 0"),
            ("constraints.mhe.lambda_output", -0.5, "greater than or equal to 0"),
            ("constraints.mhe.s", 16.5, "less than or equal to 16"),
            ("constraints.mhe.s", -1, "greater than or equal to 0"),
            ("constraints.mhe.interval", 0, "greater than or equal to 1"),
            ("constraints.mhe.distance", "chordal", "'euclidean' or 'geodesic'"),
            ("constraints.official_mhe.coefficient", -1e-6, "greater than or equal to 0"),
            ("constraints.weight_decay.power", 3, "1 or 2"),
            ("constraints.weight_decay.coefficient", -1e-4, "greater than or equal to 0"),
            ("constraints.clipping.bound", 0.0, "greater than 0"),
            ("constraints.gradient_penalty.coefficient", -10, "greater than or equal to 0"),
            ("constraints.normalization", "group", "'none', 'batch', 'layer', 'weight' or 'spectral'"),
            ("optimizer.generator_lr", 0, "greater than 0"),
            ("optimizer.beta1", 1.0, "less than 1"),
            ("optimizer.beta2", -0.1, "greater than or equal to 0"),
            ("optimizer.schedule.warmup_steps", -1, "greater than or equal to 0"),
            ("optimizer.schedule.kind", "step", "'constant', 'linear_decay' or 'cosine_decay'"),
            ("training.steps", 0, "greater than or equal to 1"),
            ("training.steps", 1.5, "valid integer"),
            ("training.batch_size", 1, "greater than or equal to 2"),
            ("training.n_dis", 0, "greater than or equal to 1"),
            ("training.device", "tpu", "pattern"),
            ("training.device", "cuda:", "pattern"),
            ("training.precision", "float16", "'float32', 'tf32', 'bf16' or 'float64'"),
            ("data.image_size", 28, "32, 48 or 64"),
            ("sampling.num_images", 1025, "less than or equal to 1024"),
            ("evaluation.num_samples", 0, "greater than or equal to 1"),
            ("checkpoint.keep_last", 0, "greater than or equal to 1"),
            ("generator.width", "wide", "valid number"),
            ("loss", "logistic", "'non_saturating', 'hinge', 'wasserstein' or 'least_squares'"),
            ("seed", -1, "greater than or equal to 0"),
            ("seed", 2**53, f"less than {2**53}"),
        ],
    )
    def test_a_message_names_key_expectation_and_value(self, key: str, value: Any, expectation: str) -> None:
        with pytest.raises(ConfigError) as refused:
            parse(nested(*key.split("."), value=value))
        message = str(refused.value)
        assert message.startswith(f"{key}: ")
        assert expectation in message
        assert message.endswith(f"but it is {value!r}")

    @looped("number", [float("nan"), float("inf"), float("-inf")])
    @looped("key", [key for _, key in LEAVES if key not in ("data.root", "evaluation.weights")])
    def test_no_key_takes_a_number_that_is_not_finite(self, key: str, number: float) -> None:
        with pytest.raises(ConfigError, match=key.rsplit(".", 1)[-1]):
            parse(nested(*key.split("."), value=number))

    def test_every_wrong_key_is_listed(self) -> None:
        with pytest.raises(ConfigError) as refused:
            parse({"training": {"steps": 0, "n_dis": -1}, "sampling": {"every": 5}})
        assert [line.split(":")[0] for line in str(refused.value).splitlines()] == [
            "training.steps",
            "training.n_dis",
            "sampling.every",
        ]

    @looped(
        ("document", "named"),
        [
            ({"constraints": {"clipping": {}, "normalization": "weight"}}, ["constraints", "clipping", "'weight'"]),
            ({"constraints": {"clipping": {}, "normalization": "spectral"}}, ["constraints", "clipping", "'spectral'"]),
            ({"variant": "spectral_norm", "constraints": {"clipping": {}}}, ["constraints", "clipping", "'spectral'"]),
            ({"constraints": {"mhe": {}, "official_mhe": {}}}, ["constraints", "mhe", "official_mhe"]),
            ({"variant": "mhe", "constraints": {"official_mhe": {}}}, ["constraints", "mhe", "official_mhe"]),
            ({"constraints": {"comhe": {}, "uniformity": {}}}, ["comhe", "uniformity", "expected one"]),
            ({"constraints": {"sphere_conv": {}, "normalization": "weight"}}, ["sphere_conv", "'weight'"]),
            ({"constraints": {"sphere_conv": {}, "normalization": "spectral"}}, ["sphere_conv", "'spectral'"]),
            ({"constraints": {"sphere_conv": {}, "clipping": {}}}, ["sphere_conv", "clipping"]),
            ({"constraints": {"sphere_conv": {"rescale": True}}}, ["sphere_conv.rescale", "'sigmoid'"]),
            ({"constraints": {"sphere_conv": {"operator": "learnable", "k": 0.05}}}, ["sphere_conv.k", "0.05"]),
            ({"evaluation": {"ema": True}}, ["evaluation.ema", "generator.ema_halflife_steps", "0"]),
            ({"data": {"name": "image_folder"}}, ["data.root", "image_folder"]),
            ({"data": {"image_size": 48}}, ["evaluation.protocol", "digits-v1", "data.image_size", "48"]),
        ],
    )
    def test_contradictions_are_refused_with_both_sides_named(self, document: dict[str, Any], named: list[str]) -> None:
        with pytest.raises(ConfigError) as refused:
            parse(document)
        assert [name for name in named if name not in str(refused.value)] == []

    @pytest.mark.parametrize(
        "document",
        [
            {"constraints": {"clipping": {}, "normalization": "batch"}},
            {"constraints": {"mhe": {}, "orthonormal": {}, "weight_decay": {}, "gradient_penalty": {}}},
            {"constraints": {"mhe": {"lambda_hidden": 0}}},
            {"evaluation": {"ema": True}, "generator": {"ema_halflife_steps": 1}},
            {"data": {"name": "image_folder", "root": "/images"}},
            {"data": {"image_size": 48}, "evaluation": {"protocol": "none"}},
            {"training": {"device": "cuda:1"}},
            {"evaluation": {"protocol": "classifier:mine"}},
        ],
    )
    def test_what_only_looks_like_a_contradiction_is_accepted(self, document: dict[str, Any]) -> None:
        assert isinstance(parse(document), RunConfig)


class TestTruthValues:
    @pytest.mark.parametrize(
        ("key", "document"),
        [
            ("training.steps", {"training": {"steps": True}}),
            ("seed", {"seed": False}),
            ("data.image_size", {"data": {"image_size": True}}),
            ("evaluation.num_samples", {"evaluation": {"num_samples": True}}),
            ("optimizer.schedule.warmup_steps", {"optimizer": {"schedule": {"warmup_steps": True}}}),
            ("constraints.mhe.lambda_hidden", {"constraints": {"mhe": {"lambda_hidden": True}}}),
            ("constraints.mhe.layer_factors", {"constraints": {"mhe": {"layer_factors": [1.0, True]}}}),
        ],
    )
    def test_one_is_not_a_number(self, key: str, document: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=f"^{key}: expected a number, but it is .*(True|False)"):
            parse(document)

    def test_keys_that_are_one_take_it(self) -> None:
        config = parse({"data": {"flip": True}, "constraints": {"mhe": {"half_space": True, "ratio": False}}})
        assert config.data.flip and config.constraints.mhe is not None and config.constraints.mhe.half_space


class TestResume:
    @staticmethod
    def changes(saved: dict[str, Any], asked: dict[str, Any]) -> list[str]:
        return parse(asked).changes_on_resume(parse(saved))

    def test_the_same_configuration_continues(self) -> None:
        assert self.changes(FULL, FULL) == []

    def test_a_longer_run_continues_while_every_schedule_is_constant(self) -> None:
        short, long = ({"variant": "mhe", "training": {"steps": steps}} for steps in (100, 200))
        assert self.changes(short, long) == []
        assert parse(short).digest("resumable") == parse(long).digest("resumable")
        assert parse(short).digest() != parse(long).digest()

    @pytest.mark.parametrize("section", ["optimizer", "constraints.mhe", "constraints.gradient_penalty"])
    @pytest.mark.parametrize("kind", ["linear_decay", "cosine_decay"])
    def test_a_longer_run_does_not_continue_a_decay(self, section: str, kind: str) -> None:
        decay = nested(*section.split("."), "schedule", "kind", value=kind)
        short, long = (merge(decay, {"training": {"steps": steps}}) for steps in (100, 200))
        assert self.changes(short, long) == ["training.steps was 100, is 200"]
        assert parse(short).digest("resumable") != parse(long).digest("resumable")
        assert self.changes(short, short) == []

    def test_a_warm_up_does_not_reach_back_from_the_end(self) -> None:
        warm = {"optimizer": {"schedule": {"warmup_steps": 10}}}
        assert self.changes(warm, merge(warm, {"training": {"steps": 5000}})) == []

    @looped("key", sorted(EXECUTION_KEYS))
    def test_where_and_how_it_is_executed_may_change(self, key: str) -> None:
        assert changed(FULL, key).changes_on_resume(parse(FULL)) == []

    @looped(("document", "key"), [leaf for leaf in LEAVES if leaf[1] not in EXECUTION_KEYS | {"training.steps"}])
    def test_every_other_change_is_named(self, document: str, key: str) -> None:
        before, after = parse(DOCUMENTS[document]), changed(DOCUMENTS[document], key)
        old, new = (flatten(config.document())[key] for config in (before, after))
        assert f"{key} was {old!r}, is {new!r}" in after.changes_on_resume(before)
        assert after.digest("resumable") != before.digest("resumable")

    def test_a_penalty_that_is_new_is_named(self) -> None:
        assert "constraints.mhe.lambda_hidden was None, is 10.0" in self.changes(
            {}, {"constraints": {"mhe": {"lambda_hidden": 10}}}
        )

    def test_only_what_changed_is_named_when_a_decay_is_new(self) -> None:
        decay = {"optimizer": {"schedule": {"kind": "linear_decay"}}}
        assert self.changes({}, decay) == ["optimizer.schedule.kind was 'constant', is 'linear_decay'"]


class TestMergeAndFlatten:
    def test_tables_are_merged_and_values_replaced(self) -> None:
        base = {"a": {"x": 1, "y": {"z": 2}}, "b": 3}
        over = {"a": {"y": {"z": 4, "w": 5}}, "c": 6}
        assert merge(base, over) == {"a": {"x": 1, "y": {"z": 4, "w": 5}}, "b": 3, "c": 6}

    def test_merging_changes_neither_side(self) -> None:
        base, over = {"a": {"x": 1}}, {"a": {"y": 2}}
        merge(base, over)
        assert (base, over) == ({"a": {"x": 1}}, {"a": {"y": 2}})

    @pytest.mark.parametrize("over", [3, None, "text"])
    def test_a_value_replaces_a_table(self, over: Any) -> None:
        assert merge({"a": {"x": 1}}, {"a": over}) == {"a": over}
        assert merge({"a": over}, {"a": {"x": 1}}) == {"a": {"x": 1}}

    def test_flattening_joins_keys_with_dots(self) -> None:
        assert flatten({"a": {"b": {"c": 1}, "d": None}, "e": [2]}) == {"a.b.c": 1, "a.d": None, "e": [2]}


def test_paths_are_kept_as_text_in_the_document() -> None:
    assert parse({"data": {"root": Path("/data")}}).document()["data"]["root"] == "/data"
