"""Loads a folder of image files as one uint8 tensor, decoded once and cached by content."""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gan_mhe.config.names import DATASETS
from gan_mhe.errors import DataError
from gan_mhe.files import atomic_write, canonical_json

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")

_SPLITS = DATASETS["image_folder"].splits
_FORMAT = "image-folder-1"  # part of every cache key; another decoding rule needs another number
_CHUNK = 256  # images per thread task: a task per image would cost more than decoding a small JPEG
_SHOWN = 3  # unusable files named in a message

Bytes = npt.NDArray[np.uint8]
T = TypeVar("T")


def read_folder(
    root: Path, *, split: str, image_size: int, cache_dir: Path, resize: str
) -> tuple[Tensor, Tensor | None, tuple[str, ...]]:
    """Images uint8 (M, 3, H, H), labels int64 (M,) or None, and class names of the image files under `root`.

    If `root` has a sub-directory `train` or `test`, the one named `split` is read; otherwise all of `root` is the
    split "train". An image's class is the first sub-directory of its path, and classes are numbered in sorted order; a
    flat folder has no labels. Images are ordered by their relative paths; names that start with a dot are skipped.

    Files are converted with Pillow's `convert("RGB")`: an alpha channel is dropped, not composited, and EXIF rotation
    is not applied. resize: "error" requires image_size x image_size; "crop" takes the central square and resamples it
    with Pillow's antialiased Lanczos filter, up or down.

    The result is cached in `cache_dir`/image_folder under a hash of size, policy, file names and file contents.
    Raises DataError for missing, broken, 16-bit or wrongly sized images, StorageError if the cache cannot be written.
    """
    base = _split_directory(root, split)
    paths = _list_images(base)
    labels, class_names = _classes(base, paths)
    key = _content_key(base, paths, image_size, resize)
    cache = cache_dir / "image_folder" / f"{key}.safetensors"
    shape = (len(paths), 3, image_size, image_size)
    images = _read_cache(cache, shape)
    if images is None:
        images = torch.from_numpy(_decode_all(base, paths, image_size, resize))
        metadata = {"sha256": _sha256(images)}
        atomic_write(cache, safetensors.torch.save({"images": images}, metadata))
    return images, labels, class_names


def _split_directory(root: Path, split: str) -> Path:
    if not root.is_dir():
        raise DataError(f"data.root: expected a folder of images; {root} is not a folder")
    if (root / split).is_dir():
        return root / split
    present = [name for name in _SPLITS if (root / name).is_dir()]
    if present or split != "train":
        raise DataError(
            f"data.split is {split!r} but {root} has no {split}/ sub-directory; "
            f"it has {' and '.join(f'{name}/' for name in present) or 'no splits, so all of it is train'}"
        )
    return root


def _list_images(base: Path) -> list[str]:
    """Sorted relative paths of the image files, with forward slashes. Links to directories are followed."""
    found = []
    for directory, subdirectories, files in os.walk(base, onerror=_refuse, followlinks=True):
        subdirectories[:] = [name for name in subdirectories if not name.startswith(".")]
        relative = Path(directory).relative_to(base)
        found += [
            (relative / name).as_posix()
            for name in files
            if name.lower().endswith(EXTENSIONS) and not name.startswith(".")
        ]
    if not found:
        raise DataError(f"data.root: no images ({' '.join(EXTENSIONS)}) in {base}")
    return sorted(found)


def _refuse(error: OSError) -> None:
    # By default os.walk skips a directory that it may not read, and a class would silently be missing.
    raise DataError(f"data.root: cannot list {error.filename}: {error.strerror}") from error


def _classes(base: Path, paths: Sequence[str]) -> tuple[Tensor | None, tuple[str, ...]]:
    owners = [path.partition("/")[0] if "/" in path else "" for path in paths]
    names = sorted(set(owners))
    if names == [""]:
        return None, ()
    if "" in names:
        raise DataError(
            f"data.root: {base} has class sub-directories and images outside them (first: {paths[owners.index('')]}); "
            "expected all images in one flat folder or all in sub-directories"
        )
    number = {name: label for label, name in enumerate(names)}
    return torch.tensor([number[owner] for owner in owners]), tuple(names)


