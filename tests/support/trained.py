"""A run of a variant, trained once for all tests that look at it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from gan_mhe.config.run_config import RunConfig
from gan_mhe.networks import discriminators
from gan_mhe.networks.discriminators import ConvRow
from gan_mhe.training.engine import Engine
from gan_mhe.training.trainer import Trainer
from gan_mhe.variants import VARIANTS

State = dict[str, Tensor]

FULL: Mapping[str, Any] = {
    "data": {"name": "synthetic", "flip": True},
    "generator": {"ema_halflife_steps": 5.0},
    "optimizer": {"schedule": {"kind": "linear_decay", "warmup_steps": 3}},
    "training": {"n_dis": 2, "steps": 50},
}
"""Sections with everything in them that changes from step to step."""

SHALLOW = (ConvRow("c0_0", 64, 3, 1), ConvRow("c0_1", 64, 4, 2), ConvRow("c1_0", 128, 4, 2), ConvRow("c1_1", 128, 4, 2))
"""Four of the seven convolutions of `cnn_miyato`, at half the time of a step: both kernels, a change of channels, and
two layers with equal fan-in. The golden traces are made with all seven."""

SEEN = (0, 3, 6, 20, 50)

REPRESENTATIVES = (
    *("weight_clipping", "wgan_gp", "batch_norm", "layer_norm", "weight_norm", "mhe_sn_official"),
    *("half_angular_mhe", "comhe_angle", "comhe_group", "mhp", "mgd", "sphere_conv_learnable"),
)
"""A variant for each kind of code in a step. The others differ in coefficients, combine the same parts, or replace one
function of the weights by another; what only CoMHE's draws and inner steps do is tested beside the variants."""

each_kind = pytest.mark.parametrize(
    "variant",
    [
        *REPRESENTATIVES,
        *(pytest.param(name, marks=pytest.mark.soak) for name in VARIANTS if name not in REPRESENTATIVES),
    ],
)
"""For tests that take seconds with each variant: the representatives, and in the soak all of them."""


def shallow_trainer(config: RunConfig, images: Tensor, engine: Engine | None = None) -> Trainer:
    """A trainer on the CPU whose `cnn_miyato` has the convolutions of SHALLOW."""
    with mock.patch.object(discriminators, "MIYATO_TABLE", SHALLOW):
        return Trainer(config, images, torch.device("cpu"), engine=engine)


@dataclass(frozen=True)
class Trained:
    """What 50 steps of a tiny trainer with FULL left: its state after each number of steps in SEEN, and its report."""

    states: Mapping[int, State]
    report: Mapping[str, float]
    nonfinite: tuple[int, list[str]] | None


def train(trainer: Trainer) -> Trained:
    """Make the steps, and copy the state on the way."""
    states = {}
    for step in range(SEEN[-1] + 1):
        if step in SEEN:
            states[step] = {name: value.clone() for name, value in trainer.state().items()}
        if step < SEEN[-1]:
            trainer.set_step(step)
            trainer.step()
    return Trained(states, trainer.meter.read(), trainer.nonfinite.read())
