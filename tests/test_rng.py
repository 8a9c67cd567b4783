"""Randomness is a function of (seed, stream, step) and of nothing else."""

import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gan_mhe.rng import derive_seed, generator

CPU = torch.device("cpu")


def draw(source: torch.Generator) -> list[float]:
    return torch.randn(4, generator=source, dtype=torch.float64).tolist()


@pytest.mark.parametrize(
    ("seed", "stream", "step", "expected"),
    [
        (0, "latents", 0, 5006387122053234206),
        (0, "latents", 1, 3176931805883220300),
        (1, "latents", 0, 7544146240647967962),
        (0, "data", 0, 2740297886984710817),
        (2**53 - 1, "data", 10**9, 1410766717437518893),
    ],
)
def test_derived_seeds_never_change(seed: int, stream: str, step: int, expected: int) -> None:
    """Another value would make old checkpoints resume into other runs."""
    assert derive_seed(seed, stream, step) == expected


def test_a_derived_seed_is_63_bits_of_sha256_of_the_triple() -> None:
    digest = hashlib.sha256(b"7/init/3").hexdigest()
    assert derive_seed(7, "init", 3) == int(digest[:16], 16) // 2


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 2**53), st.text("abc_"), st.integers(0, 2**31)), unique=True, max_size=20))
def test_different_triples_have_different_seeds_that_a_generator_takes(triples: list[tuple[int, str, int]]) -> None:
    seeds = [derive_seed(*triple) for triple in triples]
    assert len(set(seeds)) == len(triples)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_generator_is_seeded_with_the_derived_seed() -> None:
    expected = draw(torch.Generator().manual_seed(derive_seed(3, "init", 5)))
    assert draw(generator("cpu", 3, "init", 5)) == expected
    assert draw(generator(CPU, 3, "init", 5)) == expected


def test_the_first_step_is_zero() -> None:
    assert draw(generator(CPU, 3, "init")) == draw(generator(CPU, 3, "init", 0))


def test_the_global_generator_is_untouched() -> None:
    before = torch.get_rng_state()
    draw(generator(CPU, 0, "a"))
    assert torch.equal(torch.get_rng_state(), before)
