"""The moving average against its closed form."""

import pytest
import torch
from torch import Tensor, nn

from gan_mhe.training.ema import Ema

ON, OFF = torch.ones(()), torch.zeros(())


def network(value: float) -> nn.Sequential:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).double()
    with torch.no_grad():
        for tensor in (*net.parameters(), net[1].running_mean):
            tensor.fill_(value)
    return net


def values(module: nn.Module) -> Tensor:
    return torch.cat([parameter.flatten() for parameter in module.parameters()])


@pytest.mark.parametrize(("halflife", "steps"), [(5.0, 5), (5.0, 12), (0.5, 3), (1000.0, 10)])
def test_distance_to_a_resting_source_halves_every_halflife(halflife: float, steps: int) -> None:
    source = network(1.0)
    ema = Ema(source, halflife)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.fill_(3.0)
    for _ in range(steps):
        ema.update(source, ON)
    expected = 3.0 - 2.0 * 0.5 ** (steps / halflife)
    torch.testing.assert_close(
        values(ema.network), torch.full((10,), expected, dtype=torch.float64), rtol=1e-12, atol=0
    )


def test_average_of_a_moving_source_is_its_weighted_history() -> None:
    ema, weight = Ema(network(1.0), 3.0), 1 - 0.5 ** (1 / 3)
    history = [2.0, -1.0, 4.0, 0.5]
    expected = (1 - weight) ** 4 * 1.0
    for age, value in enumerate(reversed(history)):
        expected += weight * (1 - weight) ** age * value
    for value in history:
        ema.update(network(value), ON)
    torch.testing.assert_close(
        values(ema.network), torch.full((10,), expected, dtype=torch.float64), rtol=1e-12, atol=0
    )


def test_buffers_are_copied() -> None:
    ema = Ema(network(1.0), 100.0)
    ema.update(network(3.0), ON)
    assert ema.network[1].running_mean.tolist() == [3.0, 3.0]


def test_the_average_does_not_change_while_apply_is_zero() -> None:
    ema = Ema(network(1.0), 2.0)
    before = {name: value.clone() for name, value in ema.network.state_dict().items()}
    corrupt = network(3.0)
    corrupt[1].running_mean.fill_(float("nan"))
    corrupt[1].num_batches_tracked += 1
    ema.update(corrupt, OFF)
    assert all(torch.equal(value, before[name]) for name, value in ema.network.state_dict().items())


def test_the_average_is_a_copy_in_evaluation_mode_without_gradients() -> None:
    source = network(1.0)
    ema = Ema(source, 2.0)
    assert not ema.network.training and source.training
    assert not any(parameter.requires_grad for parameter in ema.network.parameters())
    with torch.no_grad():
        source[0].weight.fill_(9.0)
    assert ema.network[0].weight.eq(1.0).all()
