"""Training of the small classifier whose features the protocols `digits-v1` and `classifier:<name>` use."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gan_mhe import rng
from gan_mhe.data.datasets import ImageSet
from gan_mhe.errors import DataError
from gan_mhe.evaluation.classifier_net import ClassifierNet, encode_classifier
from gan_mhe.files import atomic_write, canonical_json, sha256_bytes

BATCH_SIZE = 128
PEAK_LEARNING_RATE = 0.1
WARMUP_FRACTION = 0.2
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
HELD_OUT_FRACTION = 0.2
SHIFT_FRACTION = 0.125  # of the image side: four pixels of 32
LARGEST_NOISE = 48.0  # standard deviation in gray levels of 0..255

_MIN_IMAGE_SIZE = 8

Progress = Callable[[int, float], None]
"""Called after each epoch with the number of finished epochs and the mean training loss of the last one."""


def train_classifier(
    images: ImageSet,
    *,
    width: float,
    epochs: int,
    seed: int,
    device: torch.device,
    progress: Progress | None = None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Train a ClassifierNet on 80 % of each class and test it on the rest; return its state (CPU) and its metadata.

    Cross-entropy without label smoothing (the Inception score rewards confidence); SGD with Nesterov momentum; linear
    warm-up and decay of the learning rate; random shifts and noise as augmentation, but no mirroring, because a
    mirrored digit is another digit. Without noise in training the classifier reacts to texture instead of shapes: with
    noise of 40 gray levels it classified more than half of the real digits as 3. The result is a function of the
    arguments, bit for bit on one CPU with one number of threads.

    The metadata are JSON values: class_names, image_size, width; held_out_accuracy in 0..1 and held_out_images;
    training_set and training_set_sha256 (name and content of `images`); recipe (all hyperparameters) and recipe_sha256.

    Raises DataError for images without labels, of one class or smaller than 8 pixels, and for a class of fewer than two
    images.
    """
    labels = _checked_labels(images)
    train_indices, held_out_indices = _stratified_split(labels, seed)
    net = _initial_net(len(images.class_names), images.images.shape[-1], width, seed).to(device)
    pixels, targets = images.images.to(device), labels.to(device)
    _fit(net, pixels, targets, train_indices.to(device), epochs=epochs, seed=seed, progress=progress)
    accuracy = _accuracy(net, pixels, targets, held_out_indices.to(device))
    hyperparameters = _hyperparameters(width=width, epochs=epochs, seed=seed)
    metadata = {
        "class_names": list(images.class_names),
        "image_size": images.images.shape[-1],
        "width": width,
        "held_out_accuracy": round(accuracy, 6),
        "held_out_images": len(held_out_indices),
        "training_set": images.name,
        "training_set_sha256": images.content_sha256,
        "recipe": hyperparameters,
        "recipe_sha256": sha256_bytes(canonical_json(hyperparameters)),
    }
    return {name: tensor.cpu() for name, tensor in net.state_dict().items()}, metadata


def save_classifier(
    path: Path,
    tensors: dict[str, Tensor],
    metadata: dict[str, Any],
    write: Callable[[Path, bytes], None] = atomic_write,
) -> str:
    """Write a trained classifier to a weights file; return the SHA-256 of the file. write: writes it atomically."""
    content = encode_classifier(tensors, metadata)
    write(path, content)
    return sha256_bytes(content)


def _hyperparameters(**chosen: float) -> dict[str, float]:
    return {
        **chosen,
        "batch_size": BATCH_SIZE,
        "peak_learning_rate": PEAK_LEARNING_RATE,
        "warmup_fraction": WARMUP_FRACTION,
        "nesterov_momentum": MOMENTUM,
        "weight_decay": WEIGHT_DECAY,
        "held_out_fraction": HELD_OUT_FRACTION,
        "shift_fraction": SHIFT_FRACTION,
        "largest_noise": LARGEST_NOISE,
    }


def _checked_labels(images: ImageSet) -> Tensor:
    if images.labels is None:
        raise DataError(f"a classifier needs labeled images; {images.name} has no labels")
    if len(images.class_names) < 2:
        only = ", ".join(map(repr, images.class_names))
        raise DataError(f"a classifier needs images of at least two classes; {images.name} has only {only}")
    if images.images.shape[-1] < _MIN_IMAGE_SIZE:
        raise DataError(
            f"a classifier needs images of at least {_MIN_IMAGE_SIZE} pixels, {images.name} has "
            f"{images.images.shape[-1]}"
        )
    counts = torch.bincount(images.labels, minlength=len(images.class_names))
    if counts.min() < 2:
        rarest = images.class_names[int(counts.argmin())]
        raise DataError(f"a classifier needs two images of each class; {images.name} has fewer of {rarest!r}")
    return images.labels


