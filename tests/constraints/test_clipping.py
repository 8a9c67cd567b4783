"""Weight clipping."""

from collections.abc import Callable

import torch
from torch import nn

from gan_mhe.constraints.clipping import clip_conv_weights


def test_convolution_weights_are_clamped_and_those_within_are_kept(
    make_discriminator: Callable[..., nn.Module],
) -> None:
    network, plain = make_discriminator(), make_discriminator()
    clip_conv_weights(network, bound=0.01)
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            before = plain.get_submodule(name).weight
            assert before.abs().max() > 0.02  # there was something to clip
            assert torch.equal(module.weight, torch.where(before.abs() <= 0.01, before, 0.01 * before.sign()))


def test_the_dense_layer_and_the_biases_are_left_free(make_discriminator: Callable[..., nn.Module]) -> None:
    network = make_discriminator()
    for name, parameter in network.named_parameters():
        if name.endswith("bias") or name == "dense.weight":
            parameter.data.fill_(5.0)
    clip_conv_weights(network, bound=0.01)
    free = [p for name, p in network.named_parameters() if name.endswith("bias") or name == "dense.weight"]
    assert len(free) == 9
    assert all((parameter == 5.0).all() for parameter in free)
