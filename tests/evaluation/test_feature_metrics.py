"""Metrics of features against torch-fidelity's functions and float64 references, in the shapes that go wrong."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from gan_mhe.evaluation import feature_metrics
from gan_mhe.evaluation.feature_metrics import RealStatistics


def features(count: int, width: int, seed: int, shift: float = 0.0) -> Tensor:
    """Correlated, non-negative as pooled ReLU outputs are."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=torch.Generator().manual_seed(7)) / width**0.5
    return (torch.randn(count, width, generator=generator) @ mix + shift).relu()


def frechet_by_square_root(fake: Tensor, real: Tensor) -> float:
    means = [x.double().numpy().mean(axis=0) for x in (fake, real)]
    covariances = [np.cov(x.double().numpy(), rowvar=False) for x in (fake, real)]
    root = np.real(scipy.linalg.sqrtm(covariances[0] @ covariances[1]))
    return float(np.sum((means[0] - means[1]) ** 2) + np.trace(covariances[0] + covariances[1] - 2 * root))


@pytest.mark.parametrize("count", [200, 31, 30, 12], ids=["many", "width + 1", "width", "few"])
@pytest.mark.parametrize("real_count", [300, 30, 29, 9], ids=["many", "width", "width - 1", "few"])
def test_fid_equals_the_library_s_however_many_images_there_are(count: int, real_count: int) -> None:
    fake, real = features(count, 30, 1), features(real_count, 30, 2, shift=0.5)
    library = fid_statistics_to_metric(fid_features_to_statistics(fake), fid_features_to_statistics(real), False)
    ours = feature_metrics.frechet_distance(fake, RealStatistics.of(real, 3)).item()
    # Square roots of the library's rounding around eigenvalues of zero; both sides with full rank agree far better.
    tolerance = 1e-5 if min(count, real_count) > 30 else 1e-4
    assert ours == pytest.approx(library["frechet_inception_distance"], abs=tolerance)


def test_fid_equals_the_matrix_square_root_s_to_nine_digits() -> None:
    fake, real = features(500, 20, 1), features(400, 20, 2, shift=0.5)
    found = feature_metrics.frechet_distance(fake, RealStatistics.of(real, 3)).item()
    assert found == pytest.approx(frechet_by_square_root(fake, real), rel=1e-9)


@pytest.mark.parametrize("count", [300, 10])
def test_features_that_never_vary_add_only_their_distance(count: int) -> None:
    fake, real = features(count, 12, 1), features(200, 12, 2)
    fake[:, 5:], real[:, 5:] = 2.0, 1.0  # covariances of rank five at most
    plain = feature_metrics.frechet_distance(fake[:, :5].contiguous(), RealStatistics.of(real[:, :5].contiguous(), 3))
    found = feature_metrics.frechet_distance(fake, RealStatistics.of(real, 3))
    assert found.item() == pytest.approx(plain.item() + 7, abs=1e-6)


def test_the_covariance_does_not_depend_on_the_rows_taken_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, real = features(100, 20, 1, shift=5.0), features(90, 20, 2)
    whole = feature_metrics.frechet_distance(fake, RealStatistics.of(real, 3))
    monkeypatch.setattr(feature_metrics, "_COVARIANCE_ROWS", 7)
    parts = feature_metrics.frechet_distance(fake, RealStatistics.of(real, 3))
    assert parts.item() == pytest.approx(whole.item(), rel=1e-12)


@pytest.mark.parametrize(("subsets", "size"), [(30, 80), (5, 20)], ids=["all pairs at once", "subset by subset"])
@pytest.mark.parametrize("elements", [2**22, 100], ids=["one part", "many parts"])
def test_kid_equals_the_library_s_on_the_same_draws(
    subsets: int, size: int, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 150^2 and 100^2 pairs are fewer than 30 x 80^2, more than 5 x 20^2: either way to the sums is taken once.
    monkeypatch.setattr(feature_metrics, "_KERNEL_ELEMENTS", elements)
    fake, real = features(150, 24, 1), features(100, 24, 2, shift=0.3)
    library = kid_features_to_metric(
        fake.double(),
        real.double(),
        kid_subsets=subsets,
        kid_subset_size=size,
        kid_kernel="poly",
        kid_kernel_poly_degree=3,
        rng_seed=2020,
        verbose=False,
    )
    ours = feature_metrics.kernel_distance(fake, real, subsets=subsets, size=size, degree=3, seed=2020)
    assert ours.item() == pytest.approx(library["kernel_inception_distance_mean"], abs=1e-7)


@pytest.mark.parametrize("elements", [2**26, 500], ids=["one part", "many parts"])
@pytest.mark.parametrize("save_cpu_ram", [False, True])
def test_precision_and_recall_equal_the_library_s(
    save_cpu_ram: bool, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_metrics, "_DISTANCE_ELEMENTS", elements)
    fake, real = features(150, 6, 1, shift=0.2), features(210, 6, 2)
    fake[10:20], real[5:9] = fake[:10], real[:4]  # images that come twice
    library = prc_features_to_metric(
        fake, real, prc_neighborhood=3, prc_batch_size=64, save_cpu_ram=save_cpu_ram, verbose=False
    )
    precision, recall = feature_metrics.precision_recall(fake, real, RealStatistics.of(real, 3), 3)
    assert 0 < library["precision"] < 1 and 0 < library["recall"] < 1
    # The library's shares are float32.
    assert precision.item() == pytest.approx(library["precision"], abs=1e-7)
    assert recall.item() == pytest.approx(library["recall"], abs=1e-7)


@pytest.mark.parametrize(("count", "splits"), [(100, 10), (103, 10), (50, 1)])
def test_inception_scores_equal_the_library_s(count: int, splits: int) -> None:
    logits = 3 * torch.randn(count, 17, generator=torch.Generator().manual_seed(0))
    library = isc_features_to_metric(logits, splits=splits, shuffle=True, rng_seed=2020)
    found = feature_metrics.inception_scores(logits, splits=splits, seed=2020)
    assert found.dtype == torch.float64
    assert found.mean().item() == pytest.approx(library["inception_score_mean"], rel=1e-12)
    assert found.std(correction=0).item() == pytest.approx(library["inception_score_std"], rel=1e-9, abs=1e-12)


def test_a_class_whose_probability_underflows_counts_as_zero() -> None:
    logits = torch.zeros(40, 3)
    logits[:, 2] = -1e4  # exp of it is zero in float64 too
    logits[::2, 0], logits[1::2, 1] = 800.0, 800.0
    assert feature_metrics.inception_scores(logits, splits=1, seed=0).item() == pytest.approx(2.0, rel=1e-12)


def test_statistics_are_float64_and_radii_those_of_the_third_neighbour() -> None:
    line = torch.tensor([0.0, 1.0, 3.0, 7.0, 15.0])[:, None].expand(5, 2) / math.sqrt(2)
    found = RealStatistics.of(line.contiguous(), 3)
    assert (found.mean.dtype, found.factor.dtype) == (torch.float64, torch.float64)
    torch.testing.assert_close(found.radii, torch.tensor([7.0, 6.0, 4.0, 7.0, 14.0]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("count", [50, 6])
def test_the_factor_times_its_transpose_is_the_covariance(count: int) -> None:
    real = features(count, 10, 3)
    factor = RealStatistics.of(real, 3).factor
    assert factor.shape == (10, min(count, 10))
    np.testing.assert_allclose((factor @ factor.T).numpy(), np.cov(real.double().numpy(), rowvar=False), atol=1e-12)
