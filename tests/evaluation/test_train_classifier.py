"""Training of the small classifier."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from gan_mhe.data.datasets import ImageSet, content_sha256
from gan_mhe.errors import DataError
from gan_mhe.evaluation.extractors import load_extractor
from gan_mhe.evaluation.train_classifier import (
    _learning_rate,
    _shift,
    _stratified_split,
    save_classifier,
    train_classifier,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bars() -> ImageSet:
    """Horizontal bars, vertical bars and noise, easy to tell apart wherever they lie."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 80, (90, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(90) % 3
    images[labels == 0, :, 3:5, :] += 150
    images[labels == 1, :, :, 3:5] += 150
    return ImageSet("bars", images, labels, ("across", "down", "noise"), content_sha256(images, labels))


def test_training_learns_classes_it_can_tell_apart_on_images_it_has_not_seen(bars: ImageSet) -> None:
    losses: list[tuple[int, float]] = []
    _, metadata = train_classifier(
        bars, width=0.1, epochs=25, seed=0, device=CPU, progress=lambda epoch, loss: losses.append((epoch, loss))
    )
    assert metadata["held_out_accuracy"] >= 0.9
    assert metadata["held_out_images"] == 18
    assert [epoch for epoch, _ in losses] == list(range(1, 26))
    assert losses[-1][1] < 0.3 < losses[0][1]


def test_training_is_a_function_of_its_arguments_and_leaves_the_global_generator_alone(bars: ImageSet) -> None:
    before = torch.random.get_rng_state()
    first, metadata = train_classifier(bars, width=0.1, epochs=2, seed=3, device=CPU)
    torch.rand(7)
    second, again = train_classifier(bars, width=0.1, epochs=2, seed=3, device=CPU)
    other, _ = train_classifier(bars, width=0.1, epochs=2, seed=4, device=CPU)
    assert metadata == again
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])
    torch.random.set_rng_state(before)
    train_classifier(bars, width=0.1, epochs=1, seed=3, device=CPU)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_saved_classifier_is_loaded_as_it_was_trained(bars: ImageSet, tmp_path: Path) -> None:
    tensors, metadata = train_classifier(bars, width=0.1, epochs=25, seed=0, device=CPU)
    path = tmp_path / "scorers" / "bars.safetensors"
    sha256 = save_classifier(path, tensors, metadata)
    extractor = load_extractor("classifier:bars", path, device=CPU)
    assert (extractor.weights_sha256, extractor.image_size) == (sha256, 8)
    state = extractor.network.net.state_dict()  # type: ignore[union-attr,operator]
    assert all(torch.equal(state[name], tensors[name]) for name in tensors)


def test_another_recipe_has_another_digest(bars: ImageSet) -> None:
    digests = {
        train_classifier(bars, width=width, epochs=1, seed=seed, device=CPU)[1]["recipe_sha256"]
        for width, seed in [(0.1, 0), (0.2, 0), (0.1, 1)]
    }
    assert len(digests) == 3


def test_a_fifth_of_every_class_is_held_out() -> None:
    labels = torch.tensor([0] * 50 + [1] * 100 + [2] * 3)
    train, held_out = _stratified_split(labels, seed=0)
    assert torch.bincount(labels[held_out]).tolist() == [10, 20, 1]
    assert sorted(torch.cat([train, held_out]).tolist()) == list(range(153))


def test_shifts_move_images_by_whole_pixels_and_repeat_edges() -> None:
    images = torch.arange(16 * 16, dtype=torch.uint8).view(1, 1, 16, 16).expand(64, 3, 16, 16)
    padded = np.pad(images[0, 0].numpy(), 2, mode="edge")
    windows = {padded[y : y + 16, x : x + 16].tobytes() for y in range(5) for x in range(5)}
    shifted = _shift(images, torch.Generator().manual_seed(0))
    assert shifted.shape == images.shape
    found = {channel.numpy().tobytes() for image in shifted for channel in image}
    assert found <= windows
    assert len(found) > 20  # 64 draws from 25 shifts


def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero() -> None:
    assert [_learning_rate(t) for t in (0.0, 0.1, 0.2, 0.6, 1.0)] == pytest.approx([0, 0.05, 0.1, 0.05, 0])


def test_images_without_labels_are_refused(bars: ImageSet) -> None:
    with pytest.raises(DataError, match="bars has no labels"):
        train_classifier(dataclasses.replace(bars, labels=None), width=0.1, epochs=1, seed=0, device=CPU)


def test_images_of_one_class_are_refused_by_its_name(bars: ImageSet) -> None:
    labels = torch.zeros(len(bars.images), dtype=torch.int64)
    one = dataclasses.replace(bars, labels=labels, class_names=("across",))
    with pytest.raises(DataError, match="at least two classes; bars has only 'across'"):
        train_classifier(one, width=0.1, epochs=1, seed=0, device=CPU)


def test_images_too_small_for_two_poolings_are_refused(bars: ImageSet) -> None:
    small = dataclasses.replace(bars, images=bars.images[:, :, :4, :4])
    with pytest.raises(DataError, match="at least 8 pixels, bars has 4"):
        train_classifier(small, width=0.1, epochs=1, seed=0, device=CPU)


def test_a_class_of_one_image_is_refused(bars: ImageSet) -> None:
    lonely = dataclasses.replace(bars, class_names=(*bars.class_names, "lonely"))
    with pytest.raises(DataError, match="fewer of 'lonely'"):
        train_classifier(lonely, width=0.1, epochs=1, seed=0, device=CPU)
