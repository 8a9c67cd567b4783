"""torch-fidelity's InceptionV3 of 2015, with the same values in half the time.

Differences to the library's forward pass: batch normalization is folded into the convolutions; 1x1 convolutions of the
same input are joined; average pooling comes after the 1x1 convolution that follows it, on fewer channels (both are
linear); the resize is separable; memory is channels last. All of this changes values by float32 rounding only.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 299  # pixels of the network's input

Pool = Literal["average", "maximum", "reduction"]
Step = str | tuple[str, str]
"""The name of a convolution, or of two with the same input whose outputs are concatenated."""


class FoldedConv(nn.Module):
    """Convolutions of one shape and one input, each with its batch normalization in eval mode folded in."""

    weight: Tensor
    bias: Tensor

    def __init__(self, *blocks: Any) -> None:
        """blocks: the library's BasicConv2d blocks, whose outputs are concatenated in this order."""
        super().__init__()
        weights, biases = zip(*(_folded(block) for block in blocks), strict=True)
        weight = torch.cat(weights).float().contiguous(memory_format=torch.channels_last)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", torch.cat(biases).float())
        self.channels = [len(bias) for bias in biases]
        self._stride, self._padding = blocks[0].conv.stride, blocks[0].conv.padding

    def linear(self, x: Tensor) -> Tensor:
        """Convolution and batch normalization."""
        return F.conv2d(x, self.weight, self.bias, self._stride, self._padding)

    def forward(self, x: Tensor) -> Tensor:
        """Convolution, batch normalization and ReLU."""
        return self.linear(x).relu_()


