"""Loads a folder of image files as one uint8 tensor, decoded once and cached by content."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from gan_mhe.data import folder_cache
from gan_mhe.data.content import Content
from gan_mhe.data.decode import Decoded, UnusableError, WrongSizeError, decode
from gan_mhe.data.folder_listing import Listing, list_folder
from gan_mhe.errors import DataError
from gan_mhe.files import canonical_json

_FORMAT = "image-folder-2"  # part of every cache key; another decoding rule needs another number
_CHUNK = 256  # images per thread task: a task per image would cost more than decoding a small JPEG
_SHOWN = 3  # unusable files named in a message

T = TypeVar("T")


def read_folder(root: Path, *, split: str, image_size: int, cache_dir: Path, resize: str) -> Content:
    """Images uint8 (M, 3, H, H), labels and class names of the image files under `root`, in the order of their paths.

    Which files are read is described at `folder_listing.list_folder`, how they are converted in docs/data.md. resize:
    "error" requires image_size x image_size; "crop" takes the central square and resamples it with Pillow's antialiased
    Lanczos filter, up or down.

    The result is cached in `cache_dir`/image_folder under a hash of size, policy, file names and file contents.
    Raises DataError for a folder that is refused, and for missing, broken or wrongly sized images; StorageError if the
    cache cannot be written.
    """
    listing = list_folder(root, split)
    images, conversions = _images(listing, image_size, cache_dir, resize)
    labels = None if listing.labels is None else torch.tensor(listing.labels)
    return Content(images, labels, listing.class_names, listing.split, listing.passed_over, conversions)


def _images(listing: Listing, image_size: int, cache_dir: Path, resize: str) -> tuple[Tensor, Mapping[str, int]]:
    """The decoded images, from the cache if it has them, and the number of conversions by name."""
    key = _content_key(listing.base, listing.paths, image_size, resize)
    path = folder_cache.cache_path(cache_dir, listing.base, key)
    cached = folder_cache.read(path, (len(listing.paths), 3, image_size, image_size))
    if cached is not None:
        return cached
    images, conversions = _decode_all(listing.base, listing.paths, image_size, resize)
    folder_cache.write(path, images, conversions)
    return images, conversions


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


@dataclass(frozen=True)
class _BadFile:
    """A file that cannot be used."""

    path: str
    size: tuple[int, int] | None
    """Its wrong size; None if something else is wrong."""
    reason: str
    """Description of what else is wrong."""


def _decode_all(base: Path, paths: Sequence[str], image_size: int, resize: str) -> tuple[Tensor, Mapping[str, int]]:
    images = np.empty((len(paths), 3, image_size, image_size), dtype=np.uint8)

    def decode_chunk(chunk: range) -> tuple[list[_BadFile], Counter[str]]:
        bad, conversions = [], Counter[str]()
        for i in chunk:
            outcome = _decode(base, paths[i], image_size, resize)
            if isinstance(outcome, _BadFile):
                bad.append(outcome)
            else:
                images[i] = outcome.pixels.transpose(2, 0, 1)
                conversions.update(outcome.conversions)
        return bad, conversions

    # Files of training size decode so fast that threads only compete for the interpreter lock: on two cores, two
    # threads halve the time at 128x128 pixels and add 30 to 45 % at 64x64 and below.
    chunks = _in_threads(decode_chunk, len(paths), most=8 if resize == "crop" else 1)
    bad = [file for files, _ in chunks for file in files]
    if bad:
        raise DataError(_describe(bad, base, image_size))
    return torch.from_numpy(images), dict(sum((conversions for _, conversions in chunks), Counter[str]()))


def _in_threads(work: Callable[[range], T], count: int, *, most: int) -> list[T]:
    """Apply `work` to consecutive ranges of range(count), in at most `most` threads; return the results in order.

    Faster only if the work releases the interpreter lock for long, as Pillow's resampling does.
    """
    chunks = [range(first, min(first + _CHUNK, count)) for first in range(0, count, _CHUNK)]
    with ThreadPoolExecutor(max_workers=min(most, os.cpu_count() or 1)) as pool:
        return list(pool.map(work, chunks))


def _decode(base: Path, path: str, image_size: int, resize: str) -> Decoded | _BadFile:
    try:
        return decode((base / path).read_bytes(), image_size, crop=resize == "crop")
    except WrongSizeError as error:
        return _BadFile(path, error.size, "")
    except UnusableError as error:
        return _BadFile(path, None, str(error))
    except Exception as error:
        # Pillow's decoders raise many types: OSError, SyntaxError, struct.error, ...
        return _BadFile(path, None, f"{type(error).__name__}: {error}")


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
