"""Images from checkpoints: the same seed gives the same images, in every form they can be written."""

import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import kstest, norm, truncnorm

from gan_mhe.config.run_config import RunConfig
from gan_mhe.data.pixels import to_uint8
from gan_mhe.errors import CheckpointError, ConfigError, RunDirError, StorageError
from gan_mhe.images import grids, latents
from gan_mhe.images.files import GridLayout
from gan_mhe.records.run_dir import RunDir
from gan_mhe.rng import derive_seed
from gan_mhe.run import sample
from gan_mhe.run.loop import execute
from gan_mhe.tf32 import CUDA, float32_precision

Configure = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def run(tiny: Configure, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run with a moving average, trained until its generator's images differ from one another."""
    root = tmp_path_factory.mktemp("sampling") / "run"
    rates = ("optimizer.generator_lr=0.01", "optimizer.discriminator_lr=0.01")
    execute(tiny(*rates, "generator.ema_halflife_steps=4", "generator.width=0.0625"), root)
    return RunDir(root)


@pytest.fixture(scope="module")
def without_average(tiny: Configure, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    root = tmp_path_factory.mktemp("sampling") / "without_average"
    execute(tiny("training.steps=2"), root)
    return RunDir(root)


def test_the_same_seed_gives_the_same_images_and_another_seed_others(run: RunDir) -> None:
    images = sample.generate(run, n=6, seed=3)
    assert (images.dtype, images.shape) == (torch.uint8, (6, 3, 32, 32))
    assert torch.equal(sample.generate(run, n=6, seed=3), images)
    assert not torch.equal(sample.generate(run, n=6, seed=4), images)
    assert not torch.equal(images[0], images[1])


def test_the_same_seed_gives_the_same_file_byte_for_byte_whenever_it_is_made(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suffixes, today = ("png", "npz", "zip"), time.localtime()
    for suffix in suffixes:
        sample.write_images(sample.draw(run, n=5, seed=1), 5, tmp_path / f"a.{suffix}")
    monkeypatch.setattr(time, "localtime", lambda *moment: time.struct_time((2001, *today[1:])))
    for suffix in suffixes:
        sample.write_images(sample.draw(run, n=5, seed=1), 5, tmp_path / f"b.{suffix}")
    for suffix in suffixes:
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_an_image_does_not_depend_on_its_neighbours_in_the_batch(run: RunDir) -> None:
    # Convolutions of another batch size may round differently in the last bit: one grey level at most.
    generate = sample.load_generator(run, device="cpu")
    z = latents.fixed_latents(300, 16, 0)
    together = generate(z).int()
    alone = torch.cat([generate(z[i : i + 1]) for i in (0, 1, 255, 256, 299)]).int()
    assert (together[[0, 1, 255, 256, 299]] - alone).abs().max() <= 1


def test_the_last_grid_of_a_run_can_be_generated_again(run: RunDir) -> None:
    z = latents.fixed_latents(4, 16, derive_seed(0, "latents/samples", 0))
    images = sample.load_generator(run, device="cpu")(z)
    assert grids.encode_png(grids.grid(images, columns=2)) == run.sample(12).read_bytes()


def test_images_are_generated_in_full_precision_whatever_the_caller_has_set(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    products, seen = torch.backends.cuda.matmul, list[str]()

    def quantized(images: torch.Tensor) -> torch.Tensor:
        seen.append(products.fp32_precision)
        return to_uint8(images)

    monkeypatch.setattr(sample, "to_uint8", quantized)
    with float32_precision("tf32", CUDA):
        sample.generate(run, n=1, seed=0)
    assert seen == ["ieee"]


def test_sampling_does_not_change_the_run(run: RunDir) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.root.rglob("*")}
    sample.generate(run, n=2, seed=0, ema=True)
    assert {path: path.stat().st_mtime_ns for path in run.root.rglob("*")} == before


def test_the_moving_average_and_older_steps_are_other_generators(run: RunDir) -> None:
    newest = sample.generate(run, n=4, seed=0)
    assert torch.equal(sample.generate(run, n=4, seed=0, step=12), newest)
    assert not torch.equal(sample.generate(run, n=4, seed=0, step=10), newest)
    assert not torch.equal(sample.generate(run, n=4, seed=0, ema=True), newest)


def test_a_missing_moving_average_is_refused_with_the_key_to_set(without_average: RunDir) -> None:
    with pytest.raises(CheckpointError, match=r"no moving average; set generator\.ema_halflife_steps"):
        sample.generate(without_average, n=1, seed=0, ema=True)


def test_an_unknown_step_is_refused_with_the_steps_there_are(run: RunDir) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 7; expected one of 10, 12"):
        sample.generate(run, n=1, seed=0, step=7)


def test_a_run_without_checkpoints_says_so(tiny: Configure, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.config.write_text(tiny().model_dump_json())
    with pytest.raises(CheckpointError, match="has no checkpoints yet"):
        sample.generate(run, n=1, seed=0)


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="is not a run directory"):
        sample.generate(RunDir(tmp_path), n=1, seed=0)


def test_a_checkpoint_with_another_digest_is_refused(run: RunDir) -> None:
    with pytest.raises(CheckpointError, match="is another checkpoint"):
        sample.generate(run, n=1, seed=0, digest="0" * 64)
    with pytest.raises(CheckpointError, match="is another checkpoint"):
        sample.interpolate(run, rows=1, columns=2, seed=0, digest="0" * 64)


@pytest.mark.parametrize("interpolation", [0, 3])
def test_an_image_is_the_same_to_the_last_bit_however_many_are_drawn(run: RunDir, interpolation: int) -> None:
    few = torch.cat(list(sample.draw(run, n=3, seed=5, interpolation=interpolation)))
    many = torch.cat(list(sample.draw(run, n=70, seed=5, interpolation=interpolation)))
    assert len(few) == 3 * max(1, interpolation)
    assert torch.equal(few, many[: len(few)])


def test_images_are_generated_when_they_are_asked_for_and_in_batches(run: RunDir) -> None:
    batches = sample.draw(run, n=10**9, seed=0)
    assert [len(next(batches)) for _ in range(2)] == [64, 64]


# --- truncation


def test_truncated_latents_lie_within_the_threshold_and_fill_it() -> None:
    z = latents.fixed_latents(400, 16, 0)
    truncated = sample.truncate(z, 0.7)
    assert (truncated.dtype, truncated.shape) == (z.dtype, z.shape)
    assert truncated.abs().max() <= 0.7
    assert truncated.max() > 0.69 and truncated.min() < -0.69


@pytest.mark.parametrize("threshold", [0.1, 0.7, 2.0])
def test_truncated_latents_have_the_distribution_of_redrawing_what_lies_outside(threshold: float) -> None:
    z = latents.fixed_latents(2000, 16, 0)
    found = sample.truncate(z, threshold).flatten().numpy()
    assert kstest(found, truncnorm(-threshold, threshold).cdf).pvalue > 0.01
    assert kstest(found, norm().cdf).pvalue < 1e-6


def test_truncation_keeps_the_order_of_latents_and_a_large_threshold_changes_nothing() -> None:
    latents = torch.linspace(-9, 9, 181)
    assert (sample.truncate(latents, 1.0).diff() >= 0).all()
    moderate = latents[latents.abs() < 5]
    assert torch.allclose(sample.truncate(moderate, 20.0), moderate, atol=1e-6)
    assert sample.truncate(latents, 9.0).isfinite().all()


def test_truncated_images_are_a_function_of_number_seed_and_threshold(run: RunDir) -> None:
    images = sample.generate(run, n=4, seed=3, truncation=0.5)
    assert torch.equal(sample.generate(run, n=4, seed=3, truncation=0.5), images)
    for other in (sample.generate(run, n=4, seed=3), sample.generate(run, n=4, seed=3, truncation=0.4)):
        assert not torch.equal(other, images)


def test_a_smaller_threshold_gives_images_that_vary_less(run: RunDir) -> None:
    spread = [sample.generate(run, n=64, seed=0, truncation=t).double().std(dim=0).mean() for t in (2.0, 0.5, 0.05)]
    assert spread[0] > spread[1] > spread[2]


def test_the_ends_of_a_truncated_walk_are_truncated_images(run: RunDir) -> None:
    walks = sample.interpolate(run, rows=2, columns=3, seed=7, truncation=0.5).view(2, 3, 3, 32, 32).int()
    ends = sample.generate(run, n=4, seed=7, truncation=0.5).view(2, 2, 3, 32, 32).int()
    assert (walks[:, 0] - ends[:, 0]).abs().max() <= 1
    assert (walks[:, -1] - ends[:, 1]).abs().max() <= 1


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan")])
def test_a_threshold_that_leaves_nothing_is_refused(run: RunDir, threshold: float) -> None:
    with pytest.raises(ConfigError, match="truncation: expected a threshold > 0, got"):
        sample.generate(run, n=1, seed=0, truncation=threshold)


def test_a_run_in_double_precision_can_be_sampled(tiny: Configure, tmp_path: Path) -> None:
    execute(tiny("training.precision=float64", "training.steps=1"), tmp_path)
    assert sample.generate(RunDir(tmp_path), n=2, seed=0).shape == (2, 3, 32, 32)


# --- interpolation


def test_an_interpolation_begins_and_ends_at_images_of_its_seed(run: RunDir) -> None:
    walks = sample.interpolate(run, rows=2, columns=5, seed=7).view(2, 5, 3, 32, 32).int()
    ends = sample.generate(run, n=4, seed=7).view(2, 2, 3, 32, 32).int()
    assert (walks[:, 0] - ends[:, 0]).abs().max() <= 1
    assert (walks[:, -1] - ends[:, 1]).abs().max() <= 1


def test_an_interpolation_moves_in_small_steps(run: RunDir) -> None:
    walk = sample.interpolate(run, rows=1, columns=9, seed=7).double()
    jumps = (walk[1:] - walk[:-1]).flatten(1).norm(dim=1)
    assert jumps.max() < (walk[-1] - walk[0]).norm()


# --- files


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (5, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_a_png_is_a_grid_as_square_as_can_be(images: torch.Tensor, tmp_path: Path) -> None:
    sample.write_images([images], 5, tmp_path / "grid.png")
    expected = grids.encode_png(grids.grid(images, columns=3))
    assert (tmp_path / "grid.png").read_bytes() == expected
    sample.write_images([images], 5, tmp_path / "row.png", GridLayout(columns=5))
    with Image.open(tmp_path / "row.png") as row:
        assert row.width > 4 * row.height


def test_an_npz_holds_the_images_and_nothing_is_left_beside_it(images: torch.Tensor, tmp_path: Path) -> None:
    sample.write_images([images], 5, tmp_path / "new" / "images.npz")
    with np.load(tmp_path / "new" / "images.npz", allow_pickle=False) as archive:
        assert archive.files == ["images"]
        assert archive["images"].dtype == np.uint8
        assert np.array_equal(archive["images"], images.permute(0, 2, 3, 1).numpy())
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["images.npz"]


def test_a_folder_holds_one_png_an_image_in_order(images: torch.Tensor, tmp_path: Path) -> None:
    sample.write_images([images], 5, tmp_path / "folder")
    files = sorted((tmp_path / "folder").iterdir())
    assert [path.name for path in files] == [f"{index:06d}.png" for index in range(5)]
    for path, image in zip(files, images, strict=True):
        with Image.open(path) as found:
            assert np.array_equal(np.asarray(found), image.permute(1, 2, 0).numpy())


def test_a_zip_holds_one_png_an_image_in_order(images: torch.Tensor, tmp_path: Path) -> None:
    sample.write_images([images], 5, tmp_path / "images.zip")
    with zipfile.ZipFile(tmp_path / "images.zip") as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [f"{index:06d}.png" for index in range(5)]
        for name, image in zip(archive.namelist(), images, strict=True):
            with archive.open(name) as file, Image.open(file) as found:
                assert np.array_equal(np.asarray(found), image.permute(1, 2, 0).numpy())


def test_an_empty_folder_may_be_filled(images: torch.Tensor, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    sample.write_images([images], 5, tmp_path / "empty")
    assert len(list((tmp_path / "empty").iterdir())) == 5


def test_a_png_is_written_over_an_older_one(images: torch.Tensor, tmp_path: Path) -> None:
    sample.write_images([images[:1]], 1, tmp_path / "grid.png")
    first = (tmp_path / "grid.png").read_bytes()
    sample.write_images([images[1:2]], 1, tmp_path / "grid.png")
    assert (tmp_path / "grid.png").read_bytes() != first


@pytest.mark.parametrize("name", ["images.gif", "images.tar.gz"])
def test_an_unknown_suffix_is_refused_with_the_known_ones(images: torch.Tensor, tmp_path: Path, name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"expected FILE\.png, FILE\.webp, FILE\.npz, FILE\.zip or a folder, got suffix '\.(gz|gif)'"
    ):
        sample.write_images([images], 5, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out", ["photos", "photos/../photos", ".", "notes", "photos.png"])
def test_nothing_of_the_users_is_replaced(
    images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("photos", "photos.png"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "wedding.jpg").write_bytes(b"dear")
    (tmp_path / "notes").write_bytes(b"dear")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match="--out"):
        sample.write_images([images], 5, Path(out))
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "notes").read_bytes() == (tmp_path / "photos" / "wedding.jpg").read_bytes() == b"dear"


@pytest.mark.parametrize("name", ["x.png", "x.npz", "x.zip", "x"])
def test_a_path_that_cannot_be_written_is_named(images: torch.Tensor, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=f"cannot write .*/file/{name}"):
        sample.write_images([images], 5, tmp_path / "file" / name)
