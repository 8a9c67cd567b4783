"""Weight clipping, Arjovsky et al. 2017."""

import torch
from torch import nn

from gan_mhe.constraints.select import original_weight, weight_layers


@torch.no_grad()
def clip_conv_weights(discriminator: nn.Module, bound: float) -> None:
    """Clip the weights of all convolutions to [-bound, bound], but not the linear output, as Miyato et al. 2018 do."""
    for _, layer in weight_layers(discriminator):
        if not isinstance(layer, nn.Linear):
            original_weight(layer).clamp_(-bound, bound)
