"""Scores against torch-fidelity's own entry point and against known values, and without its side effects."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
import torch_fidelity
from torch import Tensor
from torch.utils.data import Dataset
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

from gan_mhe.data.datasets import ImageSet
from gan_mhe.evaluation import scores
from gan_mhe.evaluation.extractors import ClassifierExtractor, load_extractor
from gan_mhe.evaluation.feature_metrics import ScoreInputs
from gan_mhe.evaluation.metrics import score_computations
from gan_mhe.evaluation.protocol import Protocol, pin_protocol
from gan_mhe.files import sha256_file

CPU = torch.device("cpu")
LIBRARY_KEYS = {
    "inception_score": torch_fidelity.KEY_METRIC_ISC_MEAN,
    "inception_score_split_std": torch_fidelity.KEY_METRIC_ISC_STD,
    "fid": torch_fidelity.KEY_METRIC_FID,
    "kid": torch_fidelity.KEY_METRIC_KID_MEAN,
    "precision": torch_fidelity.KEY_METRIC_PRECISION,
    "recall": torch_fidelity.KEY_METRIC_RECALL,
}


def protocol_for(count: int, real: int, **changes: Any) -> Protocol:
    pinned = pin_protocol(
        "classifier:tiny",
        weights_sha256="a" * 64,
        reference_sha256="b" * 64,
        reference_samples=real,
        ema=False,
        num_samples=max(count, 20),
    )
    subset = min(pinned.kid_subset_size, count)
    return dataclasses.replace(pinned, **({"num_samples": count, "kid_subset_size": subset} | changes))


def every_score(fake: dict[str, Tensor], real_MD: Tensor, protocol: Protocol) -> dict[str, float]:
    statistics = scores.real_statistics(real_MD, protocol)
    return scores.compute_scores(ScoreInputs(fake["logits"], fake["features"], real_MD, statistics, protocol))


def inception_scores(logits_NC: Tensor, protocol: Protocol) -> dict[str, float]:
    """The scores that read the generated images alone."""
    features = torch.randn(len(logits_NC), 4, generator=torch.Generator().manual_seed(0))
    inputs = ScoreInputs(logits_NC, features, features, scores.real_statistics(features, protocol), protocol)
    return scores.compute_scores(inputs, score_computations(compares=False))


def distances(fake_ND: Tensor, real_MD: Tensor, protocol: Protocol) -> dict[str, float]:
    """The scores that compare generated with real images."""
    statistics = scores.real_statistics(real_MD, protocol)
    inputs = ScoreInputs(torch.zeros(len(fake_ND), 4), fake_ND, real_MD, statistics, protocol)
    return scores.compute_scores(inputs, score_computations(compares=True))


class Bytes(Dataset[Tensor]):
    """Bare uint8 images, the only kind of item the library takes."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def library_metrics(extractor: str, weights: Path, fake: Tensor, real: Tensor, protocol: Protocol) -> dict[str, float]:
    """What torch-fidelity itself says, its cache and worker processes off."""
    found = torch_fidelity.calculate_metrics(
        input1=Bytes(fake),
        input2=Bytes(real),
        cuda=False,
        isc=True,
        fid=True,
        kid=True,
        prc=True,
        feature_extractor=extractor,
        feature_extractor_weights_path=str(weights),
        isc_splits=protocol.splits,
        kid_subsets=protocol.kid_subsets,
        kid_subset_size=protocol.kid_subset_size,
        save_cpu_ram=True,
        cache=False,
        verbose=False,
    )
    return {name: found[key] for name, key in LIBRARY_KEYS.items()}


def assert_parity(ours: dict[str, float], library: dict[str, float]) -> None:
    tolerances = {"fid": 1e-2, "kid": 1e-6, "precision": 1e-6, "recall": 1e-6}
    for name, value in library.items():
        assert ours[name] == pytest.approx(value, abs=tolerances.get(name, 1e-4)), name


@pytest.fixture
def registered() -> Iterator[str]:
    name = "gan-mhe-classifier-under-test"
    torch_fidelity.register_feature_extractor(name, ClassifierExtractor)
    yield name
    del FEATURE_EXTRACTORS_REGISTRY[name]


def test_classifier_metrics_equal_the_library_s(
    registered: str, make_images: Callable[..., ImageSet], make_classifier_file: Callable[..., Path]
) -> None:
    fake, real = make_images(100, seed=1).images, make_images(128, seed=2).images // 2
    weights = make_classifier_file()
    extractor = load_extractor("classifier:tiny", weights, device=CPU)
    protocol = protocol_for(100, 128, kid_subset_size=50)
    features = [scores.extract(extractor.network, images.split(64), CPU) for images in (fake, real)]
    ours = every_score(features[0], features[1]["features"], protocol)
    library = library_metrics(registered, weights, fake, real, protocol)
    assert library["inception_score"] > 1.2 and library["fid"] > 0.1  # or parity would say nothing
    assert_parity(ours, library)


@pytest.mark.slow
def test_inception_metrics_equal_the_library_s_with_all_four_on_one_weights_file(
    inception_weights: Path, make_images: Callable[..., ImageSet]
) -> None:
    fake, real = make_images(12, seed=1, side=32).images, make_images(10, seed=2, side=32).images // 2
    extractor = load_extractor(
        "inception-2015", inception_weights, device=CPU, expected_sha256=sha256_file(inception_weights)
    )
    protocol = protocol_for(12, 10, splits=2, kid_subset_size=8)
    features = [scores.extract(extractor.network, images.split(64), CPU) for images in (fake, real)]
    ours = every_score(features[0], features[1]["features"], protocol)
    library = library_metrics("inception-v3-compat", inception_weights, fake, real, protocol)
    assert library["inception_score"] > 1.05 and library["fid"] > 0.1
    assert_parity(ours, library)


