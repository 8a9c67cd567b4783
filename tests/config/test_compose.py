"""File < variant < seed < overrides, and messages that help."""

import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gan_mhe.config import documents
from gan_mhe.config.compose import (
    compose,
    expand,
    find_local,
    parse,
    parse_local_overrides,
    parse_overrides,
    with_absolute_paths,
)
from gan_mhe.config.documents import PRESETS, load_document, merge
from gan_mhe.config.run_config import RunConfig
from gan_mhe.errors import ConfigError, nearest
from gan_mhe.variants import VARIANTS
from tests.support.looped import looped

FILE = {
    "variant": "mhe",
    "seed": 5,
    "loss": "hinge",
    "training": {"steps": 300, "batch_size": 32},
    "constraints": {"normalization": "layer", "weight_decay": {"coefficient": 0.01}},
}


class TestOrder:
    def test_a_file_alone_is_itself(self) -> None:
        assert compose(FILE) == parse(FILE)

    def test_a_variant_from_outside_wins_over_the_files_loss(self) -> None:
        assert compose(FILE, variant="wgan_gp").loss == "wasserstein"

    def test_a_variant_without_a_loss_keeps_the_files(self) -> None:
        assert compose(FILE, variant="gan_gp").loss == "hinge"

    @looped("name", VARIANTS)
    def test_a_variant_from_outside_drops_the_files_constraints(self, name: str) -> None:
        config = compose(FILE, variant=name)
        assert config.variant == name
        assert config.constraints == parse({"variant": name}).constraints

    def test_a_variant_keeps_the_rest_of_the_file(self) -> None:
        config = compose(FILE, variant="mhe_sn")
        assert (config.seed, config.training.steps, config.training.batch_size) == (5, 300, 32)

    def test_a_seed_wins_over_the_file_even_when_it_is_zero(self) -> None:
        assert compose(FILE, seed=0).seed == 0
        assert compose(FILE, seed=7).seed == 7

    def test_overrides_win_over_file_variant_and_seed(self) -> None:
        overrides = {"seed": 9, "loss": "least_squares", "constraints": {"mhe": {"lambda_hidden": 2.0}}}
        config = compose(FILE, variant="mhe_sn", seed=7, overrides=overrides)
        assert (config.seed, config.loss) == (9, "least_squares")
        assert config.constraints.normalization == "spectral"
        assert config.constraints.mhe is not None and config.constraints.mhe.lambda_hidden == 2.0

    def test_overrides_leave_their_neighbours_alone(self) -> None:
        training = compose(FILE, overrides={"training": {"steps": 10}}).training
        assert (training.steps, training.batch_size) == (10, 32)

    def test_a_variant_among_the_overrides_is_named_from_outside_too(self) -> None:
        expected = compose(FILE, variant="mhe_sn")
        assert compose(FILE, overrides={"variant": "mhe_sn"}) == expected
        assert compose(FILE, variant="half_mhe", overrides={"variant": "mhe_sn"}) == expected

    def test_composing_changes_neither_the_document_nor_the_overrides(self) -> None:
        document, overrides = {"constraints": {"mhe": {"s": 1}}}, {"training": {"steps": 3}}
        compose(document, variant="mhe", seed=1, overrides=overrides)
        assert document == {"constraints": {"mhe": {"s": 1}}}
        assert overrides == {"training": {"steps": 3}}

    @pytest.mark.parametrize("name", ["mhe_ns", "", 3, ["mhe"]])
    def test_an_unknown_variant_is_refused(self, name: Any) -> None:
        with pytest.raises(ConfigError, match="unknown variant"):
            compose(FILE, variant=name)
        with pytest.raises(ConfigError, match="unknown variant"):
            compose(FILE, overrides={"variant": name})