def _content_key(base: Path, paths: Sequence[str], image_size: int, resize: str) -> str:
    """SHA-256 of the policy, the size, and every file's relative path and content, each preceded by its length."""
    digest = hashlib.sha256(canonical_json([_FORMAT, image_size, resize]))
    for path in paths:
        try:
            with open(base / path, "rb") as file:
                content = file.read()
        except OSError as error:
            raise DataError(f"data.root: cannot read {path} in {base}: {error.strerror}") from error
        name = os.fsencode(path)
        digest.update(len(name).to_bytes(8, "little") + name + len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()


def _sha256(images: Tensor) -> str:
    return hashlib.sha256(images.numpy().data).hexdigest()


def _read_cache(path: Path, shape: tuple[int, ...]) -> Tensor | None:
    """The cached images; None if there are none or they are damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            images: Tensor = file.get_tensor("images")
            expected = (file.metadata() or {}).get("sha256")
    except (OSError, SafetensorError):
        return None
    if images.dtype != torch.uint8 or images.shape != shape or _sha256(images) != expected:
        return None
    return images


@dataclass(frozen=True)
class _BadFile:
    """A file that cannot be used."""

    path: str
    size: tuple[int, int] | None
    """Its wrong size; None if something else is wrong."""
    reason: str
    """What else is wrong."""


def _decode_all(base: Path, paths: Sequence[str], image_size: int, resize: str) -> Bytes:
    images = np.empty((len(paths), 3, image_size, image_size), dtype=np.uint8)

    def decode_chunk(chunk: range) -> list[_BadFile]:
        bad = []
        for i in chunk:
            outcome = _decode(base, paths[i], image_size, resize)
            if isinstance(outcome, _BadFile):
                bad.append(outcome)
            else:
                images[i] = outcome.transpose(2, 0, 1)
        return bad

    # Files of training size decode so fast that threads only compete for the interpreter lock: on two cores, two
    # threads halve the time at 128x128 pixels and add 30 to 45 % at 64x64 and below.
    chunks = _in_threads(decode_chunk, len(paths), most=8 if resize == "crop" else 1)
    bad = [file for chunk in chunks for file in chunk]
    if bad:
        raise DataError(_describe(bad, base, image_size))
    return images


def _in_threads(work: Callable[[range], T], count: int, *, most: int) -> list[T]:
    """Apply `work` to consecutive ranges of range(count), in at most `most` threads; return the results in order.

    Faster only if the work releases the interpreter lock for long, as Pillow's resampling does.
    """
    chunks = [range(first, min(first + _CHUNK, count)) for first in range(0, count, _CHUNK)]
    with ThreadPoolExecutor(max_workers=min(most, os.cpu_count() or 1)) as pool:
        return list(pool.map(work, chunks))


def _decode(base: Path, path: str, image_size: int, resize: str) -> Bytes | _BadFile:
    try:
        with Image.open(base / path) as file:
            if resize == "error" and file.size != (image_size, image_size):
                return _BadFile(path, file.size, "")
            if file.mode.startswith(("I", "F")):
                # convert("RGB") clips at 255 instead of scaling, so that almost every image would be white.
                return _BadFile(path, None, f"more than 8 bits per channel (mode {file.mode})")
            return np.asarray(center_square(_to_rgb(file), image_size))
    except Exception as error:
        # Pillow's decoders raise many types: OSError, SyntaxError, struct.error, ...
        return _BadFile(path, None, f"{type(error).__name__}: {error}")


def _to_rgb(image: Image.Image) -> Image.Image:
    # Pillow warns unless a palette with transparency is converted to RGBA first; the colors are the same.
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def center_square(image: Image.Image, image_size: int) -> Image.Image:
    """The central square of an image, resampled to the given side with Pillow's antialiased Lanczos filter."""
    if image.size == (image_size, image_size):
        return image
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return square.resize((image_size, image_size), Image.Resampling.LANCZOS)


def _describe(bad: Sequence[_BadFile], base: Path, image_size: int) -> str:
    broken = [file for file in bad if file.size is None]
    if broken:
        first = "; ".join(f"{file.path} ({file.reason})" for file in broken[:_SHOWN])
        more = f"; and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
        return f"data.root: {len(broken)} image file(s) in {base} cannot be used: {first}{more}"
    width, height = bad[0].size or (0, 0)
    sizes = {file.size for file in bad}
    return (
        f"data.root: {bad[0].path} in {base} is {width}x{height}, "
        f"expected {image_size}x{image_size}; {len(bad) - 1} other image(s) have a wrong size too "
        f"({len(sizes)} different size(s) in all); "
        'set data.resize = "crop" to center-crop and resize them'
    )
