"""The random numbers of a step other than the data order: filled by the host before the step, read within it."""

import torch

from gan_mhe.config.run_config import RunConfig
from gan_mhe.rng import derive_seed


class Noise:
    """Latents and mixing weights of one step, functions of (seed, stream, step), in buffers with fixed addresses.

    They are drawn before the step because compilers and captured graphs handle generators poorly. With K discriminator
    updates, discriminator_KBZ and generator_BZ are standard normal latents, and mix_KB111 is uniform in [0, 1).
    """

    def __init__(self, config: RunConfig, device: torch.device, dtype: torch.dtype) -> None:
        updates, batch = config.training.n_dis, config.training.batch_size
        self.discriminator_KBZ = torch.empty(updates, batch, config.generator.latent_dim, device=device, dtype=dtype)
        self.generator_BZ = torch.empty(batch, config.generator.latent_dim, device=device, dtype=dtype)
        self.mix_KB111 = torch.empty(updates, batch, 1, 1, 1, device=device, dtype=dtype)
        self._seed = config.seed
        self._generator = torch.Generator(device=device)

    def set_step(self, step: int) -> None:
        """Draw the random numbers of `step`."""
        self._seed_stream("latents/discriminator", step)
        for latents_BZ in self.discriminator_KBZ:
            latents_BZ.normal_(generator=self._generator)
        self._seed_stream("latents/generator", step)
        self.generator_BZ.normal_(generator=self._generator)
        self._seed_stream("penalty", step)
        for mix_B111 in self.mix_KB111:
            mix_B111.uniform_(generator=self._generator)

    def _seed_stream(self, stream: str, step: int) -> None:
        self._generator.manual_seed(derive_seed(self._seed, stream, step))
