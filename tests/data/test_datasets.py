"""The data sets by name: the offline ones by content, torchvision's from small files or stand-ins."""

import struct
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_digits

from gan_mhe.config import names
from gan_mhe.data.datasets import DATASETS, ImageSet, content_sha256, load
from gan_mhe.errors import DataError


def load_set(name: str, tmp_path: Path, **options: Any) -> ImageSet:
    defaults: dict[str, Any] = {"root": None, "split": "train", "image_size": 32, "download": False}
    return load(name, cache_dir=tmp_path, **(defaults | options))


def test_the_table_is_closed_and_has_the_names_of_the_configuration() -> None:
    assert list(DATASETS) == list(names.DATASETS)
    with pytest.raises(TypeError):
        DATASETS["mine"] = DATASETS["digits"]  # type: ignore[index]


def test_the_folders_of_the_table_are_those_of_torchvision(tmp_path: Path) -> None:
    classes = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "stl10": "STL10", "mnist": "MNIST"}
    for name, kind in (classes | {"fashion_mnist": "FashionMNIST"}).items():
        folder = names.DATASETS[name].folder
        assert folder is not None
        dataset = object.__new__(getattr(torchvision.datasets, kind))
        dataset.root = str(tmp_path)
        kept = dataset.raw_folder if "mnist" in name else f"{tmp_path}/{dataset.base_folder}"
        assert kept == f"{tmp_path}/{folder}"
    assert {name for name, dataset in names.DATASETS.items() if dataset.folder} == {*classes, "fashion_mnist"}


def test_an_unknown_name_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.name: expected one of digits, .*synthetic; got 'imagenet'"):
        load_set("imagenet", tmp_path)


@pytest.mark.parametrize(
    ("name", "split"), [("digits", "test"), ("cifar10", "unlabeled"), ("image_folder", "unlabeled")]
)
def test_a_split_that_a_set_does_not_have_is_refused(name: str, split: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"data\.split: expected one of train.* for {name}; got '{split}'"):
        load_set(name, tmp_path, split=split)


def test_digits_are_all_1797_with_their_labels(tmp_path: Path) -> None:
    digits = load_set("digits", tmp_path)
    assert digits.images.shape == (1797, 3, 32, 32)
    assert digits.images.dtype == torch.uint8
    assert digits.labels is not None
    assert digits.labels.dtype == torch.int64
    assert np.array_equal(digits.labels.numpy(), load_digits().target)
    assert digits.class_names == tuple("0123456789")


@pytest.mark.parametrize("side", [32, 48])
def test_digits_are_the_half_pixel_bilinear_enlargement_rounded_half_up(side: int, tmp_path: Path) -> None:
    # Independent reference in exact integers: one row of weights per output pixel, then both axes.
    scale = side // 8
    weights = np.zeros((side, 8), dtype=np.int64)  # in units of 1 / (2 scale)
    for i in range(side):
        twice = min(max(2 * i + 1 - scale, 0), 14 * scale)  # source position in units of 1 / (2 scale)
        low, rest = divmod(twice, 2 * scale)
        weights[i, low] += 2 * scale - rest
        weights[i, min(low + 1, 7)] += rest
    raw = load_digits().images[:200].astype(np.int64)
    exact = np.einsum("ip,mpq,jq->mij", weights, raw, weights) * 255  # in units of 1 / (16 (2 scale)^2)
    unit = 16 * (2 * scale) ** 2
    expected = (2 * exact + unit) // (2 * unit)
    digits = load_set("digits", tmp_path, image_size=side)
    for channel in range(3):
        assert np.array_equal(digits.images[:200, channel].numpy(), expected)


def test_digits_have_the_same_content_everywhere(tmp_path: Path) -> None:
    # Pinned: a score cached under this hash elsewhere must be a score of these very bytes.
    expected = "9c324b92d2e5a2bf570947cf1af20ca01d5ee6010ccca81b44a170ef8e7eb121"
    assert load_set("digits", tmp_path).content_sha256 == expected


def test_the_synthetic_set_is_the_same_at_every_call_and_leaves_the_global_generator_alone(
    tmp_path: Path,
) -> None:
    state = torch.random.get_rng_state()
    first, second = (load_set("synthetic", tmp_path) for _ in range(2))
    assert torch.equal(first.images, second.images)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.images.shape == (512, 3, 32, 32)
    assert first.labels is not None
    assert torch.bincount(first.labels).tolist() == [128] * 4
    assert len(first.class_names) == 4


