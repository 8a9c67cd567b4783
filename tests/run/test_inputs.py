"""What a run has read belongs to what it is: the same content wherever it lies, and nothing else in its place."""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gan_mhe.comparison.compare import find_runs, read_score
from gan_mhe.config.run_config import RunConfig
from gan_mhe.errors import ConfigError, DataError, RunDirError
from gan_mhe.files import canonical_json, sha256_bytes, sha256_file
from gan_mhe.records import checkpoint
from gan_mhe.records.inputs import Inputs
from gan_mhe.records.run_dir import RunDir
from gan_mhe.run.loop import execute
from gan_mhe.run.score import score_checkpoint, train_and_save_classifier

Configure = Callable[..., RunConfig]
IMAGES = 24
HASH = r"[0-9a-f]{64}"


def write_images(root: Path) -> Path:
    """Two classes of noise, 32 pixels wide: one dark, one bright, which a classifier learns in a few steps."""
    rng = np.random.default_rng(0)
    for index in range(IMAGES):
        path = root / ("ant", "bee")[index % 2] / f"{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 100, (32, 32, 3), np.uint8) + np.uint8(150 * (index % 2))).save(path)
    return root


def change_pixel(root: Path, index: int = 0, x: int = 0, y: int = 0) -> None:
    path = sorted(root.glob("*/*.png"))[index]
    image = Image.open(path)
    red, *rest = image.getpixel((x, y))  # type: ignore[misc]
    image.putpixel((x, y), ((red + 1) % 256, *rest))
    image.save(path)


def on(tiny: Configure, root: Path | str, *keys: str) -> RunConfig:
    return tiny("training.steps=3", "data.name=image_folder", f"data.root='{root}'", *keys)


