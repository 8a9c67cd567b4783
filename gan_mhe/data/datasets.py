"""Loads data sets by name as uint8 images of one size, with the hash of their content.

Nothing is downloaded unless the caller allows it, and there are no fallbacks: a missing data set is a DataError that
names the keys to set.
"""

import hashlib
import http.client
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from gan_mhe.config import names
from gan_mhe.data.content import Content
from gan_mhe.data.image_folder import read_folder
from gan_mhe.errors import DataError
from gan_mhe.files import canonical_json, sha256_bytes
from gan_mhe.records.data_summary import DataSummary
from gan_mhe.rng import generator


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images as they are trained on and scored against."""

    name: str
    """Key of `DATASETS`."""
    images: Tensor
    """uint8 (M, 3, H, H), 0..255."""
    labels: Tensor | None
    """int64 (M,); None if the data set has no labels."""
    class_names: tuple[str, ...]
    """Indexed by label."""
    content_sha256: str
    """Hash of the shape, the image bytes and the label bytes.

    Sets with equal hashes have the same images in the same order, so the hash is a valid cache key for scores.
    """
    split: str = "train"
    """The split that was read, or `UNDIVIDED` for an image folder without splits."""
    passed_over: Mapping[str, int] = field(default_factory=dict)
    """Number of files that were not read, by kind."""
    conversions: Mapping[str, int] = field(default_factory=dict)
    """Number of images that lost something when they were decoded, by what was done."""

    @property
    def summary(self) -> DataSummary:
        """What the set holds, as a record without the images."""
        counts = [] if self.labels is None else torch.bincount(self.labels, minlength=len(self.class_names)).tolist()
        return DataSummary(
            name=self.name,
            split=self.split,
            images=len(self.images),
            classes=dict(zip(self.class_names, counts, strict=True)),
            passed_over=self.passed_over,
            conversions=self.conversions,
            sha256=sha256_bytes(canonical_json([self.content_sha256, list(self.class_names)])),
        )


@dataclass(frozen=True)
class _Request:
    """The arguments of `load`."""

    name: str
    root: Path | None
    split: str
    image_size: int
    download: bool
    cache_dir: Path
    resize: str


Reader = Callable[[_Request], Content]


def load(
    name: str,
    *,
    root: Path | None,
    split: str,
    image_size: int,
    download: bool,
    cache_dir: Path,
    resize: str = "error",
) -> ImageSet:
    """One split of a data set as images of image_size x image_size, in a fixed order.

    name: a key of `DATASETS`. root: the folder of an image folder, or of torchvision's files (default:
    `cache_dir`/torchvision). resize: "error" refuses images of another size, "crop" resamples them; stl10, mnist and
    fashion_mnist, which nobody trains on at their own sizes, are always resized. Grayscale images are repeated into
    three channels.

    Raises DataError if the name or split does not exist, or images are missing, broken or of the wrong size;
    StorageError if the cache of an image folder cannot be written.
    """
    if name not in DATASETS:
        raise DataError(f"data.name: expected one of {', '.join(DATASETS)}; got {name!r}")
    splits = names.DATASETS[name].splits
    if split not in splits:
        raise DataError(f"data.split: expected one of {', '.join(splits)} for {name}; got {split!r}")
    request = _Request(name, root, split, image_size, download, cache_dir, resize)
    read = DATASETS[name](request)
    return ImageSet(
        name,
        read.images,
        read.labels,
        read.class_names,
        content_sha256(read.images, read.labels),
        split=read.split or split,
        passed_over=read.passed_over,
        conversions=read.conversions,
    )


def content_sha256(images: Tensor, labels: Tensor | None) -> str:
    """Hexadecimal SHA-256 of the shape, the image bytes and the label bytes (little-endian int64)."""
    header = {"images": list(images.shape), "labels": labels is not None}
    digest = hashlib.sha256(canonical_json(header))
    digest.update(images.contiguous().cpu().numpy().data)
    if labels is not None:
        digest.update(labels.cpu().numpy().astype("<i8").data)
    return digest.hexdigest()


def _read_digits(request: _Request) -> Content:
    """scikit-learn's 1,797 real 8x8 digits, values 0..16, enlarged by half-pixel bilinear interpolation."""
    from sklearn.datasets import load_digits

    bundle = load_digits()
    pixels = torch.from_numpy(bundle.images).to(torch.float64)[:, None]
    side = request.image_size
    enlarged = torch.nn.functional.interpolate(pixels, size=(side, side), mode="bilinear", align_corners=False)
    # Rounds half up, with a margin far above float64's rounding error and far below the spacing of possible values:
    # a value on a half must give the same byte, and the set the same hash, on every processor.
    gray = torch.floor(enlarged * (255.0 / 16.0) + (0.5 + 1e-6)).to(torch.uint8)
    labels = torch.from_numpy(bundle.target).to(torch.int64)
    return Content(_three_channels(gray), labels, tuple("0123456789"))


