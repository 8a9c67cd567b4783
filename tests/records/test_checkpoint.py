"""Checkpoints: what is saved comes back, and whatever was altered is refused."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gan_mhe.errors import CheckpointError, StorageError
from gan_mhe.files import canonical_json, sha256_bytes, write_json
from gan_mhe.records import checkpoint
from gan_mhe.records.checkpoint import Checkpoint

NOTES = {"evaluations": 2, "best": {"step": 4, "scores": {"fid": "NaN"}}, "train_seconds": 0.1}
LINEAGE = "a" * 64


def content() -> Checkpoint:
    tensors = {
        "half": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3),
        "single": torch.linspace(-1, 1, 12).reshape(3, 4).t(),
        "double": torch.tensor(0.1, dtype=torch.float64),
        "count": torch.tensor([3, 4]),
        "not_finite": torch.tensor([float("nan"), float("inf")]),
    }
    return Checkpoint(7, LINEAGE, tensors, NOTES)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoints") / "step_00000007"
    checkpoint.save(directory, content())
    return directory


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def seal(directory: Path, **changes: Any) -> None:
    """Change the manifest and give it the hash of what it now says."""
    manifest = json.loads((directory / "manifest.json").read_text()) | changes
    del manifest["sha256"]
    write_json(directory / "manifest.json", manifest | {"sha256": sha256_bytes(canonical_json(manifest))})


def test_a_checkpoint_comes_back_bit_for_bit(saved: Path) -> None:
    found = checkpoint.load(saved, lineage=LINEAGE)
    assert (found.step, found.lineage, found.notes) == (7, LINEAGE, NOTES)
    expected = content().tensors
    assert found.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert torch.equal(found.tensors[name].nan_to_num(5.0), tensor.nan_to_num(5.0))


def test_equal_checkpoints_have_equal_hashes_and_others_do_not(tmp_path: Path) -> None:
    first = checkpoint.save(tmp_path / "a", content())
    assert checkpoint.save(tmp_path / "b", content()) == first
    changed = dict(content().tensors) | {"count": torch.tensor([3, 5])}
    assert checkpoint.save(tmp_path / "c", Checkpoint(7, LINEAGE, changed, NOTES)) != first


def test_saving_again_replaces_the_older_checkpoint_and_leaves_nothing_else(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "c", content())
    checkpoint.save(tmp_path / "c", Checkpoint(7, LINEAGE, {"x": torch.ones(2)}, {}))
    assert set(checkpoint.load(tmp_path / "c").tensors) == {"x"}
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_save_that_the_disk_refuses_leaves_the_older_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path / "c", content())

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(StorageError, match="No space left on device"):
        patch.setattr("os.fsync", full)
        checkpoint.save(tmp_path / "c", Checkpoint(7, LINEAGE, {}, {}))
    assert checkpoint.load(tmp_path / "c").notes == NOTES
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@settings(deadline=None, derandomize=True, max_examples=40)
@given(data=st.data())
def test_a_truncated_tensors_file_is_refused(data: st.DataObject, tmp_path_factory: Any, saved: Path) -> None:
    copy = Path(shutil.copytree(saved, tmp_path_factory.mktemp("truncated") / "c"))
    whole = (copy / "tensors.safetensors").read_bytes()
    length = data.draw(st.integers(0, len(whole) - 1))
    (copy / "tensors.safetensors").write_bytes(whole[:length])
    with pytest.raises(CheckpointError, match=r"tensors\.safetensors is damaged"):
        checkpoint.load(copy)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(data=st.data())
def test_a_flipped_bit_in_the_tensors_is_refused(data: st.DataObject, tmp_path_factory: Any, saved: Path) -> None:
    copy = Path(shutil.copytree(saved, tmp_path_factory.mktemp("flipped") / "c"))
    altered = bytearray((copy / "tensors.safetensors").read_bytes())
    bit = data.draw(st.integers(0, 8 * len(altered) - 1))
    altered[bit // 8] ^= 1 << bit % 8
    (copy / "tensors.safetensors").write_bytes(altered)
    with pytest.raises(CheckpointError, match=r"tensors\.safetensors is damaged"):
        checkpoint.load(copy)


def test_a_flipped_bit_anywhere_in_the_manifest_is_refused(copy: Path) -> None:
    path = copy / "manifest.json"
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 7):
        altered = bytearray(whole)
        altered[bit // 8] ^= 1 << bit % 8
        path.write_bytes(altered)
        with pytest.raises(CheckpointError, match=r"manifest\.json"):
            checkpoint.load(copy)


@pytest.mark.parametrize("text", ["", "[]", "3", "null", "{}", '{"sha256": 3}', '{"step": NaN, "sha256": "x"}', "\xff"])
def test_a_manifest_that_is_something_else_is_refused(copy: Path, text: str) -> None:
    (copy / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        checkpoint.load(copy)


@pytest.mark.parametrize("key", ["format", "step", "lineage", "tensors_sha256", "notes"])
def test_a_manifest_without_one_of_its_keys_is_refused(copy: Path, key: str) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest[key], manifest["sha256"]
    write_json(copy / "manifest.json", manifest | {"sha256": sha256_bytes(canonical_json(manifest))})
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        checkpoint.load(copy, lineage=LINEAGE)


@pytest.mark.parametrize(
    ("key", "value"),
    [("step", "7"), ("step", -1), ("lineage", None), ("tensors_sha256", "0" * 64 + "\r\n"), ("notes", [])],
)
def test_a_manifest_with_a_value_of_another_type_is_refused(copy: Path, key: str, value: Any) -> None:
    seal(copy, **{key: value})
    with pytest.raises(CheckpointError, match=rf"manifest\.json cannot be read: {key}"):
        checkpoint.load(copy)


@pytest.mark.parametrize("name", ["manifest.json", "tensors.safetensors"])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        checkpoint.load(copy)


def test_a_checkpoint_of_another_configuration_is_refused_unless_none_is_asked_for(saved: Path) -> None:
    with pytest.raises(CheckpointError, match="another configuration"):
        checkpoint.load(saved, lineage="b" * 64)
    assert checkpoint.load(saved).step == 7


def test_a_checkpoint_is_known_by_the_hash_that_saving_it_returned(tmp_path: Path) -> None:
    first = checkpoint.save(tmp_path / "c", content())
    assert checkpoint.load(tmp_path / "c", digest=first).step == 7
    second = checkpoint.save(tmp_path / "c", Checkpoint(7, LINEAGE, {"x": torch.ones(2)}, {}))
    with pytest.raises(CheckpointError, match=f"is another checkpoint: expected SHA-256 {first}, got {second}"):
        checkpoint.load(tmp_path / "c", digest=first)


def test_another_format_is_refused_with_both_numbers(copy: Path) -> None:
    seal(copy, format=99)
    with pytest.raises(CheckpointError, match="format 99; this version reads format 1"):
        checkpoint.load(copy)


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("dump", [pickle.dumps, None], ids=["pickle", "torch.save"])
def test_a_pickle_in_the_place_of_tensors_is_refused_and_not_executed(copy: Path, tmp_path: Path, dump: Any) -> None:
    bomb, tensors = Bomb(tmp_path / "exploded"), copy / "tensors.safetensors"
    if dump:
        tensors.write_bytes(dump(bomb))
    else:
        torch.save(bomb, tensors)
    seal(copy, tensors_sha256=sha256_bytes(tensors.read_bytes()))
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load(copy)
    assert not bomb.target.exists()


def test_pruning_keeps_the_newest_and_the_pinned_one(tmp_path: Path) -> None:
    directories = {step: tmp_path / str(step) for step in (5, 10, 15, 20)}
    for directory in directories.values():
        checkpoint.save(directory, content())
    checkpoint.prune(directories, keep_last=2, pinned=5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["15", "20", "5"]
    checkpoint.prune(directories, keep_last=1, pinned=None)
    assert [path.name for path in tmp_path.iterdir()] == ["20"]
