"""Every named variant trains."""

from collections.abc import Callable

import pytest
import torch

from gan_mhe.variants import VARIANTS
from tests.support.trained import SHALLOW, Trained


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_trains_fifty_steps(trained: Callable[[str], Trained], variant: str) -> None:
    run = trained(variant)
    before, after = run.states[0], run.states[50]
    assert run.nonfinite is None
    assert all(torch.isfinite(value).all() for value in after.values())
    weights = [name for name, value in before.items() if name.endswith((".weight", ".original")) and value.dim() > 1]
    weights = [name for name in weights if not name.startswith("ema/")]
    assert len(weights) == 5 + len(SHALLOW) + 1  # of the generator, and the convolutions and output layer
    assert [name for name in weights if torch.equal(after[name], before[name])] == []
    assert run.report.keys() >= {"d_loss", "g_loss", "d_gradient", "g_gradient"}
