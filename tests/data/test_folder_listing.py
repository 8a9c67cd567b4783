"""Which files of a folder are images of which class, and which folders are refused instead of being guessed at."""

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from gan_mhe.data.folder_listing import Listing, list_folder
from gan_mhe.errors import DataError


def lay_out(root: Path, paths: Iterable[str]) -> Path:
    """Make empty files, and folders where a path ends with a slash; nothing here is decoded."""
    for path in paths:
        target = root / path
        if path.endswith("/"):
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
    return root


def listed(root: Path, *paths: str, split: str = "train") -> Listing:
    return list_folder(lay_out(root, paths), split)


def refusal(root: Path, *paths: str, split: str = "train") -> str:
    with pytest.raises(DataError) as caught:
        listed(root, *paths, split=split)
    return str(caught.value)


def test_an_undivided_folder_says_so(tmp_path: Path) -> None:
    assert listed(tmp_path, "ant/0.png", "bee/0.png").split == "undivided"


# --- splits


@pytest.mark.parametrize(
    ("spelling", "split"),
    [("Train", "train"), ("TRAINING", "train"), ("training", "train"), ("TEST", "test"), ("Testing", "test")],
)
def test_a_split_is_recognized_in_every_spelling(tmp_path: Path, spelling: str, split: str) -> None:
    found = listed(tmp_path, f"{spelling}/ant/0.png", "val/ant/1.png", split=split)
    assert (found.base.name, found.split, found.class_names) == (spelling, split, ("ant",))


@pytest.mark.parametrize("spelling", ["val", "Valid", "validation"])
def test_validation_images_are_neither_train_nor_test(tmp_path: Path, spelling: str) -> None:
    paths = (f"{spelling}/ant/0.png", "Train/ant/1.png")
    assert listed(tmp_path, *paths).paths == ("ant/1.png",)
    has = " and ".join(sorted(("Train/", f"{spelling}/")))
    assert f"no test/ sub-directory; it has {has}" in refusal(tmp_path, *paths, split="test")


def test_two_folders_of_one_split_are_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, "Train/ant/0.png", "training/ant/0.png")
    assert "Train/ and training/" in message and "all mean 'train'" in message


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("ambiguous", ["train", "test", "Validation"])
def test_a_class_named_like_a_split_is_refused_with_the_way_out(tmp_path: Path, ambiguous: str, split: str) -> None:
    message = refusal(tmp_path, "car/0.png", f"{ambiguous}/0.png", split=split)
    for part in (
        f"{ambiguous}/ beside car/",
        f"if all are classes, move them into one new folder {tmp_path / 'train'}",
    ):
        assert part in message


def test_the_way_out_leads_to_a_class_named_train(tmp_path: Path) -> None:
    found = listed(tmp_path, "train/car/0.png", "train/train/0.png")
    assert (found.class_names, found.labels) == (("car", "train"), (0, 1))


def test_images_beside_splits_are_refused(tmp_path: Path) -> None:
    assert "train/ beside stray.PNG" in refusal(tmp_path, "train/ant/0.png", "stray.PNG")


def test_folders_without_images_beside_splits_are_passed_over_and_counted(tmp_path: Path) -> None:
    found = listed(tmp_path, "train/ant/0.png", "annotations/0.xml", "annotations/1.xml", "LICENSE", ".git/x")
    assert found.passed_over == {".xml": 2, "no suffix": 1, "hidden": 1}


@pytest.mark.parametrize("inside", [("train", "test"), ("Training", "ground_truth", "val"), ("train",)])
def test_a_divided_data_set_is_not_a_class(tmp_path: Path, inside: tuple[str, ...]) -> None:
    message = refusal(tmp_path, *(f"bottle/{name}/0.png" for name in inside))
    assert str(tmp_path / "bottle") in message and "is divided into" in message and "set data.root to it" in message


def test_one_sub_folder_of_a_class_may_be_named_train(tmp_path: Path) -> None:
    assert listed(tmp_path, "vehicle/car/0.png", "vehicle/train/0.png").class_names == ("vehicle",)


# --- classes


def test_a_class_without_files_is_refused_by_name(tmp_path: Path) -> None:
    assert "1 class folder(s)" in (message := refusal(tmp_path, "ant/0.png", "bee/")) and "bee/ (empty)" in message


