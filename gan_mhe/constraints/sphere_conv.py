"""SphereNet: a discriminator whose convolutions respond to angles."""

from torch import nn

from gan_mhe.networks.sphere_conv import Operator, SphereConv2d


def sphere_conv(discriminator: nn.Module, *, operator: Operator, k: float, rescale: bool) -> None:
    """Replace every convolution by a `SphereConv2d` with the same parameters, Liu et al. 2017.

    k: slope of the `sigmoid` operator and initial value of the `learnable` one; other operators ignore it.
    rescale: SphereNorm; requires the `cosine` operator.

    The linear output layer is unchanged. In a residual network, the 1x1 shortcuts compare filters with averages of
    pixels; unlike for ordinary convolutions, the order of averaging and shortcut matters.

    Raises ValueError for options out of range, see `SphereConv2d`.
    """
    convolutions = [(name, module) for name, module in discriminator.named_modules() if isinstance(module, nn.Conv2d)]
    for name, conv in convolutions:
        discriminator.set_submodule(name, SphereConv2d(conv, operator=operator, k=k, rescale=rescale))
