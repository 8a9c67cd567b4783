"""From requests to configurations: what the operator's rules let in, and where refusals point."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gan_mhe.config import compose, documents
from gan_mhe.config.documents import merge
from gan_mhe.data.folder_listing import list_folder
from server.clock import now_ms
from server.errors import InsufficientStorage, InvalidRequest, QueueFull
from server.executors.base import Slot
from server.queue import admission, estimates, queue
from server.queue.admission import Operator, Source
from server.settings import Settings
from server.store.store import Store
from tests.support.fake_executor import FakeExecutor

DEBUG = documents.load_document(documents.PRESETS / "debug_cpu.toml")


@pytest.fixture
def operator(settings: Settings, executor: FakeExecutor) -> Operator:
    return Operator(settings, executor)


def allowing(operator: Operator, **settings: Any) -> Operator:
    return dataclasses.replace(operator, settings=operator.settings.model_copy(update=settings))


def refused(operator: Operator, source: Source) -> dict[str, tuple[str, str]]:
    """Code and message of each refusal, by pointer."""
    with pytest.raises(InvalidRequest) as refusal:
        admission.resolve(operator, source)
    return {error.pointer: (error.code, error.message) for error in refusal.value.errors}


def on_debug(**overrides: Any) -> Source:
    return Source(preset="debug_cpu", overrides={key.replace("__", "."): value for key, value in overrides.items()})


# Composing.


def test_overrides_win_over_variant_and_variant_over_preset(operator: Operator) -> None:
    source = Source(
        preset="debug_cpu", variant="mhe_sn", seed=7, overrides={"training.steps": 9, "constraints.mhe.s": 2.0}
    )
    config = admission.resolve(operator, source)
    assert (config.variant, config.seed, config.training.steps) == ("mhe_sn", 7, 9)
    assert config.constraints.mhe is not None
    assert config.constraints.mhe.s == 2.0
    assert config.constraints.normalization == "spectral"
    assert config.training.batch_size == 8


def test_a_whole_configuration_comes_through_unchanged(operator: Operator) -> None:
    config = compose.compose(DEBUG, variant="half_mhe", seed=3)
    assert admission.resolve(operator, Source(config=config.document())) == config


def test_a_job_of_a_variant_that_no_longer_exists_can_be_forked(operator: Operator) -> None:
    ancestor = compose.compose(DEBUG, variant="mhe").document() | {"variant": "mhe_of_old"}
    config = admission.resolve(operator, Source(ancestor=ancestor, overrides={"training.steps": 99}))
    assert (config.variant, config.training.steps) == ("mhe_of_old", 99)
    assert set(refused(operator, Source(config=ancestor))) == {"/config/variant"}


def test_a_misspelt_override_is_refused_with_the_nearest_key(operator: Operator) -> None:
    errors = refused(operator, on_debug(training__stepz=3))
    assert errors == {
        "/overrides/training.stepz": ("unknown_key", "training.stepz: unknown key; did you mean 'steps'?")
    }


def test_every_wrong_field_is_reported(operator: Operator) -> None:
    errors = refused(operator, on_debug(training__steps=0, optimizer__beta1=2, loss="hinge_"))
    assert set(errors) == {"/overrides/training.steps", "/overrides/optimizer.beta1", "/overrides/loss"}
    assert "but it is 0" in errors["/overrides/training.steps"][1]


@pytest.mark.parametrize(
    ("source", "pointer"),
    [
        (Source(config={"training": {"steps": "many"}}), "/config/training/steps"),
        (Source(config={"trianing": {}}), "/config/trianing"),
        (Source(config={"a/b": 1}), "/config/a~1b"),
        (Source(config={"variant": "mhe_sm"}), "/config/variant"),
        (Source(preset="debug_cpu", variant="mhe_sm"), "/variant"),
        (Source(preset="debug_cpu", seed=-1), "/seed"),
        (Source(preset="debug_cpu", overrides={"seed": -1}), "/overrides/seed"),
        (Source(preset="debug_cpu", overrides={"variant": "mhe_sm"}), "/overrides/variant"),
        (Source(preset="debug_cpu", overrides={"training": {"steps": 0}}), "/overrides/training"),
        (Source(preset="debug_cpu", overrides={"training": 3}), "/overrides/training"),
        (Source(preset="debug_cpu", overrides={"training.steps.more": 3}), "/overrides/training.steps.more"),
        (Source(preset="debug_cpu", overrides={"": 3}), "/overrides/"),
        (Source(preset="debug_cpu", overrides={"a~b": 3}), "/overrides/a~0b"),
        (Source(preset="degub_cpu"), "/preset"),
        (Source(ancestor=DEBUG, overrides={"training.steps": 0}), "/overrides/training.steps"),
        (Source(ancestor={**DEBUG, "seed": -3}), "/overrides/seed"),
        (Source(preset="image_folder_cnn"), "/overrides/data.root"),
        (Source(preset="debug_cpu", overrides={"evaluation.ema": True}), "/overrides/evaluation.ema"),
    ],
)
def test_a_refusal_points_at_what_was_sent(operator: Operator, source: Source, pointer: str) -> None:
    assert set(refused(operator, source)) == {pointer}


def test_overrides_that_lie_within_each_other_are_refused(operator: Operator) -> None:
    source = on_debug(training={"steps": 5}, training__steps=6)
    assert refused(operator, source)["/overrides/training"][0] == "ambiguous"


def test_a_long_value_is_not_repeated_in_full(operator: Operator) -> None:
    errors = refused(operator, on_debug(training__steps="x" * 100_000))
    assert len(errors["/overrides/training.steps"][1]) <= 500


# Presets.


def test_all_shipped_presets_are_allowed_unless_the_operator_names_some(settings: Settings) -> None:
    assert set(admission.presets(settings)) == {path.stem for path in documents.PRESETS.glob("*.toml")}
    some = settings.model_copy(update={"presets": ("digits_cnn",)})
    assert set(admission.presets(some)) == {"digits_cnn"}


def test_a_preset_the_operator_does_not_allow_is_unknown(operator: Operator) -> None:
    errors = refused(allowing(operator, presets=("digits_cnn",)), on_debug())
    assert errors == {
        "/preset": (
            "unknown_preset",
            "preset: unknown preset 'debug_cpu'; expected one of digits_cnn; "
            "the operator chooses the presets with GAN_MHE_PRESETS",
        )
    }


@pytest.mark.parametrize("name", ["../presets/debug_cpu", "/etc/passwd", "debug_cpu.toml", "", "debug_cpu\0"])
def test_a_preset_is_never_a_path(operator: Operator, name: str) -> None:
    assert refused(operator, Source(preset=name))["/preset"][0] == "unknown_preset"


# The operator's rules.


@pytest.mark.parametrize("root", ["/etc", "../..", "imgs", "imgs/../..", "", ".", "~"])
def test_a_root_that_is_not_a_name_of_the_operators_is_refused(operator: Operator, root: str) -> None:
    some = allowing(operator, data_roots={"images": Path("/data")})
    errors = refused(some, on_debug(data__name="image_folder", data__root=root))
    assert errors["/overrides/data.root"][0] == "unknown_root"


def test_an_image_folder_is_used_by_the_operators_name_for_it(operator: Operator, tmp_path: Path) -> None:
    some = allowing(operator, data_roots={"images": tmp_path})
    config = admission.resolve(some, on_debug(data__name="image_folder", data__root="images"))
    assert config.document()["data"]["root"] == "images"


def test_a_data_set_without_a_folder_is_refused(operator: Operator) -> None:
    errors = refused(operator, on_debug(data__name="cifar10"))
    assert errors["/overrides/data.name"] == (
        "data_unavailable",
        "data.name: the service has no folder for 'cifar10' and data.download is off; it offers digits, synthetic; "
        "the operator can add it with GAN_MHE_DATA_ROOTS, or allow downloads with GAN_MHE_ALLOW_DOWNLOADS",
    )


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("cifar10", "cifar-10-batches-py"),
        ("cifar100", "cifar-100-python"),
        ("stl10", "stl10_binary"),
        ("mnist", "MNIST/raw"),
        ("fashion_mnist", "FashionMNIST/raw"),
    ],
)
def test_a_data_set_is_allowed_once_its_files_are_in_its_folder(
    operator: Operator, tmp_path: Path, name: str, folder: str
) -> None:
    some = allowing(operator, data_roots={name: tmp_path})
    code, message = refused(some, on_debug(data__name=name))["/overrides/data.name"]
    assert code == "data_unavailable"
    assert f"the folder {name!r} has no {folder!r}" in message
    assert str(tmp_path) not in message
    fetching = allowing(operator, data_roots={name: tmp_path}, allow_downloads=True)
    assert admission.resolve(fetching, on_debug(data__name=name, data__download=True))
    (tmp_path / folder).mkdir(parents=True)
    assert admission.resolve(some, on_debug(data__name=name)).data.name == name


@pytest.mark.parametrize(
    ("name", "split", "splits"), [("digits", "test", "train"), ("mnist", "unlabeled", "train, test")]
)
def test_a_split_that_a_data_set_lacks_is_refused(operator: Operator, name: str, split: str, splits: str) -> None:
    errors = refused(operator, on_debug(data__name=name, data__split=split))
    message = f"data.split: {name} has no split {split!r}; expected one of {splits}"
    assert errors == {"/overrides/data.split": ("unknown_split", message)}


def test_a_folder_without_the_split_or_that_is_gone_is_refused(operator: Operator, tmp_path: Path) -> None:
    some = allowing(operator, data_roots={"images": tmp_path / "images"})
    source = on_debug(data__name="image_folder", data__root="images", data__split="test")
    assert refused(some, source)["/overrides/data.root"][0] == "data_unavailable"
    (tmp_path / "images").mkdir()
    assert "has no folder 'test'" in refused(some, source)["/overrides/data.split"][1]
    (tmp_path / "images/test").mkdir()
    assert admission.resolve(some, source)


@pytest.mark.parametrize("name", ["Test", "testing"])
def test_a_split_is_found_under_every_name_that_the_reader_of_folders_knows(
    operator: Operator, tmp_path: Path, name: str
) -> None:
    (tmp_path / name / "ant").mkdir(parents=True)
    (tmp_path / "train" / "ant").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(tmp_path / name / "ant" / "0.png")
    some = allowing(operator, data_roots={"images": tmp_path})
    assert admission.resolve(some, on_debug(data__name="image_folder", data__root="images", data__split="test"))
    assert list_folder(tmp_path, "test").base == tmp_path / name


@pytest.mark.parametrize("key", ["data.download", "evaluation.download"])
def test_downloads_need_the_operators_permission(operator: Operator, key: str) -> None:
    source = Source(preset="debug_cpu", overrides={key: True})
    assert refused(operator, source)[f"/overrides/{key}"][0] == "downloads_not_allowed"
    assert admission.resolve(allowing(operator, allow_downloads=True), source)


def test_permission_to_download_is_not_yet_a_download(operator: Operator) -> None:
    some = allowing(operator, allow_downloads=True)
    assert "/overrides/data.name" in refused(some, on_debug(data__name="cifar10"))
    assert admission.resolve(some, on_debug(data__name="cifar10", data__download=True))


def test_weights_are_used_by_the_operators_name_for_them(operator: Operator, tmp_path: Path) -> None:
    some = allowing(operator, weights={"inception": tmp_path / "weights.pth"})
    missing = refused(some, on_debug(evaluation__protocol="inception-2015", evaluation__weights="inception"))
    assert missing["/overrides/evaluation.weights"][0] == "weights_missing"
    (tmp_path / "weights.pth").touch()
    assert admission.resolve(some, on_debug(evaluation__protocol="inception-2015", evaluation__weights="inception"))
    errors = refused(some, on_debug(evaluation__weights="/weights.pth"))
    assert errors["/overrides/evaluation.weights"][0] == "unknown_weights"


def test_inception_needs_weights_or_a_download(operator: Operator) -> None:
    source = on_debug(evaluation__protocol="inception-2015")
    assert refused(operator, source)["/overrides/evaluation.weights"][0] == "weights_missing"
    some = allowing(operator, allow_downloads=True)
    assert refused(some, source)["/overrides/evaluation.weights"][0] == "weights_missing"
    assert admission.resolve(some, on_debug(evaluation__protocol="inception-2015", evaluation__download=True))


@pytest.mark.parametrize("name", ["classifier:", "classifier:../x", "classifier:a/b", "classifier:a.b"])
def test_a_classifier_protocol_never_becomes_a_path(operator: Operator, name: str) -> None:
    assert "/overrides/evaluation.protocol" in refused(operator, on_debug(evaluation__protocol=name))


def test_a_classifier_that_was_never_trained_is_refused(
    operator: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GAN_MHE_CACHE", str(tmp_path))
    source = on_debug(evaluation__protocol="classifier:mine")
    code, message = refused(operator, source)["/overrides/evaluation.protocol"]
    assert code == "weights_missing"
    assert "no classifier 'mine'; train it there with `gan-mhe scorer train mine`" in message
    (tmp_path / "scorers").mkdir()
    (tmp_path / "scorers/mine.safetensors").touch()
    assert admission.resolve(operator, source)


def test_every_refusal_of_the_operator_names_the_setting_that_would_allow_it(operator: Operator) -> None:
    some = allowing(operator, presets=("digits_cnn",))
    for source, setting in (
        (on_debug(data__name="image_folder", data__root="x"), "GAN_MHE_DATA_ROOTS"),
        (on_debug(data__download=True), "GAN_MHE_ALLOW_DOWNLOADS"),
        (on_debug(evaluation__download=True), "GAN_MHE_ALLOW_DOWNLOADS"),
        (on_debug(evaluation__weights="x"), "GAN_MHE_WEIGHTS"),
        (on_debug(evaluation__protocol="inception-2015"), "GAN_MHE_WEIGHTS"),
        (on_debug(training__device="cuda"), "GAN_MHE_CUDA_SLOTS_PER_DEVICE"),
    ):
        [(_, message)] = refused(operator, source).values()
        assert setting in message
    assert "GAN_MHE_PRESETS" in refused(some, on_debug())["/preset"][1]


def test_fewer_samples_than_the_protocol_scores_are_refused(operator: Operator) -> None:
    errors = refused(operator, on_debug(evaluation__protocol="digits-v1", evaluation__num_samples=99))
    assert errors["/overrides/evaluation.num_samples"][0] == "too_few"


def test_a_fork_of_a_job_that_scored_too_few_samples_is_refused(operator: Operator) -> None:
    stored = {"protocol": "digits-v1", "num_samples": 10, "ema": False}
    errors = refused(operator, Source(ancestor=merge(DEBUG, {"evaluation": stored})))
    code, message = errors["/overrides/evaluation.num_samples"]
    assert code == "too_few" and "expected at least 100" in message and message.endswith("got 10")


def test_samples_whose_features_cannot_fit_into_the_machine_are_refused_with_the_most_that_fit(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = {"SC_PHYS_PAGES": 2**20, "SC_PAGE_SIZE": 2**12}
    monkeypatch.setattr("os.sysconf", machine.__getitem__)
    fitting = 2**32 // (4 * 58)  # 48 features and 10 logits, float32
    enough = {"evaluation__protocol": "digits-v1", "evaluation__num_samples": fitting}
    assert admission.resolve(operator, on_debug(**enough))
    errors = refused(operator, on_debug(**enough | {"evaluation__num_samples": fitting + 1}))
    assert errors["/overrides/evaluation.num_samples"][0] == "too_many"
    assert f"at most {fitting:,}, whose features fill the 4 GiB" in errors["/overrides/evaluation.num_samples"][1]


def test_a_device_is_chosen_by_kind_and_must_exist(operator: Operator, executor: FakeExecutor) -> None:
    assert refused(operator, on_debug(training__device="cuda:0"))["/overrides/training.device"][0] == "device_index"
    assert refused(operator, on_debug(training__device="cuda"))["/overrides/training.device"] == (
        "device_unavailable",
        "training.device: no slot for 'cuda'; the service trains on cpu; "
        "the operator adds slots with GAN_MHE_CUDA_SLOTS_PER_DEVICE",
    )
    executor.slots.append(Slot("cuda0/0", "cuda:0", "train"))
    assert admission.new_job(admission.resolve(operator, on_debug(training__device="cuda")), "p").device == "cuda"


def test_a_slot_for_tasks_is_no_slot_for_training(operator: Operator, executor: FakeExecutor) -> None:
    executor.slots[:] = [Slot("task0", "cpu", "task"), Slot("cuda0/0", "cuda:0", "train")]
    assert "/overrides/training.device" in refused(operator, on_debug(training__device="cpu"))


def test_several_rules_are_reported_together(operator: Operator) -> None:
    errors = refused(operator, on_debug(data__root="/x", evaluation__weights="/y", training__device="cuda:1"))
    assert set(errors) == {"/overrides/data.root", "/overrides/evaluation.weights", "/overrides/training.device"}


def test_a_rule_about_a_preset_points_at_the_override_that_would_help(operator: Operator) -> None:
    assert "/overrides/data.name" in refused(operator, Source(preset="cifar10_resnet"))


def test_data_sets_on_offer_follow_the_settings(settings: Settings) -> None:
    names = [offer["name"] for offer in admission.data_sets(settings)]
    assert names == ["digits", "synthetic"]
    some = settings.model_copy(update={"data_roots": {"cifar10": Path("/a"), "mine": Path("/b")}})
    roots = {offer["name"]: offer["roots"] for offer in admission.data_sets(some)}
    assert roots == {"digits": [], "cifar10": ["cifar10"], "image_folder": ["cifar10", "mine"], "synthetic": []}
    fetching = settings.model_copy(update={"allow_downloads": True})
    assert {offer["name"] for offer in admission.data_sets(fetching) if offer["download"]} == {
        *("cifar10", "cifar100", "stl10", "mnist", "fashion_mnist")
    }


# Room, deadlines, jobs.


def test_no_job_is_taken_when_the_disk_reserve_is_reached(store: Store, settings: Settings) -> None:
    full = settings.model_copy(update={"disk_reserve_bytes": 2**62})
    with pytest.raises(InsufficientStorage, match="MiB"):
        store.read(lambda connection: admission.check_room(connection, full, "default"))


def test_the_queue_has_a_limit_per_project(store: Store, operator: Operator) -> None:
    settings = operator.settings.model_copy(update={"max_queued_jobs": 2})
    config = admission.resolve(operator, on_debug())
    for _ in range(2):
        store.read(lambda connection: admission.check_room(connection, settings, "default"))
        store.write(lambda connection: queue.create(connection, admission.new_job(config, "default")))
    with pytest.raises(QueueFull, match="2 jobs"):
        store.read(lambda connection: admission.check_room(connection, settings, "default"))
    store.read(lambda connection: admission.check_room(connection, settings, "other"))
    with pytest.raises(QueueFull):
        store.read(lambda connection: admission.check_room(connection, settings, "other", 3))


def test_a_deadline_lies_in_the_future() -> None:
    admission.check_deadline(None)
    admission.check_deadline(now_ms() + 60_000)
    with pytest.raises(InvalidRequest, match="start_deadline"):
        admission.check_deadline(now_ms() - 1)


def test_a_job_is_made_of_the_whole_configuration(operator: Operator) -> None:
    config = admission.resolve(operator, on_debug(seed=4))
    job = admission.new_job(config, "vision", name="x", priority=3)
    assert job.request == config.document()
    assert job.request_sha256 == config.digest()
    assert (job.seed, job.variant, job.total_steps, job.device) == (4, "none", 50, "auto")
    assert (job.project, job.name, job.priority) == ("vision", "x", 3)


def test_an_estimate_counts_what_no_device_changes(operator: Operator) -> None:
    config = admission.resolve(
        operator, Source(preset="digits_cnn", overrides={"training.steps": 1000, "training.n_dis": 2})
    )
    estimate = estimates.of_job(config)
    assert estimate["steps"] == 1000
    assert estimate["images"] == 1000 * 2 * 16
    assert estimate["scored_images"] == 2000
    assert estimates.of_job(admission.resolve(operator, on_debug()))["scored_images"] == 0


def test_admission_needs_no_torch() -> None:
    code = "import sys, server.queue.admission; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
