"""Image folders: what is found, what is refused and how it is said, and a cache that is never trusted blindly."""

import errno
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from gan_mhe.data import folder_cache, image_folder
from gan_mhe.data.decode import center_square
from gan_mhe.data.image_folder import read_folder
from gan_mhe.errors import DataError, StorageError


def pixels(seed: int, height: int = 32, width: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write_image(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def read(
    root: Path, *, split: str = "train", image_size: int = 32, resize: str = "error", cache: str = "cache"
) -> tuple[Tensor, Tensor | None, tuple[str, ...]]:
    content = read_folder(root, split=split, image_size=image_size, cache_dir=root.parent / cache, resize=resize)
    return content.images, content.labels, content.class_names


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of two images each: image k of class c holds pixels(10 c + k)."""
    for label, name in enumerate(("ant", "bee")):
        for k in range(2):
            write_image(tmp_path / "images" / name / f"{k}.png", pixels(10 * label + k))
    return tmp_path / "images"


def cache_files(root: Path) -> list[Path]:
    return sorted((root.parent / "cache" / "image_folder").glob("*/*"))


def test_class_sub_directories_give_labels_and_sorted_names(root: Path) -> None:
    images, labels, class_names = read(root)
    assert class_names == ("ant", "bee")
    assert labels is not None
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0, 0, 1, 1]
    assert images.shape == (4, 3, 32, 32)


def test_pixels_come_back_unchanged_in_the_order_of_the_paths(root: Path) -> None:
    images, _, _ = read(root)
    expected = np.stack([pixels(seed).transpose(2, 0, 1) for seed in (0, 1, 10, 11)])
    assert np.array_equal(images.numpy(), expected)


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    write_image(tmp_path / "flat" / "b.png", pixels(1))
    write_image(tmp_path / "flat" / "a.bmp", pixels(0))
    images, labels, class_names = read(tmp_path / "flat")
    assert labels is None
    assert class_names == ()
    assert np.array_equal(images[0].numpy(), pixels(0).transpose(2, 0, 1))


def test_a_sub_directory_named_like_the_split_is_read(root: Path) -> None:
    divided = root.parent / "divided"
    write_image(divided / "train" / "ant" / "0.png", pixels(0))
    write_image(divided / "test" / "bee" / "0.png", pixels(1))
    assert read(divided, split="train")[2] == ("ant",)
    assert read(divided, split="test")[2] == ("bee",)


def test_the_missing_half_of_a_divided_folder_is_not_replaced_by_the_other(tmp_path: Path) -> None:
    write_image(tmp_path / "divided" / "train" / "ant" / "0.png", pixels(0))
    with pytest.raises(DataError, match=r"has no test/ sub-directory; it has train/"):
        read(tmp_path / "divided", split="test")


def test_an_undivided_folder_has_no_test_split(root: Path) -> None:
    with pytest.raises(DataError, match=r"data\.split is 'test'.*all of it is train"):
        read(root, split="test")


def test_hidden_files_and_directories_are_no_images(root: Path) -> None:
    (root / "ant" / "._0.png").write_bytes(b"resource fork")
    write_image(root / ".thumbnails" / "0.png", pixels(5))
    assert read(root)[2] == ("ant", "bee")
    assert len(read(root)[0]) == 4


def test_other_files_are_passed_over(root: Path) -> None:
    (root / "ant" / "notes.txt").write_text("no image")
    assert len(read(root)[0]) == 4


@pytest.mark.parametrize("extension", ["jpg", "JPEG", "webp", "bmp", "PNG"])
def test_every_extension_is_read(tmp_path: Path, extension: str) -> None:
    grey = np.full((32, 32, 3), 128, dtype=np.uint8)  # survives lossy compression to within a level or two
    write_image(tmp_path / "flat" / f"0.{extension}", grey)
    assert (read(tmp_path / "flat")[0].to(torch.int64) - 128).abs().max() <= 2


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images"):
        read(tmp_path / "empty")


def test_a_root_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.root: .*nowhere is not a folder"):
        read(tmp_path / "nowhere")


def test_images_beside_class_directories_are_refused(root: Path) -> None:
    write_image(root / "stray.png", pixels(3))
    with pytest.raises(DataError, match=r"first: stray\.png"):
        read(root)


def test_a_file_that_cannot_be_read_is_named(root: Path) -> None:
    (root / "bee" / "2.png").symlink_to(root / "gone.png")
    with pytest.raises(DataError, match=r"cannot read bee/2\.png"):
        read(root)


def test_a_directory_that_cannot_be_listed_is_not_passed_over(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = os.scandir

    def refuse_bee(path: str) -> Any:
        if path.endswith("bee"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return listing(path)

    monkeypatch.setattr(os, "scandir", refuse_bee)
    with pytest.raises(DataError, match=r"cannot list .*bee: Permission denied"):
        read(root)


def test_a_truncated_file_is_named_by_its_relative_path(root: Path) -> None:
    broken = root / "bee" / "0.png"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(DataError, match=r"1 image file\(s\).*bee/0\.png \(OSError: .*truncated"):
        read(root)


def test_many_broken_files_are_counted_and_the_first_named(tmp_path: Path) -> None:
    write_image(tmp_path / "flat" / "good.png", pixels(0))
    for k in range(5):
        (tmp_path / "flat" / f"bad{k}.jpg").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"5 image file\(s\)") as caught:
        read(tmp_path / "flat")
    message = str(caught.value)
    assert [f"bad{k}.jpg" in message for k in range(5)] == [True, True, True, False, False]
    assert message.endswith("and 2 more")
    assert "good.png" not in message


def test_nothing_is_cached_when_a_file_is_broken(root: Path) -> None:
    (root / "ant" / "0.png").write_bytes(b"")
    with pytest.raises(DataError):
        read(root)
    assert not (root.parent / "cache").exists()


def test_a_wrong_size_names_the_first_file_both_sizes_and_the_way_out(root: Path) -> None:
    write_image(root / "ant" / "1.png", pixels(0, height=40, width=30))
    write_image(root / "bee" / "1.png", pixels(0, height=64, width=64))
    with pytest.raises(DataError) as caught:
        read(root)
    message = str(caught.value)
    for part in ("ant/1.png", "is 30x40", "expected 32x32", "1 other image", 'data.resize = "crop"'):
        assert part in message


def test_crop_takes_the_central_square(tmp_path: Path) -> None:
    wide = np.zeros((32, 72, 3), dtype=np.uint8)
    wide[:, 20:52] = pixels(4)
    write_image(tmp_path / "flat" / "0.png", wide)
    images, _, _ = read(tmp_path / "flat", resize="crop")
    assert np.array_equal(images[0].numpy(), pixels(4).transpose(2, 0, 1))


def test_reduction_is_antialiased() -> None:
    # A one-pixel checkerboard: without a filter wide enough the result is all black or white, not grey.
    board = np.indices((256, 256)).sum(0) % 2 * 255
    image = Image.fromarray(np.repeat(board[:, :, None], 3, 2).astype(np.uint8))
    reduced = np.asarray(center_square(image, 32)).astype(np.int64)
    assert np.abs(reduced[2:-2, 2:-2] - 127.5).max() <= 4


def test_small_images_are_enlarged_by_crop(tmp_path: Path) -> None:
    write_image(tmp_path / "flat" / "0.png", np.full((8, 9, 3), 77, dtype=np.uint8))
    images, _, _ = read(tmp_path / "flat", resize="crop")
    assert images.shape == (1, 3, 32, 32)
    assert images.unique().tolist() == [77]


def test_grey_images_are_repeated_into_three_channels(tmp_path: Path) -> None:
    write_image(tmp_path / "flat" / "0.png", pixels(0)[:, :, 0])
    images, _, _ = read(tmp_path / "flat")
    assert np.array_equal(images[0].numpy(), np.repeat(pixels(0)[None, :, :, 0], 3, 0))


def test_alpha_is_dropped_and_colours_kept(tmp_path: Path) -> None:
    alpha = np.concatenate([pixels(0), pixels(1)[:, :, :1]], axis=2)
    write_image(tmp_path / "flat" / "0.png", alpha)
    images, _, _ = read(tmp_path / "flat")
    assert np.array_equal(images[0].numpy(), pixels(0).transpose(2, 0, 1))


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path: Path) -> None:
    palette = Image.fromarray(pixels(0)).quantize(16)
    (tmp_path / "flat").mkdir()
    palette.save(tmp_path / "flat" / "0.png", transparency=bytes(range(16)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images, _, _ = read(tmp_path / "flat")
    assert np.array_equal(images[0].numpy(), np.asarray(palette.convert("RGB")).transpose(2, 0, 1))


def test_a_file_that_a_rule_refuses_is_named_with_the_reason(root: Path) -> None:
    Image.fromarray(pixels(0)).save(root / "ant" / "2.png", "TIFF")
    with pytest.raises(DataError, match=r"ant/2\.png \(its content is not one of PNG, JPEG, BMP, WEBP\)"):
        read(root)


def test_conversions_are_counted_and_remembered_by_the_cache(root: Path) -> None:
    for k in range(2):
        write_image(root / "bee" / f"alpha{k}.png", np.dstack([pixels(k), pixels(k)[..., 0]]))
    write_image(root / "ant" / "deep.png", pixels(0)[:, :, 0].astype(np.uint16) * 257)
    for _ in range(2):
        content = read_folder(root, split="train", image_size=32, cache_dir=root.parent / "cache", resize="error")
        assert content.conversions == {"alpha dropped": 2, "16 bits scaled to 8": 1}


def test_more_images_than_one_chunk_keep_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_folder, "_CHUNK", 3)
    for k in range(10):
        write_image(tmp_path / "flat" / f"{k}.png", np.full((32, 32, 3), k, dtype=np.uint8))
    for resize in ("error", "crop"):
        assert read(tmp_path / "flat", resize=resize)[0][:, 0, 0, 0].tolist() == list(range(10))


def test_a_second_load_decodes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read(root)
    monkeypatch.delattr(image_folder, "_decode")
    second = read(root)
    assert torch.equal(first[0], second[0])
    assert first[1] is not None
    assert second[1] is not None
    assert torch.equal(first[1], second[1])
    assert first[2] == second[2]


@pytest.mark.parametrize("change", ["byte", "name", "order of bytes", "policy", "size"])
def test_any_change_to_the_folder_or_policy_makes_another_cache_entry(root: Path, change: str) -> None:
    read(root, resize="crop")
    resize, image_size = "crop", 32
    first, second = root / "ant" / "0.png", root / "ant" / "1.png"
    if change == "byte":
        write_image(first, pixels(99))
    elif change == "name":
        first.rename(root / "ant" / "00.png")
    elif change == "order of bytes":
        contents = first.read_bytes(), second.read_bytes()
        first.write_bytes(contents[1])
        second.write_bytes(contents[0])
    elif change == "policy":
        resize = "error"
    else:
        image_size = 48
    read(root, resize=resize, image_size=image_size)
    assert len(cache_files(root)) == 2


def test_a_file_that_contains_another_is_not_mistaken_for_two_files(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for base in (one, two):
        base.mkdir()
    (two / "a").write_bytes(b"first")
    (two / "b").write_bytes(b"second")
    # The bytes that stand between the two contents in the hashed stream when contents carry no length.
    (one / "a").write_bytes(b"first" + (1).to_bytes(8, "little") + b"b" + b"second")
    keys = {
        image_folder._content_key(one, ["a"], 32, "error"),
        image_folder._content_key(two, ["a", "b"], 32, "error"),
    }
    assert len(keys) == 2


def test_touching_a_file_keeps_the_cache_entry(root: Path) -> None:
    read(root)
    (root / "ant" / "0.png").touch()
    read(root)
    assert len(cache_files(root)) == 1


@pytest.mark.parametrize("damage", ["truncated", "flipped bit", "empty", "of another shape", "not safetensors"])
def test_a_damaged_cache_file_is_made_again(root: Path, damage: str) -> None:
    images, _, _ = read(root)
    (path,) = cache_files(root)
    whole = path.read_bytes()
    if damage == "of another shape":
        write_image(root.parent / "other" / "0.png", pixels(0))
        read(root.parent / "other", cache="elsewhere")
        (other,) = (root.parent / "elsewhere" / "image_folder").glob("*/*")
        path.write_bytes(other.read_bytes())
    else:
        path.write_bytes(
            {
                "truncated": whole[: len(whole) // 2],
                "flipped bit": whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:],
                "empty": b"",
                "not safetensors": b"x" * len(whole),
            }[damage]
        )
    again, _, _ = read(root)
    assert torch.equal(again, images)
    assert path.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_an_error_that_names_it_and_its_variable(root: Path) -> None:
    (root.parent / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"cannot write .*/file/image_folder/.*; set GAN_MHE_CACHE to a folder"):
        read(root, cache="file")


def change(root: Path, k: int) -> Path:
    """Change the folder for the k-th time, read it and return the new version of it in the cache."""
    before = set(cache_files(root)) if (root.parent / "cache").exists() else set()
    write_image(root / "ant" / "0.png", pixels(100 + k))
    read(root)
    (made,) = set(cache_files(root)) - before
    os.utime(made, ns=(k, k))  # times of use that a coarse clock could not tell apart
    return made


def test_the_versions_of_a_folder_used_last_are_kept(root: Path) -> None:
    made = [change(root, k) for k in range(7)]
    assert set(cache_files(root)) == set(made[-folder_cache.KEPT :])


def test_a_version_that_is_read_counts_as_used(root: Path) -> None:
    first, *_ = [change(root, k) for k in range(folder_cache.KEPT)]
    write_image(root / "ant" / "0.png", pixels(100))
    read(root)
    change(root, 50)
    assert first in cache_files(root)


def test_versions_of_other_folders_are_left_alone(root: Path) -> None:
    other = root.parent / "other"
    write_image(other / "0.png", pixels(0))
    read(other)
    (theirs,) = cache_files(root)
    for k in range(6):
        change(root, k)
    assert theirs in cache_files(root)


def test_a_version_that_is_removed_while_it_is_read_stays_readable(root: Path) -> None:
    first = change(root, 0)
    with safe_open(first, framework="pt") as reading:
        for k in range(1, 6):
            change(root, k)
        assert first not in cache_files(root)
        assert reading.get_tensor("images").shape == (4, 3, 32, 32)


def test_files_of_the_former_cache_are_removed(root: Path) -> None:
    former = root.parent / "cache" / "image_folder" / f"{'0' * 64}.safetensors"
    former.parent.mkdir(parents=True)
    former.write_bytes(b"")
    read(root)
    assert not former.exists()
    assert len(cache_files(root)) == 1


def test_a_file_of_the_former_cache_that_cannot_be_removed_does_not_end_the_reading(root: Path) -> None:
    former = root.parent / "cache" / "image_folder" / f"{'0' * 64}.safetensors"
    former.mkdir(parents=True)  # a folder cannot be removed as a file, even by root
    assert len(read(root)[0]) == 4
    assert len(cache_files(root)) == 1


def test_what_a_killed_process_left_a_day_ago_is_removed(root: Path) -> None:
    read(root)
    (path,) = cache_files(root)
    old, young = (path.parent / f".x.safetensors.{k}.tmp" for k in range(2))
    for leftover, age_ns in ((old, 2 * 86_400 * 10**9), (young, 0)):
        leftover.touch()
        os.utime(leftover, ns=(0, path.stat().st_mtime_ns - age_ns))
    write_image(root / "ant" / "0.png", pixels(99))
    read(root)
    assert (old.exists(), young.exists()) == (False, True)


def test_a_cache_whose_times_cannot_be_changed_is_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, _, _ = read(root)

    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.delattr(image_folder, "_decode")
    assert torch.equal(read(root)[0], images)