class TestStored:
    WRITTEN = merge(parse({"variant": "mhe"}).document(), {"variant": "mhe_of_old"})

    def test_a_stored_configuration_is_composed_without_its_variant(self) -> None:
        config = compose(self.WRITTEN, seed=4, overrides={"training": {"steps": 7}}, stored=True)
        assert (config.variant, config.seed, config.training.steps) == ("mhe_of_old", 4, 7)
        assert config.constraints == parse({"variant": "mhe"}).constraints

    def test_a_variant_named_for_it_owns_the_constraints(self) -> None:
        assert (
            compose(self.WRITTEN, variant="gan_gp", stored=True).constraints == parse({"variant": "gan_gp"}).constraints
        )

    def test_a_users_document_of_an_unknown_variant_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="unknown variant 'mhe_of_old'"):
            compose(self.WRITTEN)


class TestExpand:
    def test_whole_seeds_of_all_variants_come_first(self) -> None:
        configs = expand({}, variants=["mhe", "none"], seeds=[3, 1])
        assert [(config.seed, config.variant) for config in configs] == [
            (3, "mhe"),
            (3, "none"),
            (1, "mhe"),
            (1, "none"),
        ]

    def test_each_is_what_composing_it_alone_gives(self) -> None:
        overrides = {"training": {"steps": 10}}
        configs = expand(FILE, variants=["none", "wgan_gp"], seeds=[0, 1], overrides=overrides)
        for config in configs:
            assert config == compose(FILE, variant=config.variant, seed=config.seed, overrides=overrides)

    def test_nothing_times_something_is_nothing(self) -> None:
        assert expand({}, variants=[], seeds=[0]) == expand({}, variants=["none"], seeds=[]) == []


class TestOverrides:
    @looped(
        ("text", "value"),
        [
            ("300", 300),
            ("1e-7", 1e-7),
            ("10_000", 10_000),
            ("true", True),
            ('"300"', "300"),
            ('{ kind = "linear_decay" }', {"kind": "linear_decay"}),
            ("[1, 2]", [1, 2]),
            ("mhe_sn", "mhe_sn"),
            ("/data/images of cats", "/data/images of cats"),
            ("/data/#1", "/data/#1"),
            ("cuda:1", "cuda:1"),
            ("", ""),
            ("a=b", "a=b"),
            ("True", "True"),
            ("2024-05-01", datetime.date(2024, 5, 1)),
        ],
    )
    def test_a_value_is_toml_where_it_can_be_and_text_otherwise(self, text: str, value: Any) -> None:
        parsed = parse_overrides([f"key={text}"])["key"]
        assert parsed == value and type(parsed) is type(value)

    @looped("key", ["data.root", "evaluation.weights", "variant", "loss", "constraints.normalization"])
    @looped("text", ["2024-05-01", "2024", "true", "1e5", "nan", "[1]", "{ a = 1 }", "a b", "12:30:00"])
    def test_a_key_that_holds_text_takes_the_value_as_it_is(self, key: str, text: str) -> None:
        assert documents.flatten(parse_overrides([f"{key}={text}"])) == {key: text}

    @looped("text", ['"2024"', "'2024'"])
    def test_a_key_that_holds_text_takes_a_toml_string_too(self, text: str) -> None:
        assert parse_overrides([f"data.root={text}"]) == {"data": {"root": "2024"}}

    def test_dots_make_tables_that_are_merged(self) -> None:
        parsed = parse_overrides(["training.steps=3", "constraints.mhe.s=1", "training.n_dis=2", "seed=4"])
        assert parsed == {"training": {"steps": 3, "n_dis": 2}, "constraints": {"mhe": {"s": 1}}, "seed": 4}

    def test_spaces_around_key_and_value_do_not_matter(self) -> None:
        assert parse_overrides([" training.steps = 3 "]) == {"training": {"steps": 3}}

    def test_the_last_assignment_of_a_key_counts(self) -> None:
        assert parse_overrides(["seed=1", "seed=2"]) == {"seed": 2}

    @pytest.mark.parametrize("assignment", ["training.steps", "", "=3", " = 3"])
    def test_without_key_and_equals_sign_it_is_refused(self, assignment: str) -> None:
        with pytest.raises(ConfigError, match="expected key=value") as refused:
            parse_overrides([assignment])
        assert repr(assignment) in str(refused.value)

    def test_none_are_no_tables(self) -> None:
        assert parse_overrides([]) == {}

    @settings(deadline=None, derandomize=True, max_examples=200)
    @given(st.text(max_size=40))
    def test_any_text_gives_tables_or_our_own_error(self, assignment: str) -> None:
        try:
            parsed = parse_overrides([assignment])
        except ConfigError:
            return
        assert isinstance(parsed, dict) and len(parsed) == 1

    @settings(deadline=None, derandomize=True, max_examples=100)
    @given(
        st.sampled_from(["variant", "seed", "loss", "training.device", "data.root", "constraints", "data.name"]),
        st.sampled_from(["true", "1979-05-27", "[[]]", "{}", "nan", "-inf", "''", "x", "0", "{ a = 1 }"]),
    )
    def test_any_override_gives_a_configuration_or_our_own_error(self, key: str, value: str) -> None:
        try:
            config = compose(FILE, overrides=parse_overrides([f"{key}={value}"]))
        except ConfigError as error:
            assert str(error)
        else:
            assert isinstance(config, RunConfig)