def _stratified_split(labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of training and held-out images: the same share of each class, at least one image in either."""
    generator = rng.generator("cpu", seed, "scorer/split")
    train: list[Tensor] = []
    held_out: list[Tensor] = []
    for label in range(int(labels.max()) + 1):
        members = torch.nonzero(labels == label).flatten()
        shuffled = members[torch.randperm(len(members), generator=generator)]
        count = max(1, round(HELD_OUT_FRACTION * len(members)))
        held_out.append(shuffled[:count])
        train.append(shuffled[count:])
    return torch.cat(train), torch.cat(held_out)


def _initial_net(num_classes: int, image_size: int, width: float, seed: int) -> ClassifierNet:
    """A network with normal weights as in He et al. 2015 and zero bias, a function of the seed."""
    with torch.random.fork_rng(devices=[]):
        net = ClassifierNet(num_classes, image_size, width)
    generator = rng.generator("cpu", seed, "scorer/init")
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
    nn.init.zeros_(net.head.bias)
    return net


def _fit(
    net: ClassifierNet,
    pixels: Tensor,
    targets: Tensor,
    indices: Tensor,
    *,
    epochs: int,
    seed: int,
    progress: Progress | None,
) -> None:
    optimizer = _optimizer(net)
    batches_per_epoch = -(-len(indices) // BATCH_SIZE)
    step = 0
    net.train()
    for epoch in range(epochs):
        order = torch.randperm(len(indices), generator=rng.generator("cpu", seed, "scorer/order", epoch))
        total = torch.zeros((), device=pixels.device)
        for chunk in order.to(indices.device).tensor_split(batches_per_epoch):
            for group in optimizer.param_groups:
                group["lr"] = _learning_rate(step / (epochs * batches_per_epoch))
            batch = indices[chunk]
            shifted = _shift(pixels[batch], rng.generator("cpu", seed, "scorer/shift", step))
            noisy = _add_noise(shifted, rng.generator("cpu", seed, "scorer/noise", step))
            loss = nn.functional.cross_entropy(net(noisy)[1], targets[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.detach()
            step += 1
        if progress is not None:
            progress(epoch + 1, float(total) / batches_per_epoch)
    net.eval()


def _optimizer(net: ClassifierNet) -> torch.optim.Optimizer:
    # Weight decay of the head or the norm scales would only lower the confidence that the Inception score rewards.
    decayed = [parameter for parameter in net.body.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in net.body.parameters() if parameter.ndim == 1] + [*net.head.parameters()]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=0.0, momentum=MOMENTUM, nesterov=True)


def _learning_rate(elapsed: float) -> float:
    """Linear warm-up to the peak, then linear decay to zero; `elapsed` in 0..1."""
    return PEAK_LEARNING_RATE * min(elapsed / WARMUP_FRACTION, (1 - elapsed) / (1 - WARMUP_FRACTION))


def _shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (B, C, H, W), each shifted by its own whole number of pixels; edge pixels fill the gap."""
    batch, _, height, width = images.shape
    reach = round(SHIFT_FRACTION * height)
    offsets_2B = torch.randint(-reach, reach + 1, (2, batch, 1), generator=generator).to(images.device)
    rows_BH = (torch.arange(height, device=images.device) + offsets_2B[0]).clamp(0, height - 1)
    columns_BW = (torch.arange(width, device=images.device) + offsets_2B[1]).clamp(0, width - 1)
    sample_B = torch.arange(batch, device=images.device)[:, None, None]
    return images[sample_B, :, rows_BH[:, :, None], columns_BW[:, None, :]].permute(0, 3, 1, 2)


def _accuracy(net: ClassifierNet, pixels: Tensor, targets: Tensor, indices: Tensor) -> float:
    with torch.no_grad():
        correct = [(net(pixels[part])[1].argmax(dim=1) == targets[part]) for part in torch.split(indices, 500)]
    return torch.cat(correct).float().mean().item()


def _add_noise(images_uint8: Tensor, generator: torch.Generator) -> Tensor:
    """Images with normal noise, rounded to uint8; its strength is uniform in [0, LARGEST_NOISE] for each image."""
    strength = LARGEST_NOISE * torch.rand(len(images_uint8), 1, 1, 1, generator=generator)
    noise = strength * torch.randn(images_uint8.shape, generator=generator)
    return (images_uint8 + noise.to(images_uint8.device)).round().clamp(0, 255).to(torch.uint8)
