"""Files of images grow by whole batches, and equal images give equal bytes."""

import io
import zipfile
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from gan_mhe.errors import ConfigError
from gan_mhe.images import files, grids
from gan_mhe.images.files import Format, GridLayout


class Appended:
    """A file that can only be appended to; keeps its length after each flush."""

    def __init__(self) -> None:
        self.content = b""
        self.lengths = [0]

    def write(self, content: bytes) -> int:
        self.content += content
        return len(content)

    def flush(self) -> None:
        self.lengths.append(len(self.content))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (7, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize("format", ["npz", "zip"])
def test_the_bytes_do_not_depend_on_the_batches_and_are_only_appended(images: torch.Tensor, format: Format) -> None:
    out = Appended()
    files.write(images.split(3), 7, format, out, GridLayout())
    assert out.content == files.encode(images, format)


@pytest.mark.parametrize("format", ["npz", "zip"])
def test_a_batch_is_read_only_when_the_one_before_it_is_written(format: Format) -> None:
    out, seen = Appended(), list[int]()
    images = torch.randint(0, 256, (400, 3, 16, 16), dtype=torch.uint8)

    def batches() -> Iterator[torch.Tensor]:
        for batch in images.split(100):
            seen.append(out.lengths[-1])
            yield batch

    files.write(batches(), 400, format, out, GridLayout())
    assert seen[0] == 0
    assert all(later > earlier for earlier, later in pairwise(seen))


def test_an_npz_holds_what_numpy_would_write(images: torch.Tensor) -> None:
    expected = images.permute(0, 2, 3, 1).numpy()
    reference = io.BytesIO()
    np.savez_compressed(reference, images=expected)
    with zipfile.ZipFile(io.BytesIO(files.encode(images, "npz"))) as archive, zipfile.ZipFile(reference) as theirs:
        assert archive.testzip() is None
        assert archive.namelist() == theirs.namelist()
        assert archive.read("images.npy") == theirs.read("images.npy")


def test_a_zip_is_what_zipfile_writes_at_once_to_a_file_with_positions(images: torch.Tensor) -> None:
    reference = io.BytesIO()
    with zipfile.ZipFile(reference, "w") as archive:
        for index, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
            png = grids.encode_png(Image.fromarray(image))
            archive.writestr(zipfile.ZipInfo(f"{index:06d}.png"), png)
    assert files.encode(images, "zip") == reference.getvalue()


def test_a_webp_is_the_grid_of_the_png_without_loss(images: torch.Tensor) -> None:
    layout = GridLayout(columns=4, scale=2, padding=1)
    webp, png = (files.encode(images, format, layout) for format in ("webp", "png"))
    assert webp[8:12] == b"WEBP"
    assert webp == files.encode(images, "webp", layout)
    with Image.open(io.BytesIO(webp)) as one, Image.open(io.BytesIO(png)) as other:
        assert np.array_equal(np.asarray(one.convert("RGB")), np.asarray(other))
        assert other.size == (4 * 33 + 1, 2 * 33 + 1)


def test_a_grid_that_is_too_long_for_webp_is_refused_with_its_size() -> None:
    with pytest.raises(ConfigError, match=r"webp: expected at most 16383 pixels a side, got 16384 x 1"):
        grids.encode_webp(Image.new("RGB", (16384, 1)))
