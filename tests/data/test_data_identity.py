"""The hash of a data set: any change of the data changes it, and where the data lie does not."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gan_mhe.data.datasets import load
from gan_mhe.records.data_summary import DataSummary

SIDE = 8  # the loader takes any size; only configurations are limited to larger ones
LETTERS = "abcdefgh"

Pixels = tuple[int, ...]
Layout = dict[str, dict[str, Pixels]]  # the gray levels of files, by class and name

colors = st.lists(st.integers(0, 255), min_size=4, max_size=4).map(tuple)
names = st.text(LETTERS, min_size=1, max_size=3)
layouts = st.dictionaries(names, st.dictionaries(names, colors, min_size=1, max_size=3), min_size=1, max_size=3)


def write(layout: Layout, root: Path) -> None:
    for class_name, files in layout.items():
        (root / class_name).mkdir(parents=True)
        for name, levels in files.items():
            quadrants = np.kron(np.array(levels, np.uint8).reshape(2, 2), np.ones((SIDE // 2, SIDE // 2), np.uint8))
            Image.fromarray(quadrants).save(root / class_name / f"{name}.png")


def summary_at(root: Path) -> DataSummary:
    cache = root.parent / "cache"
    return load("image_folder", root=root, split="train", image_size=SIDE, download=False, cache_dir=cache).summary


def summary_of(layout: Layout) -> DataSummary:
    with tempfile.TemporaryDirectory() as directory:
        write(layout, Path(directory) / "images")
        return summary_at(Path(directory) / "images")


def copied(layout: Layout) -> Layout:
    return {class_name: dict(files) for class_name, files in layout.items()}


@st.composite
def changes(draw: st.DrawFn) -> tuple[Layout, Layout]:
    """A layout, and the same one after one change of its data."""
    before = draw(layouts)
    after = copied(before)
    class_name = draw(st.sampled_from(sorted(before)))
    name = draw(st.sampled_from(sorted(before[class_name])))
    kind = draw(st.sampled_from(["add", "remove", "rename class", "pixel", "swap"]))
    if kind == "add":
        after[class_name]["new"] = draw(colors)
    elif kind == "remove":
        del after[class_name][name]
        after = {owner: files for owner, files in after.items() if files} or {"other": {"x": (0, 0, 0, 0)}}
    elif kind == "rename class":
        after[draw(names.filter(lambda other: other not in before))] = after.pop(class_name)
    elif kind == "pixel":
        first, *rest = after[class_name][name]
        after[class_name][name] = ((first + draw(st.integers(1, 255))) % 256, *rest)
    else:
        after["i"], after["j"] = {"x": (1, 2, 3, 4)}, {"x": (5, 6, 7, 8)}
        before = copied(after)
        after["i"], after["j"] = before["j"], before["i"]
    return before, after


@settings(max_examples=25, deadline=None)
@given(changes())
def test_any_change_of_the_data_changes_the_hash(change: tuple[Layout, Layout]) -> None:
    before, after = map(summary_of, change)
    assert before.sha256 != after.sha256


@settings(max_examples=8, deadline=None)
@given(layouts)
def test_moving_a_folder_keeps_the_hash(layout: Layout) -> None:
    with tempfile.TemporaryDirectory() as directory:
        here, there = Path(directory) / "here" / "images", Path(directory) / "there" / "pictures"
        write(layout, here)
        before = summary_at(here)
        there.parent.mkdir()
        shutil.move(here, there)
        assert summary_at(there) == before


def test_a_change_of_one_gray_level_of_one_pixel_changes_the_hash(tmp_path: Path) -> None:
    write({"ant": {"a": (0, 0, 0, 0)}, "bee": {"b": (9, 9, 9, 9)}}, tmp_path / "images")
    before = summary_at(tmp_path / "images").sha256
    image = Image.open(tmp_path / "images" / "bee" / "b.png")
    image.putpixel((3, 5), 10)
    image.save(tmp_path / "images" / "bee" / "b.png")
    assert summary_at(tmp_path / "images").sha256 != before


def test_files_that_are_not_read_change_the_record_and_not_the_hash(tmp_path: Path) -> None:
    write({"ant": {"a": (0, 0, 0, 0)}}, tmp_path / "images")
    before = summary_at(tmp_path / "images")
    (tmp_path / "images" / "ant" / "notes.txt").touch()
    after = summary_at(tmp_path / "images")
    assert (after.sha256, after.passed_over) == (before.sha256, {".txt": 1})