def _read_cifar(request: _Request, class_name: str) -> Content:
    dataset = _open_torchvision(request, class_name, train=request.split == "train")
    if request.resize == "error" and request.image_size != 32:
        raise DataError(
            f"data.image_size: {request.name} has 32x32 images, got {request.image_size}; "
            'set data.resize = "crop" to resize them'
        )
    images = _resized(dataset.data, request.image_size)
    return Content(images, torch.tensor(dataset.targets), tuple(dataset.classes))


def _read_stl10(request: _Request) -> Content:
    """Images resampled from 96x96, as in Miyato et al. 2018 and the published scores on STL-10 (to 48x48)."""
    dataset = _open_torchvision(request, "STL10", split=request.split)
    images = _resized(dataset.data.transpose(0, 2, 3, 1), request.image_size)
    if request.split == "unlabeled":
        return Content(images, None, ())
    return Content(images, torch.from_numpy(dataset.labels).to(torch.int64), tuple(dataset.classes))


def _read_mnist(request: _Request, class_name: str) -> Content:
    """28x28 grayscale images: padded with two black pixels to 32x32, which is exact; resampled to other sizes."""
    dataset = _open_torchvision(request, class_name, train=request.split == "train")
    gray: Tensor = dataset.data[:, None]
    if request.image_size == 32:
        images = _three_channels(torch.nn.functional.pad(gray, (2, 2, 2, 2)))
    else:
        images = _resized(gray.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy(), request.image_size)
    return Content(images, dataset.targets.to(torch.int64), tuple(dataset.classes))


def _open_torchvision(request: _Request, class_name: str, **which: Any) -> Any:
    from torchvision import datasets

    root = request.root or request.cache_dir / "torchvision"
    try:
        return getattr(datasets, class_name)(root, download=request.download, **which)
    except (RuntimeError, OSError, http.client.HTTPException) as error:
        if request.download:
            raise DataError(f"data.name: downloading {request.name} to {root} failed: {error}") from error
        raise DataError(
            f"data.name: {request.name} is missing or damaged in {root}; set data.download = true to download it, "
            "or data.root to the folder that holds it"
        ) from error


def _resized(images: npt.NDArray[np.uint8], image_size: int) -> Tensor:
    """Square uint8 images (M, h, h, 3) as (M, 3, H, H), resampled with Pillow's antialiased bilinear filter.

    torchvision's `Resize` does the same to Pillow images, which is how STL-10 is usually resized to 48x48.
    """
    if images.shape[1] == image_size:
        return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    out = np.empty((len(images), 3, image_size, image_size), dtype=np.uint8)
    for i, pixels in enumerate(images):
        image = Image.fromarray(np.ascontiguousarray(pixels))
        resized = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
        out[i] = np.asarray(resized).transpose(2, 0, 1)
    return torch.from_numpy(out)


def _three_channels(gray: Tensor) -> Tensor:
    return gray.expand(-1, 3, -1, -1).contiguous()


def _read_image_folder(request: _Request) -> Content:
    if request.root is None:
        raise DataError("data.root: expected the folder that holds the images of the image_folder; got none")
    return read_folder(
        request.root,
        split=request.split,
        image_size=request.image_size,
        cache_dir=request.cache_dir,
        resize=request.resize,
    )


def _read_synthetic(request: _Request) -> Content:
    """512 images of 1 to 4 colored Gaussian blobs on a color gradient, for tests; the class is the number of blobs."""
    count, most, side = 512, 4, request.image_size
    rng = generator("cpu", 0, "synthetic")
    labels = torch.arange(count) % most
    axis = (torch.arange(side) + 0.5) / side
    edges = torch.rand(2, count, 3, 1, 1, generator=rng) * 0.4
    canvas = edges[0] + (edges[1] - edges[0]) * axis  # (M, 3, 1, H), a gradient from left to right
    canvas = canvas.expand(-1, -1, side, -1)
    centers = 0.15 + 0.7 * torch.rand(most, 2, count, 1, 1, generator=rng)
    colors = 0.5 + 0.5 * torch.rand(most, count, 3, 1, 1, generator=rng)
    for i in range(most):
        distance2 = (axis[:, None] - centers[i, 0]) ** 2 + (axis[None, :] - centers[i, 1]) ** 2
        weight = torch.exp(-distance2 / (2 * 0.08**2)) * (i <= labels).view(-1, 1, 1)
        canvas = torch.lerp(canvas, colors[i].expand_as(canvas), weight[:, None])
    class_names = ("one blob", "two blobs", "three blobs", "four blobs")
    return Content((canvas * 255).round().to(torch.uint8).contiguous(), labels, class_names)


DATASETS: Mapping[str, Reader] = MappingProxyType(
    {
        "digits": _read_digits,
        "cifar10": lambda request: _read_cifar(request, "CIFAR10"),
        "cifar100": lambda request: _read_cifar(request, "CIFAR100"),
        "stl10": _read_stl10,
        "mnist": lambda request: _read_mnist(request, "MNIST"),
        "fashion_mnist": lambda request: _read_mnist(request, "FashionMNIST"),
        "image_folder": _read_image_folder,
        "synthetic": _read_synthetic,
    }
)
"""The readers of the data sets of `gan_mhe.config.names.DATASETS`."""
