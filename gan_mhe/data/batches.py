"""Batches of real images in a seeded order.

A whole data set fits on the training device as bytes (50,000 images of 32x32 are 154 MB), so a batch is one gather
operation: no worker processes, no copy from the host and no synchronization.
"""

import torch
from torch import Tensor

from gan_mhe.data.pixels import to_unit_range
from gan_mhe.errors import DataError
from gan_mhe.rng import derive_seed


class BatchOrder:
    """Endless batches of real images. The images of a batch are a function of (seed, step, index).

    Sample b of batch `index` of step `step` has the position
        p = (step * batches_per_step + index) * batch_size + b,
    and is image `order_e[p mod M]` of the M images, where e = p // M is the epoch and order_e a random permutation
    drawn from (seed, "epoch", e). So each epoch visits every image once, a batch may span two epochs, and a run that
    resumes at a step sees the same batches as one that reached it. With `flip`, each sample is flipped horizontally
    with probability 1/2, drawn from (seed, "flip", step). Permutations are drawn on the CPU and are the same for every
    device; flips are drawn on the images' device.

    `set_step` runs on the host before a step, `draw` on the device during it. `draw` reads no value back and always
    reads the same buffers, so a captured CUDA graph replays each step's own batch. Both must be queued on one stream;
    otherwise `set_step` overwrites buffers that a running step still reads.
    """

    def __init__(self, images: Tensor, *, batch_size: int, batches_per_step: int, flip: bool, seed: int) -> None:
        """Start at step 0. images: uint8 (M, C, H, W) on the training device.

        Raises DataError if there are no images, or their type or shape differs.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or len(images) == 0:
            raise DataError(
                "images: expected at least one as a uint8 tensor (M, C, H, W), "
                f"got {images.dtype} of shape {tuple(images.shape)}"
            )
        self._images = images
        self._seed = seed
        self._span = batch_size * batches_per_step
        # A step that starts at the last sample of an epoch spans the most epochs.
        self._num_epochs = (self._span + len(images) - 2) // len(images) + 1
        self._first_epoch: int | None = None
        device = images.device
        self._order = torch.empty(self._num_epochs * len(images), dtype=torch.int64, device=device)
        self._start = torch.zeros((), dtype=torch.int64, device=device)
        self._offsets_KB = torch.arange(self._span, device=device).view(batches_per_step, batch_size)
        self._flipped_KB = torch.zeros_like(self._offsets_KB, dtype=torch.bool) if flip else None
        self._flip_generator = torch.Generator(device=device)
        self.set_step(0)

    def set_step(self, step: int) -> None:
        """Prepare the draws of `step` (>= 0). Does not wait for the device, except for one upload per epoch."""
        epoch, start = divmod(step * self._span, len(self._images))
        if epoch != self._first_epoch:
            window = range(epoch, epoch + self._num_epochs)
            self._order.copy_(torch.cat([self._permutation(e) for e in window]))
            self._first_epoch = epoch
        self._start.fill_(start)
        if self._flipped_KB is not None:
            # Drawn here for the whole step, not in `draw`: a captured graph then contains no generator, and the
            # result does not depend on the order in which batches are drawn.
            self._flip_generator.manual_seed(derive_seed(self._seed, "flip", step))
            self._flipped_KB.bernoulli_(0.5, generator=self._flip_generator)

    def _permutation(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "epoch", epoch))
        return torch.randperm(len(self._images), generator=generator)

    def draw(self, index: int) -> Tensor:
        """Batch `index` (0..batches_per_step - 1) of the current step: float32 (B, C, H, W) in [-1, 1]."""
        position_B = self._offsets_KB[index] + self._start
        batch = self._images.index_select(0, self._order.index_select(0, position_B))
        if self._flipped_KB is not None:
            batch = torch.where(self._flipped_KB[index].view(-1, 1, 1, 1), batch.flip(3), batch)
        return to_unit_range(batch)
