"""Every named variant trains."""

from collections.abc import Callable

import pytest
import torch

from gan_mhe.training.trainer import Trainer
from gan_mhe.variants import VARIANTS


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_trains_fifty_steps(
    make_trainer: Callable[..., Trainer], advance: Callable[..., Trainer], variant: str
) -> None:
    trainer = make_trainer(variant, training={"steps": 50, "batch_size": 8})
    before = {name: value.clone() for name, value in trainer.state().items()}
    advance(trainer, range(50))
    assert trainer.nonfinite.read() is None
    state = trainer.state()
    assert all(torch.isfinite(value).all() for value in state.values())
    weights = [name for name, value in before.items() if name.endswith((".weight", ".original")) and value.dim() > 1]
    assert len(weights) == 5 + 8
    assert [name for name in weights if torch.equal(state[name], before[name])] == []
    assert trainer.meter.read().keys() >= {"d_loss", "g_loss", "d_gradient", "g_gradient"}