def test_more_blobs_make_synthetic_images_brighter(tmp_path: Path) -> None:
    synthetic = load_set("synthetic", tmp_path)
    assert synthetic.labels is not None
    brightness = synthetic.images.to(torch.float64).mean((1, 2, 3))
    means = [brightness[synthetic.labels == label].mean().item() for label in range(4)]
    assert means == sorted(means)


def test_the_content_hash_sees_shape_bytes_and_labels() -> None:
    images = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4)
    labels = torch.tensor([0, 1])
    changed = images.clone()
    changed[1, 2, 3, 3] += 1
    hashes = {
        content_sha256(images, labels),
        content_sha256(changed, labels),
        content_sha256(images, torch.tensor([1, 0])),
        content_sha256(images, None),
        content_sha256(images.view(2, 3, 2, 8), labels),
        content_sha256(images.flip(0), labels),
    }
    assert len(hashes) == 6


def test_the_content_hash_does_not_depend_on_the_memory_layout() -> None:
    images = torch.arange(96, dtype=torch.uint8).view(2, 3, 4, 4)
    assert content_sha256(images.to(memory_format=torch.channels_last), None) == content_sha256(images, None)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "stl10", "mnist", "fashion_mnist"])
def test_a_set_that_was_not_fetched_says_what_to_set_and_where_it_looked(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"set data\.download = true") as caught:
        load_set(name, tmp_path)
    assert str(tmp_path / "torchvision") in str(caught.value)
    assert list(tmp_path.iterdir()) == []


class NoNetwork:
    def __init__(self, root: Path, *, download: bool, **_: Any) -> None:
        assert download
        raise URLError("no route to host")


def test_a_failed_download_is_a_data_error_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", NoNetwork)
    with pytest.raises(DataError, match=r"downloading cifar10 to .*elsewhere failed: .*no route to host"):
        load_set("cifar10", tmp_path, root=tmp_path / "elsewhere", download=True)


class SmallCifar:
    """What torchvision's CIFAR classes offer once their files are read: 6 images (train) or 4 (test)."""

    classes = ("a", "b")

    def __init__(self, root: Path, *, train: bool, download: bool) -> None:
        count = 6 if train else 4
        self.data = np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        self.targets = [i % 2 for i in range(count)]


def test_cifar_images_become_channels_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets, "CIFAR100", SmallCifar)
    cifar = load_set("cifar100", tmp_path, split="test")
    source = SmallCifar(tmp_path, train=False, download=False)
    assert np.array_equal(cifar.images.numpy(), source.data.transpose(0, 3, 1, 2))
    assert cifar.images.is_contiguous()
    assert cifar.labels is not None
    assert (cifar.labels.dtype, cifar.labels.tolist()) == (torch.int64, [0, 1, 0, 1])
    assert cifar.class_names == ("a", "b")


def test_cifar_at_another_size_is_refused_unless_resizing_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", SmallCifar)
    with pytest.raises(DataError, match=r'cifar10 has 32x32 images, got 48; set data\.resize = "crop"'):
        load_set("cifar10", tmp_path, image_size=48)
    assert load_set("cifar10", tmp_path, image_size=48, resize="crop").images.shape == (6, 3, 48, 48)


class SmallStl:
    classes = ("airplane", "bird")

    def __init__(self, root: Path, *, split: str, download: bool) -> None:
        self.data = np.random.default_rng(0).integers(0, 256, (3, 3, 96, 96), dtype=np.uint8)
        self.labels = np.array([-1, -1, -1]) if split == "unlabeled" else np.array([1, 0, 1], dtype=np.uint8)


def test_stl10_is_resized_as_torchvision_resizes_pillow_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets, "STL10", SmallStl)
    stl = load_set("stl10", tmp_path, image_size=48)
    resize = torchvision.transforms.Resize(48)
    for image, array in zip(stl.images, SmallStl(tmp_path, split="train", download=False).data, strict=True):
        expected = resize(Image.fromarray(np.ascontiguousarray(array.transpose(1, 2, 0))))
        assert np.array_equal(image.numpy(), np.asarray(expected).transpose(2, 0, 1))
    assert stl.labels is not None
    assert (stl.labels.dtype, stl.labels.tolist()) == (torch.int64, [1, 0, 1])


