"""Randomness is a function of (seed, stream, step) and of nothing else."""

import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gan_mhe.rng import Streams, derive_seed, generator

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


def test_a_generator_draws_what_its_triple_says() -> None:
    expected = draw(torch.Generator().manual_seed(derive_seed(3, "init", 5)))
    assert draw(generator("cpu", 3, "init", 5)) == expected
    assert draw(generator(CPU, 3, "init", 5)) == expected


def test_the_first_step_is_zero() -> None:
    assert draw(generator(CPU, 3, "init")) == draw(generator(CPU, 3, "init", 0))


def test_streams_draw_what_single_generators_draw() -> None:
    streams = Streams(CPU, 3, ("a", "b"))
    streams.seek(7)
    assert {name: draw(streams[name]) for name in "ab"} == {name: draw(generator(CPU, 3, name, 7)) for name in "ab"}


def test_streams_do_not_depend_on_the_order_or_number_of_draws() -> None:
    first, second = Streams(CPU, 0, ("a", "b")), Streams(CPU, 0, ("b", "a", "c"))
    first.seek(2)
    second.seek(2)
    a_then_b = {"a": draw(first["a"]), "b": draw(first["b"])}
    draw(second["c"])
    b_then_a = {"b": draw(second["b"]), "a": draw(second["a"])}
    assert a_then_b == b_then_a


def test_seeking_a_step_gives_its_numbers_whatever_came_before() -> None:
    jumping, walking = Streams(CPU, 0, ("a",)), Streams(CPU, 0, ("a",))
    jumping.seek(3)
    for step in range(4):
        walking.seek(step)
        walked = [draw(walking["a"]) for _ in range(2)]
    assert [draw(jumping["a"]) for _ in range(2)] == walked
    jumping.seek(3)
    assert [draw(jumping["a"]) for _ in range(2)] == walked


def test_each_step_has_other_numbers() -> None:
    streams = Streams(CPU, 0, ("a",))
    drawn = set()
    for step in range(5):
        streams.seek(step)
        drawn.add(tuple(draw(streams["a"])))
    assert len(drawn) == 5


def test_seeking_keeps_the_generator_object_that_a_captured_graph_holds() -> None:
    streams = Streams(CPU, 0, ("a",))
    before = streams["a"]
    streams.seek(1)
    assert streams["a"] is before


def test_an_unknown_stream_is_an_error() -> None:
    with pytest.raises(KeyError):
        Streams(CPU, 0, ("a",))["b"]


def test_the_global_generator_is_untouched() -> None:
    before = torch.get_rng_state()
    streams = Streams(CPU, 0, ("a",))
    streams.seek(1)
    draw(streams["a"])
    draw(generator(CPU, 0, "a"))
    assert torch.equal(torch.get_rng_state(), before)