def test_a_class_with_files_of_other_kinds_alone_is_refused_with_their_kinds(tmp_path: Path) -> None:
    message = refusal(tmp_path, "ant/0.png", "bee/0.tiff", "bee/deep/1.TIFF", "bee/2.gif")
    assert "bee/ (.tiff 2, .gif 1)" in message


def test_many_empty_classes_are_counted_and_the_first_named(tmp_path: Path) -> None:
    message = refusal(tmp_path, "ant/0.png", *(f"empty{k}/" for k in range(5)))
    assert "5 class folder(s)" in message and "empty2/ (empty) and 2 more" in message and "empty3" not in message


def test_a_flat_folder_may_have_folders_without_images(tmp_path: Path) -> None:
    found = listed(tmp_path, "0.png", "notes/a.txt")
    assert (found.labels, found.class_names, found.passed_over) == (None, (), {".txt": 1})


def test_a_class_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    try:
        lay_out(tmp_path, ["a\udcff/0.png"])
    except OSError:
        pytest.skip("the file system accepts UTF-8 alone")
    assert "not UTF-8" in refusal(tmp_path)


# --- files that are not read


def test_files_of_other_kinds_are_counted_by_suffix(tmp_path: Path) -> None:
    others = [f"ant/{k}.tif" for k in range(3)] + ["bee/0.GIF", "bee/1.gif", "README"]
    assert listed(tmp_path, "ant/0.png", "bee/0.png", *others).passed_over == {".tif": 3, ".gif": 2, "no suffix": 1}


def test_hidden_files_and_folders_are_counted(tmp_path: Path) -> None:
    found = listed(tmp_path, "ant/0.png", "ant/._0.png", ".thumbnails/0.png", ".thumbnails/1.png")
    assert (found.paths, found.passed_over) == (("ant/0.png",), {"hidden": 2})


def test_numbered_suffixes_do_not_fill_the_record(tmp_path: Path) -> None:
    found = listed(tmp_path, "0.png", *(f"scan.{k:03}" for k in range(30)))
    assert (len(found.passed_over), found.passed_over["other"]) == (21, 10)


def test_a_folder_without_images_says_what_it_has(tmp_path: Path) -> None:
    message = refusal(tmp_path, "ant/0.tif", "ant/1.tif")
    assert "no images (.png" in message and "it has .tif 2" in message


# --- links


def test_linked_files_are_read(tmp_path: Path) -> None:
    lay_out(tmp_path, ["images/ant/", "elsewhere/0.png"])
    (tmp_path / "images/ant/0.png").symlink_to(tmp_path / "elsewhere/0.png")
    assert listed(tmp_path / "images").paths == ("ant/0.png",)


def test_a_link_to_a_folder_elsewhere_is_followed(tmp_path: Path) -> None:
    lay_out(tmp_path, ["images/ant/0.png", "elsewhere/0.png"])
    (tmp_path / "images/bee").symlink_to(tmp_path / "elsewhere")
    assert listed(tmp_path / "images").paths == ("ant/0.png", "bee/0.png")


@pytest.mark.parametrize("target", [".", "ant", "ant/deep"])
def test_a_link_into_a_folder_that_is_read_too_is_refused(tmp_path: Path, target: str) -> None:
    lay_out(tmp_path, ["ant/deep/0.png"])
    (tmp_path / "bee").symlink_to(tmp_path / target)
    message = refusal(tmp_path)
    assert f"{target}/ in" in message and "bee/" in message and "are one folder" in message


def test_two_folders_that_link_to_each_other_are_refused(tmp_path: Path) -> None:
    lay_out(tmp_path, ["images/ant/0.png", "elsewhere/0.png"])
    (tmp_path / "images/ant/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "images/ant")
    assert "ant/more/back/ and ant/ in" in refusal(tmp_path / "images")


def test_splits_that_are_one_folder_by_a_link_are_refused(tmp_path: Path) -> None:
    lay_out(tmp_path, ["train/ant/0.png"])
    (tmp_path / "test").symlink_to("train")
    assert "test/ and train/ in" in (message := refusal(tmp_path)) and "are one folder" in message


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    lay_out(tmp_path, ["ant/0.png"])
    (tmp_path / "loop").symlink_to("loop")
    assert f"cannot follow {tmp_path / 'loop'}" in refusal(tmp_path)


def test_a_pipe_named_like_an_image_is_refused(tmp_path: Path) -> None:
    lay_out(tmp_path, ["ant/0.png"])
    os.mkfifo(tmp_path / "ant" / "1.png")
    assert "cannot read ant/1.png" in refusal(tmp_path)
