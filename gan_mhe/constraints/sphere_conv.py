"""SphereNet: a discriminator whose convolutions answer with angles alone."""

from torch import nn

from gan_mhe.networks.sphere_conv import Operator, SphereConv2d


def sphere_conv(discriminator: nn.Module, *, operator: Operator, k: float, rescale: bool) -> None:
    """Put a `SphereConv2d` with the same parameters in the place of every convolution, Liu et al. 2017.

    k: of `sigmoid`, and where `learnable` starts; the others ignore it. rescale: SphereNorm, beside `cosine` alone.
    The linear output stays as it is. In a residual network the 1x1 shortcuts compare filters with averages of pixels:
    the order of averaging and shortcut, which is free for an ordinary convolution, counts here.

    Raises ValueError for options out of range, see `SphereConv2d`.
    """
    convolutions = [(name, module) for name, module in discriminator.named_modules() if isinstance(module, nn.Conv2d)]
    for name, conv in convolutions:
        discriminator.set_submodule(name, SphereConv2d(conv, operator=operator, k=k, rescale=rescale))
