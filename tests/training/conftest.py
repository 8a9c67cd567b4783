"""Tiny trainers that the training tests share."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gan_mhe.config.compose import compose
from gan_mhe.config.documents import merge
from gan_mhe.config.run_config import RunConfig
from gan_mhe.data.datasets import load
from gan_mhe.training.trainer import Trainer
from tests.support.trained import FULL, Trained, shallow_trainer, train

TINY: Mapping[str, Any] = {
    "data": {"name": "synthetic"},
    "generator": {"width": 1 / 32, "latent_dim": 6},
    "discriminator": {"width": 1 / 32},
    "optimizer": {"generator_lr": 1e-3, "discriminator_lr": 1e-3},
    "training": {"steps": 16, "batch_size": 4, "device": "cpu", "precision": "float32"},
    "evaluation": {"protocol": "none"},
}


# Features that no variant has: draws and inner steps within a step, with intervals and several updates.
OPTIONS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "subset": ("mhe", {"constraints": {"mhe": {"minibatch": {"of": "neurons", "size": 2}}}}),
    "partners": ("half_mhe", {"constraints": {"mhe": {"minibatch": {"of": "partners", "size": 2}}}}),
    "redrawn": ("comhe", {"constraints": {"comhe": {"redraw_every_steps": 2, "interval": 3}}}),
    "adversary": ("comhe_adversarial", {"constraints": {"comhe": {"interval": 2}}, "training": {"n_dis": 2}}),
}


@pytest.fixture(params=OPTIONS)
def option(request: pytest.FixtureRequest) -> tuple[str, Mapping[str, Any]]:
    """A variant, and sections laid over it."""
    return OPTIONS[request.param]


@pytest.fixture(scope="session")
def images() -> Tensor:
    """32 of the synthetic images."""
    found = load("synthetic", root=None, split="train", image_size=32, download=False, cache_dir=Path("unused"))
    return found.images[:32]


@pytest.fixture(scope="session")
def make_config() -> Callable[..., RunConfig]:
    """A tiny run of a variant; keywords are sections laid over it."""

    def make(variant: str = "none", **sections: Any) -> RunConfig:
        return compose(merge(TINY, sections), variant=variant, overrides=sections)

    return make


@pytest.fixture(scope="session")
def make_trainer(make_config: Callable[..., RunConfig], images: Tensor) -> Callable[..., Trainer]:
    """A shallow trainer of `make_config`."""

    def make(variant: str = "none", **sections: Any) -> Trainer:
        return shallow_trainer(make_config(variant, **sections), images)

    return make


@pytest.fixture(scope="session")
def trained(make_trainer: Callable[..., Trainer]) -> Callable[[str], Trained]:
    """The fifty steps of a variant, made once."""
    return cache(lambda variant: train(make_trainer(variant, **FULL)))


@pytest.fixture(scope="session")
def advance() -> Callable[..., Trainer]:
    """Take the steps of a range, and return the trainer."""

    def go(trainer: Trainer, steps: range) -> Trainer:
        for step in steps:
            trainer.set_step(step)
            trainer.step()
        return trainer

    return go


@pytest.fixture(scope="session")
def snapshot() -> Callable[[Trainer], dict[str, Tensor]]:
    """A copy of a trainer's whole state."""

    def copy(trainer: Trainer) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in trainer.state().items()}

    return copy


@pytest.fixture(scope="session")
def assert_same() -> Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], None]:
    """Two states with the same names and the same bits; NaN equals NaN."""

    def check(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
        assert first.keys() == second.keys()
        differing = [n for n in first if not torch.equal(first[n].nan_to_num(7e7), second[n].nan_to_num(7e7))]
        assert not differing

    return check