class TestMessages:
    @pytest.mark.parametrize(
        ("key", "meant"),
        [
            ("trainin", "training"),
            ("training.step", "steps"),
            ("optimizer.schedule.knd", "kind"),
            ("constraints.mhe.lamda_hidden", "lambda_hidden"),
            ("constraints.official_mhe.log_epsilon", "log_eps"),
            ("evaluation.protokol", "protocol"),
        ],
    )
    def test_a_misspelt_key_names_the_nearest(self, key: str, meant: str) -> None:
        with pytest.raises(ConfigError) as refused:
            parse(parse_overrides([f"{key}=1"]))
        assert str(refused.value) == f"{key}: unknown key; did you mean {meant!r}?"

    def test_a_misspelt_variant_names_the_nearest(self) -> None:
        with pytest.raises(ConfigError, match=r"^unknown variant 'half_mhe_ns'; did you mean 'half_mhe_sn'\?$"):
            compose({}, variant="half_mhe_ns")

    def test_without_a_near_name_all_are_listed(self) -> None:
        assert nearest("xyz", ["b", "a"]) == "; expected one of a, b"
        assert nearest("seeed", ["seed", "data"]) == "; did you mean 'seed'?"


class TestPaths:
    """Where a path begins."""

    @pytest.fixture(autouse=True)
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", "/home/somebody")

    def test_in_a_file_it_is_relative_to_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "run.toml").write_text('data.root = "faces"\nevaluation.weights = "w/a.safetensors"\n')
        found = find_local("sub/run.toml")
        assert found["data"]["root"] == str(tmp_path / "sub" / "faces")
        assert found["evaluation"]["weights"] == str(tmp_path / "sub" / "w" / "a.safetensors")

    def test_on_the_command_line_it_is_relative_to_the_working_directory(self, tmp_path: Path) -> None:
        assert parse_local_overrides(["data.root=2024"]) == {"data": {"root": str(tmp_path / "2024")}}

    def test_an_absolute_one_stays(self) -> None:
        assert parse_local_overrides(["data.root=/a/b"]) == {"data": {"root": "/a/b"}}

    def test_a_tilde_is_the_home_folder(self, tmp_path: Path) -> None:
        (tmp_path / "run.toml").write_text('data.root = "~/faces"\n')
        expected = {"data": {"root": "/home/somebody/faces"}}
        assert find_local("run.toml") == expected
        assert parse_local_overrides(["data.root=~/faces"]) == expected

    def test_a_home_that_is_not_known_is_refused_with_the_key(self) -> None:
        with pytest.raises(ConfigError, match=r"^data\.root: expected a path, got '~nobody_here/x'"):
            parse_local_overrides(["data.root=~nobody_here/x"])

    def test_stored_ones_are_absolute_and_change_no_digest(self, tmp_path: Path) -> None:
        relative = parse({"data": {"root": "faces"}})
        absolute = with_absolute_paths(relative)
        assert absolute.data.root == tmp_path / "faces"
        assert absolute.digest() == relative.digest()

    def test_nothing_else_changes(self) -> None:
        assert with_absolute_paths(parse(FILE)) == parse(FILE)


