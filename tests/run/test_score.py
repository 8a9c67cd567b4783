"""Scores of checkpoints outside a run, and the training of classifiers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gan_mhe.config.run_config import RunConfig
from gan_mhe.errors import CheckpointError, ConfigError, ExtractorError, StorageError
from gan_mhe.files import canonical_json, sha256_bytes, write_json
from gan_mhe.records.result import RunResult
from gan_mhe.records.run_dir import RunDir
from gan_mhe.run.loop import execute
from gan_mhe.run.score import score_checkpoint, train_and_save_classifier

Configure = Callable[..., RunConfig]
TINY_CLASSIFIER: dict[str, Any] = {"width": 0.05, "epochs": 8, "seed": 0, "device": "cpu"}


@pytest.fixture(scope="module")
def scored(tiny: Configure, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, RunResult]:
    """A run with a moving average whose generator itself is what the run scores."""
    root = tmp_path_factory.mktemp("scoring") / "run"
    keys = ("generator.ema_halflife_steps=4", "training.steps=6", "evaluation.every_steps=3")
    return RunDir(root), execute(tiny(*keys, preset="digits_cnn"), root)


@pytest.fixture(scope="module")
def unscored(tiny: Configure, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    root = tmp_path_factory.mktemp("scoring") / "unscored"
    execute(tiny("training.steps=2"), root)
    return RunDir(root)


def evaluation(**keys: Any) -> dict[str, Any]:
    return {"evaluation": keys}


def test_a_checkpoint_scores_the_same_every_time_and_as_the_run_rescored_it(scored: tuple[RunDir, RunResult]) -> None:
    run, result = scored
    assert result.best is not None
    first = score_checkpoint(run, step=result.best.step, overrides={})
    assert first == score_checkpoint(run, step=result.best.step, overrides={})
    assert first["scores"] == result.best.scores
    assert first["real"] == result.real
    assert (first["protocol"], first["fingerprints"]) == (result.protocol, result.fingerprints)


def test_a_run_with_a_relative_folder_of_images_is_scored_from_any_folder(
    tiny: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "2024-05-01").mkdir()
    rng = np.random.default_rng(0)
    for index in range(40):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "2024-05-01" / f"{index}.png")
    monkeypatch.chdir(tmp_path)
    config = tiny("training.steps=1", "data.name=image_folder", "data.root=2024-05-01")
    execute(config, "run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run = RunDir(tmp_path / "run")
    assert run.read_config().data.root == tmp_path / "2024-05-01"
    assert run.read_config().digest() == config.digest()
    overrides = evaluation(protocol="digits-v1", num_samples=100)
    assert "fid_between_halves" in score_checkpoint(run, step=None, overrides=overrides)["real"]


def test_fresh_latents_give_another_score_than_the_run_chose_by(scored: tuple[RunDir, RunResult]) -> None:
    run, result = scored
    assert result.final is not None
    fresh = score_checkpoint(run, step=None, overrides={})
    assert fresh["step"] == 6
    assert fresh["scores"]["fid"] != result.final.scores["fid"]


def test_another_number_of_samples_is_another_fingerprint(scored: tuple[RunDir, RunResult]) -> None:
    run, result = scored
    with pytest.raises(ConfigError, match=r"evaluation\.num_samples: expected at least 100, .*got 10$"):
        score_checkpoint(run, step=None, overrides=evaluation(num_samples=10))
    fewer = score_checkpoint(run, step=None, overrides=evaluation(num_samples=150))["fingerprints"]
    assert not set(fewer.values()) & set(result.fingerprints.values())


def test_another_protocol_has_its_own_number_of_samples_and_weights(unscored: RunDir, tmp_path: Path) -> None:
    run = RunDir(Path(shutil.copytree(unscored.root, tmp_path / "run")))
    document = run.read_config().document()
    document["evaluation"] |= {"protocol": "classifier:gone", "num_samples": 200, "weights": str(tmp_path / "gone")}
    write_json(run.config, document)
    # A checkpoint belongs to the digest of the configuration, which the protocol is part of.
    manifest = run.checkpoint(2) / "manifest.json"
    saved = json.loads(manifest.read_text())
    del saved["sha256"]
    saved["lineage"] = run.read_config().digest("resumable")
    manifest.write_text(json.dumps(saved | {"sha256": sha256_bytes(canonical_json(saved))}))
    found = score_checkpoint(run, step=None, overrides=evaluation(protocol="digits-v1"))
    whole = evaluation(protocol="digits-v1", num_samples=None)
    assert found["fingerprints"] == score_checkpoint(unscored, step=None, overrides=whole)["fingerprints"]


def test_the_moving_average_has_another_fingerprint_and_score(scored: tuple[RunDir, RunResult]) -> None:
    run, _ = scored
    plain = score_checkpoint(run, step=None, overrides={})
    average = score_checkpoint(run, step=None, overrides=evaluation(ema=True))
    assert not set(average["fingerprints"].values()) & set(plain["fingerprints"].values())
    assert average["scores"] != plain["scores"]


def test_a_run_without_a_protocol_needs_one_named(unscored: RunDir) -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.protocol is 'none'; name one with --protocol"):
        score_checkpoint(unscored, step=None, overrides={})
    told: list[str] = []
    found = score_checkpoint(unscored, step=None, overrides=evaluation(protocol="digits-v1"), notice=told.append)
    assert found["protocol"] == "digits-v1"
    [notice] = told
    assert "its classifier was trained on digits" in notice and "but scores synthetic (4 classes: one blob" in notice


def test_a_classifier_near_chance_is_not_written(unscored: RunDir, tmp_path: Path) -> None:
    path = tmp_path / "untrained.safetensors"
    how = {**TINY_CLASSIFIER, "epochs": 1, "width": 0.02}
    with pytest.raises(
        ExtractorError, match=r"accuracy of at least 0\.438, because chance is 0\.250; got 0\.\d+; scores"
    ):
        train_and_save_classifier("blobs", unscored.read_config(), **how, out=path, progress=lambda *_: None)
    assert not path.exists()


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ({"training": {"steps": 9}}, "training.steps"),
        ({"generator": {"width": 2}, "evaluation": {"ema": False}}, "generator.width"),
        ({"data": {"name": "synthetic"}}, "data.name"),
        ({"evaluation": 3}, "evaluation"),
    ],
)
def test_what_the_run_is_cannot_be_changed_for_its_score(
    scored: tuple[RunDir, RunResult], overrides: dict[str, Any], key: str
) -> None:
    with pytest.raises(ConfigError, match=f"evaluation keys only; got {key}$"):
        score_checkpoint(scored[0], step=None, overrides=overrides)


def test_where_it_is_scored_may_change(scored: tuple[RunDir, RunResult]) -> None:
    moved = {"training": {"device": "cpu"}, "data": {"root": "elsewhere"}}
    assert score_checkpoint(scored[0], step=None, overrides=moved) == score_checkpoint(
        scored[0], step=None, overrides={}
    )


def test_an_unknown_step_is_refused_with_the_steps_there_are(scored: tuple[RunDir, RunResult]) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 4; expected one of .*6$"):
        score_checkpoint(scored[0], step=4, overrides={})


def test_a_moving_average_that_the_run_does_not_keep_is_refused(unscored: RunDir) -> None:
    with pytest.raises(ConfigError, match=r"generator\.ema_halflife_steps is 0"):
        score_checkpoint(unscored, step=None, overrides=evaluation(protocol="digits-v1", ema=True))


def test_a_trained_classifier_is_found_by_its_name(unscored: RunDir, cache_dir: Path) -> None:
    losses: list[tuple[int, float]] = []
    path, accuracy, chance = train_and_save_classifier(
        "blobs", unscored.read_config(), **TINY_CLASSIFIER, out=None, progress=lambda *news: losses.append(news)
    )
    assert path == cache_dir / "scorers" / "blobs.safetensors"
    assert 0.4375 <= accuracy <= 1
    assert chance == 0.25
    assert [epoch for epoch, _ in losses] == list(range(1, 9))
    found = score_checkpoint(unscored, step=None, overrides=evaluation(protocol="classifier:blobs"))
    assert found["protocol"] == "classifier:blobs"
    path.unlink()


def test_a_classifier_says_what_its_data_hold_before_it_trains(unscored: RunDir, tmp_path: Path) -> None:
    said: list[str] = []
    train_and_save_classifier(
        "blobs",
        unscored.read_config(),
        **TINY_CLASSIFIER,
        out=tmp_path / "mine.safetensors",
        progress=lambda *_: said.append("epoch"),
        loaded=lambda held: said.append(held.line()),
    )
    held = unscored.read_data()
    assert held is not None and said == [held.line(), *["epoch"] * 8]


def test_a_classifier_that_the_cache_cannot_take_names_the_variable_of_the_cache(
    unscored: RunDir, cache_dir: Path
) -> None:
    place = cache_dir / "scorers"
    shutil.rmtree(place, ignore_errors=True)
    place.write_text("in the way")
    with pytest.raises(StorageError, match=r"cannot write .*scorers/blobs.*; set GAN_MHE_CACHE to a folder"):
        train_and_save_classifier(
            "blobs", unscored.read_config(), **TINY_CLASSIFIER, out=None, progress=lambda *_: None
        )
    place.unlink()


def test_a_classifier_can_be_written_elsewhere_and_named_by_its_file(unscored: RunDir, tmp_path: Path) -> None:
    path, *_ = train_and_save_classifier(
        "blobs", unscored.read_config(), **TINY_CLASSIFIER, out=tmp_path / "mine.safetensors", progress=lambda *_: None
    )
    keys = evaluation(protocol="classifier:blobs", weights=str(path))
    assert score_checkpoint(unscored, step=None, overrides=keys)["protocol"] == "classifier:blobs"


@pytest.mark.parametrize("name", ["", "a/b", "../up", "a b"])
def test_a_classifier_name_that_no_protocol_could_use_is_refused_before_training(
    unscored: RunDir, tmp_path: Path, name: str
) -> None:
    epochs: list[int] = []
    with pytest.raises(ConfigError, match="classifier"):
        train_and_save_classifier(
            name,
            unscored.read_config(),
            **TINY_CLASSIFIER,
            out=tmp_path / "x.safetensors",
            progress=lambda epoch, _: epochs.append(epoch),
        )
    assert (epochs, list(tmp_path.iterdir())) == ([], [])