@pytest.fixture(scope="module")
def trained(tiny: Configure, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images and a completed run on them."""
    place = tmp_path_factory.mktemp("inputs")
    execute(on(tiny, write_images(place / "images")), place / "run")
    return place


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    """A copy of the images and the run, at another place."""
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def test_the_record_the_checkpoint_and_the_result_have_the_hash_of_the_images(trained: Path) -> None:
    run = RunDir(trained / "run")
    data = run.read_data()
    assert data is not None
    inputs = Inputs(data_sha256=data.sha256)
    assert run.read_inputs() == Inputs.of_result(run.read_result() or {}) == inputs
    assert checkpoint.load(run.checkpoint(3)).notes["inputs"] == inputs.document()


@settings(max_examples=6, deadline=None)
@given(st.integers(0, IMAGES - 1), st.integers(0, 31), st.integers(0, 31))
def test_changing_any_image_refuses_the_resume(trained: Path, tiny: Configure, index: int, x: int, y: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        place = Path(shutil.copytree(trained, Path(directory) / "copy"))
        change_pixel(place / "images", index, x, y)
        with pytest.raises(ConfigError, match=f"{place / 'images'} changed: expected SHA-256 {HASH}, found {HASH}"):
            execute(on(tiny, place / "images", "training.steps=4"), place / "run")


@settings(max_examples=4, deadline=None)
@given(st.text("abcdefgh", min_size=1, max_size=8))
def test_moving_the_images_changes_no_digest_and_resumes(trained: Path, tiny: Configure, name: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        place = Path(shutil.copytree(trained, Path(directory) / "copy"))
        moved = (place / "images").rename(place / f"moved_{name}")
        before, after = on(tiny, trained / "images"), on(tiny, moved)
        kinds = ("config", "without_seed", "comparable", "resumable")
        assert [before.digest(kind) for kind in kinds] == [after.digest(kind) for kind in kinds]
        result = execute(on(tiny, moved, "training.steps=4"), place / "run")
        assert (result.status, result.step) == ("completed", 4)


def test_a_refused_resume_leaves_the_run_as_it_was(copy: Path, tiny: Configure) -> None:
    change_pixel(copy / "images")
    run = RunDir(copy / "run")
    before = {path: path.read_bytes() for path in (run.config, run.result, run.data, run.environment)}
    with pytest.raises(ConfigError, match="was made with other files"):
        execute(on(tiny, copy / "images", "training.steps=4"), run.root)
    assert {path: path.read_bytes() for path in before} == before
    assert read_score(run).steps == 3


def test_a_finished_run_is_not_given_back_for_other_images(copy: Path, tiny: Configure) -> None:
    change_pixel(copy / "images")
    with pytest.raises(ConfigError, match=r"data\.root: the images of image_folder in .*images changed"):
        execute(on(tiny, copy / "images"), copy / "run")


def test_a_checkpoint_refuses_other_images_by_itself(copy: Path, tiny: Configure) -> None:
    change_pixel(copy / "images")
    (copy / "run" / "data.json").unlink()
    with pytest.raises(ConfigError, match="the checkpoint of step 3 was made with other files"):
        execute(on(tiny, copy / "images", "training.steps=4"), copy / "run")


def test_a_run_of_a_version_without_hashes_resumes(copy: Path, tiny: Configure) -> None:
    run = RunDir(copy / "run")
    run.data.unlink()
    manifest = run.checkpoint(3) / "manifest.json"
    document = json.loads(manifest.read_text())
    del document["sha256"], document["notes"]["inputs"]
    manifest.write_text(json.dumps(document | {"sha256": sha256_bytes(canonical_json(document))}))
    change_pixel(copy / "images")
    assert execute(on(tiny, copy / "images", "training.steps=4"), run.root).step == 4


def test_a_score_of_a_run_needs_the_images_that_it_was_trained_on(copy: Path) -> None:
    moved, evaluation = (copy / "images").rename(copy / "moved"), {"protocol": "digits-v1", "num_samples": 100}
    overrides = {"data": {"root": str(moved)}, "evaluation": evaluation}
    assert score_checkpoint(RunDir(copy / "run"), step=None, overrides=overrides)["step"] == 3
    change_pixel(moved)
    with pytest.raises(ConfigError, match=f"{moved} changed"):
        score_checkpoint(RunDir(copy / "run"), step=None, overrides=overrides)


@pytest.fixture
def scored(copy: Path, tiny: Configure) -> RunConfig:
    """The configuration of a completed run that was scored by a classifier of its own, in `copy`/scored."""
    config = on(tiny, copy / "images", "evaluation.protocol='classifier:own'", f"evaluation.weights='{copy / 'own'}'")
    train_classifier(config, 0)
    execute(config, copy / "scored")
    return config


def train_classifier(config: RunConfig, seed: int) -> None:
    train_and_save_classifier(
        "own", config, width=0.05, epochs=10, seed=seed, device="cpu", out=config.evaluation.weights, progress=_silent
    )


def _silent(_epoch: int, _loss: float) -> None:
    pass


def test_the_weights_of_the_scorer_are_recorded_and_others_refused(copy: Path, scored: RunConfig) -> None:
    weights, run = copy / "own", RunDir(copy / "scored")
    before = sha256_file(weights)
    assert run.read_inputs().weights_sha256 == before
    assert Inputs.of_result(run.read_result() or {}) == run.read_inputs()
    train_classifier(scored, 1)
    expected = f"classifier:own in {weights} changed: expected SHA-256 {before}, found {sha256_file(weights)}"
    with pytest.raises(ConfigError, match=expected):
        execute(scored, run.root)
    with pytest.raises(ConfigError, match=expected):
        score_checkpoint(run, step=None, overrides={})
    named = {"evaluation": {"weights": str(weights)}}
    assert score_checkpoint(run, step=None, overrides=named)["protocol"] == "classifier:own"


def test_a_relative_folder_of_images_is_found_from_another_directory(
    tiny: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    execute(on(tiny, "images"), tmp_path / "run")
    assert RunDir(tmp_path / "run").read_config().data.root == tmp_path / "images"


def test_a_start_that_failed_leaves_no_run(tiny: Configure, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        execute(on(tiny, tmp_path / "absent"), tmp_path / "run")
    assert [type(event).__name__ for event in RunDir(tmp_path / "run").read_events()] == ["Finished"]
    with pytest.raises(RunDirError, match="is not a run directory and contains none"):
        find_runs([tmp_path])
