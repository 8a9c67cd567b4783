"""Fixed latents are a function of their arguments, and keep their first rows when more are drawn."""

import pytest
import torch

from gan_mhe.images.latents import fixed_latents, latent_blocks


def test_latents_are_a_function_of_their_arguments() -> None:
    assert torch.equal(fixed_latents(5, 16, 3), fixed_latents(5, 16, 3))
    assert not torch.equal(fixed_latents(5, 16, 3), fixed_latents(5, 16, 4))


@pytest.mark.parametrize("latent_dim", [16, 64, 128])
def test_more_latents_of_a_size_that_is_a_multiple_of_16_begin_with_the_same(latent_dim: int) -> None:
    assert torch.equal(fixed_latents(9, latent_dim, 0)[:5], fixed_latents(5, latent_dim, 0))


@pytest.mark.parametrize("latent_dim", [6, 24, 100])
def test_with_other_sizes_only_the_last_16_numbers_depend_on_how_many_are_drawn(latent_dim: int) -> None:
    few, many = fixed_latents(5, latent_dim, 0).flatten(), fixed_latents(9, latent_dim, 0).flatten()
    assert torch.equal(few[:-16], many[: len(few) - 16])
    assert not torch.equal(few, many[: len(few)])


@pytest.mark.parametrize(("n", "latent_dim"), [(64, 16), (70, 128), (200, 24), (128, 100)])
def test_blocks_hold_the_latents_that_are_drawn_at_once(n: int, latent_dim: int) -> None:
    blocks = latent_blocks(latent_dim, 3)
    found = torch.cat([next(blocks) for _ in range(4)])[:n]
    assert torch.equal(found, fixed_latents(n, latent_dim, 3))