def test_identical_predictions_have_an_inception_score_of_one() -> None:
    logits = torch.randn(10, generator=torch.Generator().manual_seed(0)).expand(100, 10)
    found = inception_scores(logits, protocol_for(100, 100))
    assert found["inception_score"] == pytest.approx(1.0, abs=1e-12)
    assert found["inception_score_split_std"] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("classes", [2, 10, 37])
def test_balanced_certain_predictions_have_the_number_of_classes_as_inception_score(classes: int) -> None:
    logits = 500.0 * torch.eye(classes).repeat(5, 1)
    found = inception_scores(logits, protocol_for(5 * classes, 100, splits=1))
    assert found["inception_score"] == pytest.approx(classes, rel=1e-12)


def test_samples_are_shuffled_before_they_are_cut_into_splits() -> None:
    sorted_by_class = 500.0 * torch.eye(10).repeat_interleave(100, dim=0)
    # Unshuffled, each of the ten splits would hold one class only and score 1.
    assert inception_scores(sorted_by_class, protocol_for(1000, 100))["inception_score"] > 9


def test_fid_equals_the_frechet_distance_by_matrix_square_root() -> None:
    generator = torch.Generator().manual_seed(0)
    fake = torch.randn(300, 6, generator=generator) @ torch.randn(6, 6, generator=generator)
    real = torch.randn(400, 6, generator=generator) + 0.5
    mean = [x.double().numpy().mean(axis=0) for x in (fake, real)]
    covariance = [np.cov(x.double().numpy(), rowvar=False) for x in (fake, real)]
    root = scipy.linalg.sqrtm(covariance[0] @ covariance[1]).real
    expected = np.sum((mean[0] - mean[1]) ** 2) + np.trace(covariance[0] + covariance[1] - 2 * root)
    found = distances(fake, real, protocol_for(300, 400, kid_subset_size=100))
    assert found["fid"] == pytest.approx(float(expected), rel=1e-5)


def test_a_set_is_at_distance_zero_from_itself() -> None:
    features = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    found = distances(features, features, protocol_for(200, 200, kid_subset_size=200))
    assert found["fid"] == pytest.approx(0.0, abs=1e-4)
    assert found["precision"] == 1.0
    assert found["recall"] == 1.0


def test_far_sets_have_neither_precision_nor_recall() -> None:
    features = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    found = distances(features, features + 100, protocol_for(200, 200))
    assert (found["precision"], found["recall"]) == (0.0, 0.0)
    assert found["fid"] == pytest.approx(8 * 100**2, rel=1e-4)


def test_precision_is_of_the_generated_and_recall_of_the_real_images() -> None:
    generator = torch.Generator().manual_seed(0)
    real = torch.cat([torch.randn(200, 4, generator=generator), torch.randn(200, 4, generator=generator) + 100])
    fake = torch.randn(200, 4, generator=generator)  # good images of one of two modes
    found = distances(fake, real, protocol_for(200, 400, kid_subset_size=100))
    assert found["precision"] > 0.8
    assert found["recall"] == pytest.approx(0.45, abs=0.05)


def test_features_do_not_depend_on_the_batch_size(
    make_images: Callable[..., ImageSet], make_classifier_file: Callable[..., Path]
) -> None:
    extractor = load_extractor("classifier:tiny", make_classifier_file(), device=CPU).network
    images = make_images(37).images
    whole = scores.extract(extractor, [images], CPU)
    for size in (1, 5, 16):
        parts = scores.extract(extractor, images.split(size), CPU)
        for name in ("features", "logits"):
            torch.testing.assert_close(parts[name], whole[name], rtol=1e-4, atol=1e-4)


def test_features_are_float32_without_gradients(
    make_images: Callable[..., ImageSet], make_classifier_file: Callable[..., Path]
) -> None:
    """The library accepts float64 and works in float32; here float32 is what the protocol says, and is."""
    extractor = load_extractor("classifier:tiny", make_classifier_file(), device=CPU).network
    found = scores.extract(extractor, [make_images(4).images], CPU)
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert not any(tensor.requires_grad for tensor in found.values())
    assert protocol_for(40, 40).precision.startswith("float32")


def test_ambient_autocast_does_not_reach_the_features(
    make_images: Callable[..., ImageSet], make_classifier_file: Callable[..., Path]
) -> None:
    extractor = load_extractor("classifier:tiny", make_classifier_file(), device=CPU).network
    images = make_images(8).images
    expected = scores.extract(extractor, [images], CPU)["features"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        unprotected = extractor(images)[0].float()
        torch.testing.assert_close(scores.extract(extractor, [images], CPU)["features"], expected, rtol=0, atol=0)
        assert torch.is_autocast_enabled("cpu")
    assert not torch.equal(unprotected, expected)  # the protection has something to protect from


def precisions() -> list[str]:
    backends: Any = torch.backends
    products = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)
    return [each.fp32_precision for each in products]


@pytest.mark.parametrize("ambient", ["highest", "high", "medium"])
def test_reduced_float32_products_are_off_inside_and_as_before_outside(ambient: str) -> None:
    original = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(ambient)
        before = precisions()
        with scores.full_precision():
            assert set(precisions()) <= {"ieee", "none"}
        assert precisions() == before
        assert torch.get_float32_matmul_precision() == ambient
        with pytest.raises(KeyError), scores.full_precision():
            raise KeyError
        assert precisions() == before
    finally:
        torch.set_float32_matmul_precision(original)