class TestFiles:
    @looped("kind", ["file", "folder", "nothing"])
    def test_nothing_hides_a_preset(self, tmp_path: Path, kind: str) -> None:
        (tmp_path / kind).mkdir()
        if kind == "file":
            (tmp_path / kind / "debug_cpu").write_text("seed = 3\n")
        elif kind == "folder":
            (tmp_path / kind / "debug_cpu").mkdir()
        assert documents.find_document("debug_cpu", tmp_path / kind) == load_document(PRESETS / "debug_cpu.toml")

    @looped("name", ["./debug_cpu", "debug_cpu.toml"])
    def test_a_path_is_a_file_even_if_a_preset_has_its_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path(name).write_text("seed = 3\n")
        assert documents.find_document(name) == {"seed": 3}

    def test_a_byte_order_mark_does_no_harm(self, tmp_path: Path) -> None:
        (tmp_path / "run.toml").write_bytes("seed = 3\r\n".encode("utf-8-sig"))
        assert load_document(tmp_path / "run.toml") == {"seed": 3}

    def test_a_toml_file_is_read_as_tables(self, tmp_path: Path) -> None:
        (tmp_path / "run.toml").write_text('seed = 3\n[data]\nname = "synthetic"\n')
        assert load_document(tmp_path / "run.toml") == {"seed": 3, "data": {"name": "synthetic"}}

    @pytest.mark.parametrize("content", [b"seed = ", b"seed: 3", b"\xff\xfe", b"seed = 1\nseed = 2"])
    def test_what_is_not_toml_is_refused_with_the_files_name(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "run.toml").write_bytes(content)
        with pytest.raises(ConfigError, match=r"run\.toml is not valid TOML"):
            load_document(tmp_path / "run.toml")

    def test_a_missing_file_or_a_folder_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"absent\.toml: No such file"):
            load_document(tmp_path / "absent.toml")
        with pytest.raises(ConfigError, match="Is a directory"):
            load_document(tmp_path)

    def test_a_number_in_scientific_notation_stays_a_number(self, tmp_path: Path) -> None:
        (tmp_path / "run.toml").write_text("[constraints.mhe]\nlambda_hidden = 1e-7\n")
        mhe = parse(load_document(tmp_path / "run.toml")).constraints.mhe
        assert mhe is not None and mhe.lambda_hidden == 1e-7

    def test_the_presets_lie_beside_the_package(self) -> None:
        assert {"digits_cnn", "debug_cpu", "cifar10_cnn_official"} <= {path.stem for path in PRESETS.glob("*.toml")}


@pytest.mark.parametrize("value", ["[" * 10_000 + "]" * 10_000, "9" * 5000])
def test_a_file_that_no_parser_is_made_for_is_refused(tmp_path: Path, value: str) -> None:
    (tmp_path / "run.toml").write_text(f"seed = {value}")
    with pytest.raises(ConfigError, match=r"run\.toml is no configuration"):
        load_document(tmp_path / "run.toml")


def test_a_run_is_a_composition_of_its_own_document() -> None:
    config = compose(FILE, variant="half_mhe_sn", seed=2)
    assert compose(config.document()) == config
    assert compose(merge(config.document(), {"seed": 3})) == compose(FILE, variant="half_mhe_sn", seed=3)
