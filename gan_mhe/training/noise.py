"""All that a step draws at random, but the data: filled by the host before the step, read by the device within it."""

import torch

from gan_mhe.config.run_config import RunConfig
from gan_mhe.rng import derive_seed


class Noise:
    """Latents and mixing weights of one step, functions of (seed, stream, step), in buffers that stay where they are.

    Drawn ahead because neither a compiler nor a captured graph takes a generator along easily. K discriminator updates:
    discriminator_KBZ and generator_BZ are standard normal latents, mix_KB111 is uniform in [0, 1).
    """

    def __init__(self, config: RunConfig, device: torch.device, dtype: torch.dtype) -> None:
        updates, batch = config.training.n_dis, config.training.batch_size
        self.discriminator_KBZ = torch.empty(updates, batch, config.generator.latent_dim, device=device, dtype=dtype)
        self.generator_BZ = torch.empty(batch, config.generator.latent_dim, device=device, dtype=dtype)
        self.mix_KB111 = torch.empty(updates, batch, 1, 1, 1, device=device, dtype=dtype)
        self._seed = config.seed
        self._generator = torch.Generator(device=device)

    def set_step(self, step: int) -> None:
        """Draw the numbers of `step`."""
        self._restart("latents/discriminator", step)
        for latents_BZ in self.discriminator_KBZ:
            latents_BZ.normal_(generator=self._generator)
        self._restart("latents/generator", step)
        self.generator_BZ.normal_(generator=self._generator)
        self._restart("penalty", step)
        for mix_B111 in self.mix_KB111:
            mix_B111.uniform_(generator=self._generator)

    def _restart(self, stream: str, step: int) -> None:
        self._generator.manual_seed(derive_seed(self._seed, stream, step))