def _folded(block: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias in float64: gamma / sqrt(var + eps) * w, and beta - mean * gamma / sqrt(var + eps)."""
    norm = block.bn
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    return block.conv.weight.double() * scale[:, None, None, None], norm.bias.double() - norm.running_mean * scale


class _Fork(nn.Module):
    """Two convolutions of different shapes and one input."""

    def __init__(self, *blocks: Any) -> None:
        super().__init__()
        self.sides = nn.ModuleList(FoldedConv(block) for block in blocks)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([side(x) for side in self.sides], dim=1)


class MixedBlock(nn.Module):
    """One Inception block: branches that start with 1x1 convolutions of the input, and a pooling branch.

    entry: the 1x1 convolutions. tails: the steps that follow each of them. direct: a convolution of the input without a
    1x1 convolution before it. pool: "average" (3x3, padding not counted) or "maximum" (3x3, stride 1) before the
    convolution `branch_pool`, or "reduction" (3x3 maximum, stride 2) without one.
    """

    def __init__(
        self, block: Any, entry: tuple[str, ...], tails: tuple[tuple[Step, ...], ...], pool: Pool, direct: str = ""
    ) -> None:
        super().__init__()
        pooled = ("branch_pool",) if pool == "average" else ()
        self.entry = FoldedConv(*(getattr(block, name) for name in entry + pooled))
        self.tails = nn.ModuleList(nn.Sequential(*(_step(block, step) for step in tail)) for tail in tails)
        self.direct = nn.ModuleList([FoldedConv(getattr(block, direct))] if direct else [])
        self.after_pool = nn.ModuleList([FoldedConv(block.branch_pool)] if pool == "maximum" else [])
        self._pool = pool

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(self.entry.linear(x), self.entry.channels, dim=1)
        outputs = [convolution(x) for convolution in self.direct]
        outputs += [tail(part.relu()) for tail, part in zip(self.tails, parts, strict=False)]
        if self._pool == "average":
            pooled = F.avg_pool2d(parts[-1], 3, stride=1, padding=1, count_include_pad=False).relu_()
        elif self._pool == "maximum":
            pooled = self.after_pool[0](F.max_pool2d(x, 3, stride=1, padding=1))
        else:
            pooled = F.max_pool2d(x, 3, stride=2)
        return torch.cat([*outputs, pooled], dim=1)


def _step(block: Any, step: Step) -> nn.Module:
    if isinstance(step, str):
        return FoldedConv(getattr(block, step))
    return _Fork(*(getattr(block, name) for name in step))


def _numbered(branch: str, last: int) -> tuple[str, ...]:
    return tuple(f"{branch}_{number}" for number in range(2, last + 1))


def _mixed_blocks(network: Any) -> list[MixedBlock]:
    entry_5 = ("branch1x1", "branch5x5_1", "branch3x3dbl_1")
    tails_5 = ((), ("branch5x5_2",), _numbered("branch3x3dbl", 3))
    entry_6 = ("branch1x1", "branch7x7_1", "branch7x7dbl_1")
    tails_6 = ((), _numbered("branch7x7", 3), _numbered("branch7x7dbl", 5))
    entry_7 = ("branch1x1", "branch3x3_1", "branch3x3dbl_1")
    tails_7: tuple[tuple[Step, ...], ...] = (
        (),
        (("branch3x3_2a", "branch3x3_2b"),),
        ("branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b")),
    )
    reduce_6 = (_numbered("branch3x3dbl", 3),)
    reduce_7 = (_numbered("branch3x3", 2), _numbered("branch7x7x3", 4))
    return [
        *(MixedBlock(getattr(network, f"Mixed_5{letter}"), entry_5, tails_5, "average") for letter in "bcd"),
        MixedBlock(network.Mixed_6a, ("branch3x3dbl_1",), reduce_6, "reduction", direct="branch3x3"),
        *(MixedBlock(getattr(network, f"Mixed_6{letter}"), entry_6, tails_6, "average") for letter in "bcde"),
        MixedBlock(network.Mixed_7a, ("branch3x3_1", "branch7x7x3_1"), reduce_7, "reduction"),
        MixedBlock(network.Mixed_7b, entry_7, tails_7, "average"),
        MixedBlock(network.Mixed_7c, entry_7, tails_7, "maximum"),
    ]


class FoldedInception(nn.Module):
    """The whole network, with copies of the weights of a library instance."""

    head_weight: Tensor

    def __init__(self, network: Any) -> None:
        """network: a FeatureExtractorInceptionV3 in eval mode, float32."""
        super().__init__()
        self.stages = nn.Sequential(
            FoldedConv(network.Conv2d_1a_3x3),
            FoldedConv(network.Conv2d_2a_3x3),
            FoldedConv(network.Conv2d_2b_3x3),
            nn.MaxPool2d(3, stride=2),
            FoldedConv(network.Conv2d_3b_1x1),
            FoldedConv(network.Conv2d_4a_3x3),
            nn.MaxPool2d(3, stride=2),
            *_mixed_blocks(network),
        )
        self.register_buffer("head_weight", network.fc.weight.detach().clone())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, 2048) and logits without bias (B, 1008) of uint8 images (B, 3, H, W) of any size."""
        features_BD = self.stages(resized_like_tensorflow(images)).mean(dim=(2, 3))
        return features_BD, features_BD @ self.head_weight.T


def resized_like_tensorflow(images: Tensor) -> Tensor:
    """(r - 128) / 128 with r the TensorFlow 1 bilinear resize of uint8 images (B, 3, H, W) to 299 x 299; channels last.

    The source position of pixel i is i H / 299, without half-pixel centers or antialiasing. Operations and their order
    are the library's, so the result is equal bit for bit. It is faster because the resize along W works on H rows
    instead of 299, and because differences of neighbors are computed before they are gathered.
    """
    x_BHWC = images.permute(0, 2, 3, 1).to(torch.float32, memory_format=torch.contiguous_format)
    for axis in (2, 1):
        x_BHWC = _stretched(x_BHWC, axis)
    return x_BHWC.sub_(128).div_(128).permute(0, 3, 1, 2)


def _stretched(x: Tensor, axis: int) -> Tensor:
    length = x.shape[axis]
    position = torch.arange(SIDE, dtype=torch.float32, device=x.device) * (length / SIDE)
    below = position.long()
    weight = (position - below).view([SIDE if a == axis else 1 for a in range(x.ndim)])
    last = x.narrow(axis, length - 1, 1)
    step = torch.diff(x, dim=axis, append=last)
    return step.index_select(axis, below).mul_(weight).add_(x.index_select(axis, below))