def test_unlabeled_stl10_has_no_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets, "STL10", SmallStl)
    stl = load_set("stl10", tmp_path, split="unlabeled", image_size=48)
    assert stl.labels is None
    assert stl.class_names == ()


def write_mnist_files(raw: Path) -> np.ndarray:
    """The four files of MNIST, in its own binary format, with 5 images each."""
    raw.mkdir(parents=True)
    images = np.random.default_rng(1).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    for part in ("train", "t10k"):
        header = struct.pack(">iiii", 0x803, 5, 28, 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = bytes(range(5)) if part == "train" else bytes(reversed(range(5)))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">ii", 0x801, 5) + labels)
    return images


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_mnist_is_framed_to_32_pixels_without_touching_its_own(name: str, folder: str, tmp_path: Path) -> None:
    pixels = write_mnist_files(tmp_path / "torchvision" / folder / "raw")
    mnist = load_set(name, tmp_path)
    for channel in range(3):
        assert np.array_equal(mnist.images[:, channel, 2:30, 2:30].numpy(), pixels)
    assert int(mnist.images.sum()) == 3 * int(pixels.sum())
    assert mnist.labels is not None
    assert mnist.labels.tolist() == [0, 1, 2, 3, 4]
    assert len(mnist.class_names) == 10


def test_mnist_at_other_sizes_is_resampled(tmp_path: Path) -> None:
    pixels = write_mnist_files(tmp_path / "here" / "MNIST" / "raw")
    mnist = load_set("mnist", tmp_path, root=tmp_path / "here", split="test", image_size=48)
    expected = Image.fromarray(pixels[0]).resize((48, 48), Image.Resampling.BILINEAR)
    assert np.array_equal(mnist.images[0, 1].numpy(), np.asarray(expected))
    assert mnist.labels is not None
    assert mnist.labels.tolist() == [4, 3, 2, 1, 0]


def test_an_image_folder_goes_through_the_same_door(tmp_path: Path) -> None:
    (tmp_path / "images" / "ant").mkdir(parents=True)
    Image.new("RGB", (40, 32), (1, 2, 3)).save(tmp_path / "images" / "ant" / "0.png")
    with pytest.raises(DataError, match=r"ant/0\.png"):
        load_set("image_folder", tmp_path, root=tmp_path / "images")
    folder = load_set("image_folder", tmp_path, root=tmp_path / "images", resize="crop")
    assert folder.images[0, :, 0, 0].tolist() == [1, 2, 3]
    assert folder.class_names == ("ant",)
    assert folder.content_sha256 == content_sha256(folder.images, folder.labels)


def test_a_summary_counts_the_images_of_each_class(tmp_path: Path) -> None:
    digits = load_set("digits", tmp_path).summary
    counts = np.bincount(load_digits().target)
    assert (digits.name, digits.split, digits.images) == ("digits", "train", 1797)
    assert digits.classes == {str(digit): count for digit, count in enumerate(counts)}
    assert (digits.passed_over, digits.conversions) == ({}, {})


def test_a_summary_without_labels_has_no_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets, "STL10", SmallStl)
    stl = load_set("stl10", tmp_path, split="unlabeled", image_size=48).summary
    assert (stl.split, stl.classes, stl.images) == ("unlabeled", {}, 3)


def test_the_summary_of_a_folder_states_the_split_and_what_was_passed_over(tmp_path: Path) -> None:
    for split, color in (("Train", "red"), ("Test", "blue")):
        (tmp_path / "images" / split / "ant").mkdir(parents=True)
        Image.new("RGBA", (32, 32), color).save(tmp_path / "images" / split / "ant" / "0.png")
    (tmp_path / "images" / "Test" / "ant" / "0.gif").touch()
    held = load_set("image_folder", tmp_path, root=tmp_path / "images", split="test").summary
    assert (held.split, held.images, held.classes) == ("test", 1, {"ant": 1})
    assert (held.passed_over, held.conversions) == ({".gif": 1}, {"alpha dropped": 1})


def test_an_image_folder_needs_a_root(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.root"):
        load_set("image_folder", tmp_path)
