"""Grids, walks between latents, and fixed latents."""

import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gan_mhe.errors import ConfigError
from gan_mhe.images.grids import encode_png, grid
from gan_mhe.images.latents import fixed_latents, interpolate


def numbered(n: int, side: int = 8) -> torch.Tensor:
    """Image i has red 10 + i everywhere, green rising along rows, blue along columns."""
    images = torch.zeros(n, 3, side, side, dtype=torch.uint8)
    images[:, 0] = 10 + torch.arange(n, dtype=torch.uint8)[:, None, None]
    images[:, 1] = torch.arange(side, dtype=torch.uint8)[None, :, None]
    images[:, 2] = torch.arange(side, dtype=torch.uint8)[None, None, :]
    return images


@settings(deadline=None, derandomize=True, max_examples=25)
@given(n=st.integers(1, 12), columns=st.integers(1, 5), padding=st.integers(0, 3), scale=st.integers(1, 3))
def test_every_pixel_of_a_grid_is_its_image_s_pixel_or_black(n: int, columns: int, padding: int, scale: int) -> None:
    side = 4
    images = numbered(n, side)
    pixels = np.asarray(grid(images, columns, padding, scale))
    cell = side * scale + padding
    assert pixels.shape == (math.ceil(n / columns) * cell + padding, columns * cell + padding, 3)
    expected = np.zeros_like(pixels)
    for i in range(n):
        for y in range(side * scale):
            for x in range(side * scale):
                row, column = i // columns * cell + padding + y, i % columns * cell + padding + x
                expected[row, column] = images[i, :, y // scale, x // scale].numpy()
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize(("side", "shown"), [(8, 64), (32, 64), (48, 96), (64, 64), (96, 96)])
def test_small_images_are_enlarged_until_a_person_can_read_them(side: int, shown: int) -> None:
    assert grid(numbered(1, side), columns=1, padding=0).size == (shown, shown)


def test_a_grid_refuses_float_images() -> None:
    with pytest.raises(ConfigError, match="uint8 images"):
        grid(torch.zeros(1, 3, 8, 8), columns=1)


@pytest.mark.parametrize(
    ("n", "columns", "padding", "scale"), [(0, 1, 0, 1), (1, 0, 0, 1), (1, 1, -1, 1), (1, 1, 0, 0)]
)
def test_a_grid_refuses_impossible_layouts(n: int, columns: int, padding: int, scale: int) -> None:
    with pytest.raises(ConfigError, match="sample grid"):
        grid(numbered(n), columns, padding, scale)


def test_png_bytes_are_deterministic_and_lossless() -> None:
    image = grid(numbered(5), columns=3)
    content = encode_png(image)
    assert content == encode_png(image.copy())
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), np.asarray(image))


def test_spherical_interpolation_walks_the_great_circle_at_constant_speed() -> None:
    z0, z1 = torch.tensor([3.0, 0.0, 0.0], dtype=torch.float64), torch.tensor([0.0, 3.0, 0.0], dtype=torch.float64)
    walk = interpolate(z0, z1, steps=7)
    angles = torch.linspace(0, math.pi / 2, 7, dtype=torch.float64)
    expected = 3 * torch.stack([angles.cos(), angles.sin(), torch.zeros(7, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(walk, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", ["spherical", "linear"])
def test_interpolation_includes_both_ends(mode: str) -> None:
    z0, z1 = fixed_latents(2, 128, seed=1)
    walk = interpolate(z0, z1, steps=5, mode=mode)
    assert walk.shape == (5, 128)
    assert walk.dtype == torch.float32
    torch.testing.assert_close(walk[0], z0, rtol=0, atol=1e-6)
    torch.testing.assert_close(walk[-1], z1, rtol=0, atol=1e-6)


def test_linear_interpolation_is_equally_spaced_on_the_chord() -> None:
    z0, z1 = fixed_latents(2, 16, seed=2)
    walk = interpolate(z0, z1, steps=4, mode="linear")
    torch.testing.assert_close(walk[1], z0 * (2 / 3) + z1 / 3, rtol=0, atol=1e-6)


def test_spherical_interpolation_keeps_the_length_of_samples_where_linear_does_not() -> None:
    z0, z1 = fixed_latents(2, 512, seed=3)
    typical = math.sqrt(512)
    assert interpolate(z0, z1, 3)[1].norm().item() == pytest.approx(typical, rel=0.05)
    assert interpolate(z0, z1, 3, mode="linear")[1].norm().item() == pytest.approx(typical / math.sqrt(2), rel=0.06)


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0, 0.0])
def test_interpolation_between_collinear_latents_is_linear(factor: float) -> None:
    z0 = fixed_latents(1, 16, seed=4)[0]
    walk = interpolate(z0, factor * z0, steps=3)
    torch.testing.assert_close(walk[1], z0 * (1 + factor) / 2, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("steps", "mode"), [(1, "linear"), (4, "cubic")])
def test_interpolation_refuses_other_modes_and_single_steps(steps: int, mode: str) -> None:
    with pytest.raises(ConfigError, match=f"steps {steps} and mode '{mode}'"):
        interpolate(torch.ones(3), torch.ones(3), steps, mode)


def test_fixed_latents_depend_on_the_seed_alone() -> None:
    before = torch.random.get_rng_state()
    first = fixed_latents(4, 8, seed=7)
    torch.testing.assert_close(fixed_latents(4, 8, seed=7), first, rtol=0, atol=0)
    assert not torch.equal(fixed_latents(4, 8, seed=8), first)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_fixed_latents_are_standard_normal() -> None:
    latents = fixed_latents(1000, 100, seed=0)
    assert latents.mean().item() == pytest.approx(0.0, abs=0.02)  # 6 standard errors
    assert latents.std().item() == pytest.approx(1.0, abs=0.02)
