"""Data sets by name, each as uint8 images of one size with the hash of their content.

Only what is asked for is read, nothing is fetched unless the caller allows it, and no set stands in for
another: a set that is missing is a DataError that says what to set.
"""

import hashlib
import http.client
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from gan_mhe.data.image_folder import read_folder
from gan_mhe.errors import DataError
from gan_mhe.files import canonical_json
from gan_mhe.rng import generator


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images as they are trained on and scored against.

    name: the name in `DATASETS`; images: uint8 (M, 3, H, H), 0..255; labels: int64 (M,), or None where the set
    has none; class_names: by label; content_sha256: hash of the shape, the image bytes and the label bytes.
    Two sets with equal hashes hold the same images in the same order, so a score may be cached under it.
    """

    name: str
    images: Tensor
    labels: Tensor | None
    class_names: tuple[str, ...]
    content_sha256: str


@dataclass(frozen=True)
class _Request:
    """What `load` was asked for."""

    name: str
    root: Path | None
    split: str
    image_size: int
    download: bool
    cache_dir: Path
    resize: str


_Content = tuple[Tensor, Tensor | None, tuple[str, ...]]  # images, labels, class names


@dataclass(frozen=True)
class Source:
    """Where a data set comes from: the splits it has, and how one of them is read."""

    splits: tuple[str, ...]
    read: Callable[[_Request], _Content]


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
    """The split of a data set of `DATASETS` as images of image_size x image_size, in a fixed order.

    `root` is the folder of an image folder, or where torchvision keeps its files (default:
    `cache_dir`/torchvision). `resize` is "error" or "crop": whether images of another size are refused or
    resampled; stl10, mnist and fashion_mnist, whose own sizes nobody trains at, are always fitted. Grey
    images are repeated into three channels.

    Raises DataError when the name or split does not exist, or the images are missing, broken or of the wrong
    size; StorageError when the cache of an image folder cannot be written.
    """
    if name not in DATASETS:
        raise DataError(f"data.name: expected one of {', '.join(DATASETS)}; got {name!r}")
    source = DATASETS[name]
    if split not in source.splits:
        raise DataError(f"data.split: {name} has {', '.join(source.splits)}; got {split!r}")
    request = _Request(name, root, split, image_size, download, cache_dir, resize)
    images, labels, class_names = source.read(request)
    return ImageSet(name, images, labels, class_names, content_sha256(images, labels))


def content_sha256(images: Tensor, labels: Tensor | None) -> str:
    """Hexadecimal SHA-256 of the shape, the image bytes and the label bytes (little-endian int64)."""
    header = {"images": list(images.shape), "labels": labels is not None}
    digest = hashlib.sha256(canonical_json(header))
    digest.update(images.contiguous().cpu().numpy().data)
    if labels is not None:
        digest.update(labels.cpu().numpy().astype("<i8").data)
    return digest.hexdigest()


def _read_digits(request: _Request) -> _Content:
    """1,797 real 8x8 digits of scikit-learn, values 0..16, enlarged by half-pixel bilinear interpolation."""
    from sklearn.datasets import load_digits

    bundle = load_digits()
    pixels = torch.from_numpy(bundle.images).to(torch.float64)[:, None]
    side = request.image_size
    enlarged = torch.nn.functional.interpolate(pixels, size=(side, side), mode="bilinear", align_corners=False)
    # Half up, with a margin far above float64's rounding and far below the grid of possible values: a value
    # that lies on a half must not become another byte, and the set another hash, on another processor.
    grey = torch.floor(enlarged * (255.0 / 16.0) + (0.5 + 1e-6)).to(torch.uint8)
    return _three_channels(grey), torch.from_numpy(bundle.target).to(torch.int64), tuple("0123456789")


def _read_cifar(request: _Request, class_name: str) -> _Content:
    dataset = _open_torchvision(request, class_name, train=request.split == "train")
    if request.resize == "error" and request.image_size != 32:
        raise DataError(
            f"data.image_size: the images of {request.name} are 32x32, expected "
            f'{request.image_size}x{request.image_size}; data.resize = "crop" would resize them'
        )
    images = _resized(dataset.data, request.image_size)
    return images, torch.tensor(dataset.targets), tuple(dataset.classes)


def _read_stl10(request: _Request) -> _Content:
    """Resampled from 96x96, as Miyato et al. 2018 and the published scores on STL-10 do (to 48x48)."""
    dataset = _open_torchvision(request, "STL10", split=request.split)
    images = _resized(dataset.data.transpose(0, 2, 3, 1), request.image_size)
    if request.split == "unlabeled":
        return images, None, ()
    return images, torch.from_numpy(dataset.labels).to(torch.int64), tuple(dataset.classes)


def _read_mnist(request: _Request, class_name: str) -> _Content:
    """28x28 grey images: at 32x32 in a frame of two black pixels, which is exact; at other sizes resampled."""
    dataset = _open_torchvision(request, class_name, train=request.split == "train")
    grey: Tensor = dataset.data[:, None]
    if request.image_size == 32:
        images = _three_channels(torch.nn.functional.pad(grey, (2, 2, 2, 2)))
    else:
        images = _resized(grey.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy(), request.image_size)
    return images, dataset.targets.to(torch.int64), tuple(dataset.classes)


def _open_torchvision(request: _Request, class_name: str, **which: Any) -> Any:
    from torchvision import datasets

    root = request.root or request.cache_dir / "torchvision"
    try:
        return getattr(datasets, class_name)(root, download=request.download, **which)
    except (RuntimeError, OSError, http.client.HTTPException) as error:
        if request.download:
            raise DataError(f"{request.name}: fetching it into {root} failed: {error}") from error
        raise DataError(
            f"{request.name}: not there, or damaged, in {root}; set data.download = true to fetch it, "
            "or data.root to the folder that holds it"
        ) from error


def _resized(images: npt.NDArray[np.uint8], image_size: int) -> Tensor:
    """Square uint8 images (M, h, h, 3) as (M, 3, H, H), resampled by Pillow's antialiased bilinear filter.

    It is what torchvision's `Resize` does to Pillow images, and with it the usual way to make STL-10 48x48.
    """
    if images.shape[1] == image_size:
        return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    out = np.empty((len(images), 3, image_size, image_size), dtype=np.uint8)
    for i, pixels in enumerate(images):
        image = Image.fromarray(np.ascontiguousarray(pixels))
        resized = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
        out[i] = np.asarray(resized).transpose(2, 0, 1)
    return torch.from_numpy(out)


def _three_channels(grey: Tensor) -> Tensor:
    return grey.expand(-1, 3, -1, -1).contiguous()


def _read_image_folder(request: _Request) -> _Content:
    if request.root is None:
        raise DataError("data.root: an image_folder needs the folder that holds the images; got none")
    return read_folder(
        request.root,
        split=request.split,
        image_size=request.image_size,
        cache_dir=request.cache_dir,
        resize=request.resize,
    )


def _read_synthetic(request: _Request) -> _Content:
    """512 images of 1 to 4 coloured Gaussian blobs (the class) on a colour gradient: for tests, not results."""
    count, most, side = 512, 4, request.image_size
    rng = generator("cpu", 0, "synthetic")
    labels = torch.arange(count) % most
    axis = (torch.arange(side) + 0.5) / side
    edges = torch.rand(2, count, 3, 1, 1, generator=rng) * 0.4
    canvas = edges[0] + (edges[1] - edges[0]) * axis  # (M, 3, 1, H), a gradient from left to right
    canvas = canvas.expand(-1, -1, side, -1)
    centres = 0.15 + 0.7 * torch.rand(most, 2, count, 1, 1, generator=rng)
    colours = 0.5 + 0.5 * torch.rand(most, count, 3, 1, 1, generator=rng)
    for i in range(most):
        distance2 = (axis[:, None] - centres[i, 0]) ** 2 + (axis[None, :] - centres[i, 1]) ** 2
        weight = torch.exp(-distance2 / (2 * 0.08**2)) * (i <= labels).view(-1, 1, 1)
        canvas = torch.lerp(canvas, colours[i].expand_as(canvas), weight[:, None])
    names = ("one blob", "two blobs", "three blobs", "four blobs")
    return (canvas * 255).round().to(torch.uint8).contiguous(), labels, names


_TRAIN_TEST = ("train", "test")

DATASETS: Mapping[str, Source] = MappingProxyType(
    {
        "digits": Source(("train",), _read_digits),
        "cifar10": Source(_TRAIN_TEST, lambda request: _read_cifar(request, "CIFAR10")),
        "cifar100": Source(_TRAIN_TEST, lambda request: _read_cifar(request, "CIFAR100")),
        "stl10": Source(("train", "test", "unlabeled"), _read_stl10),
        "mnist": Source(_TRAIN_TEST, lambda request: _read_mnist(request, "MNIST")),
        "fashion_mnist": Source(_TRAIN_TEST, lambda request: _read_mnist(request, "FashionMNIST")),
        "image_folder": Source(_TRAIN_TEST, _read_image_folder),
        "synthetic": Source(("train",), _read_synthetic),
    }
)
"""The closed table of data sets."""
