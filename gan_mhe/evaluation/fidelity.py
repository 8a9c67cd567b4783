"""The one door to torch-fidelity: features of images, and metrics of features.

Only the library's pure functions are called, on tensors held here, so its habits that change a score without
a word stay outside: a cache keyed by names and not content, a float64 option that does nothing, autocast and
TF32 inherited from the caller, loaders that fork, generators left in eval mode, and PRC on another network.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from gan_mhe.evaluation.protocol import Protocol

_FULL_PRECISION = ("none", "ieee")  # as torch's fp32_precision settings call it


@contextlib.contextmanager
def strict_float32() -> Iterator[None]:
    """Float32 arithmetic without TF32, bfloat16 products or autocast inside; as it was before afterwards."""
    backends: Any = torch.backends  # these settings are missing from torch's annotations
    products = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)
    lowered = [(each, each.fp32_precision) for each in products if each.fp32_precision not in _FULL_PRECISION]
    try:
        for each, _ in lowered:
            each.fp32_precision = "ieee"
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        for each, precision in lowered:
            each.fp32_precision = precision


def extract(extractor: Any, batches: Iterable[Tensor], device: torch.device) -> dict[str, Tensor]:
    """Features (N, D) and logits (N, C), float32 on the CPU, of all uint8 batches (B, 3, H, W).

    `extractor`: a torch-fidelity feature extractor in eval mode on `device`; "features" is the layer it uses
    for FID, "logits" the one for the Inception score. Neither gradients, autocast nor TF32 are on, for
    the making of the batches either. Batch size changes no more than float32 rounding.
    """
    layers = {
        "features": extractor.get_default_feature_layer_for_metric("fid"),
        "logits": extractor.get_default_feature_layer_for_metric("isc"),
    }
    collected: dict[str, list[Tensor]] = {name: [] for name in layers}
    with strict_float32(), torch.no_grad():
        for batch in batches:
            found = extractor.convert_features_tuple_to_dict(extractor(batch.to(device)))
            for name, layer in layers.items():
                collected[name].append(found[layer])
        # One copy to the host at the end: a copy per batch would wait for the device each time.
        return {name: torch.cat(parts).float().cpu() for name, parts in collected.items()}


def fid_statistics(features_ND: Tensor) -> dict[str, npt.NDArray[np.floating[Any]]]:
    """Mean `mu` (D,) and covariance `sigma` (D, D), normalised by N - 1, of features on the CPU."""
    statistics: dict[str, npt.NDArray[np.floating[Any]]] = fid_features_to_statistics(features_ND)
    return statistics


def inception_score(logits_NC: Tensor, protocol: Protocol) -> dict[str, float]:
    """exp of the mean KL(p(y|x) || p(y)) (Salimans et al. 2016): mean over splits, and spread over splits.

    `inception_score_split_std` is the standard deviation between splits of one set of samples. It says nothing
    about another training or another draw of latents.
    """
    with strict_float32():
        found = isc_features_to_metric(logits_NC, splits=protocol.splits, shuffle=True, rng_seed=protocol.shuffle_seed)
    return {
        "inception_score": found[KEY_METRIC_ISC_MEAN],
        "inception_score_split_std": found[KEY_METRIC_ISC_STD],
    }


def distances(
    fake_ND: Tensor,
    real_MD: Tensor,
    protocol: Protocol,
    *,
    real_statistics: Mapping[str, npt.NDArray[np.floating[Any]]] | None = None,
) -> dict[str, float]:
    """FID (Heusel et al. 2017), KID (Binkowski et al. 2018), precision and recall (Kynkaanniemi et al. 2019).

    All on the same features: precision and recall too, where torch-fidelity's own default is VGG-16.
    `real_statistics`: what `fid_statistics(real_MD)` gives, where it is known already.
    """
    with strict_float32():
        statistics = fid_statistics(real_MD) if real_statistics is None else real_statistics
        fid = fid_statistics_to_metric(fid_statistics(fake_ND), statistics, False)
        kid = kid_features_to_metric(
            fake_ND,
            real_MD,
            kid_subsets=protocol.kid_subsets,
            kid_subset_size=protocol.kid_subset_size,
            kid_kernel="poly",
            kid_kernel_poly_degree=protocol.kid_degree,
            rng_seed=protocol.shuffle_seed,
            verbose=False,
        )
        # Chunked: the other way holds three N x M matrices at once, 30 GB for 50,000 images a side.
        prc = prc_features_to_metric(
            fake_ND, real_MD, prc_neighborhood=protocol.prc_neighbourhood, save_cpu_ram=True, verbose=False
        )
    return {
        "fid": fid[KEY_METRIC_FID],
        "kid": kid[KEY_METRIC_KID_MEAN],
        "precision": prc[KEY_METRIC_PRECISION],
        "recall": prc[KEY_METRIC_RECALL],
    }


def metrics_from_features(
    fake: Mapping[str, Tensor],
    real: Mapping[str, Tensor],
    protocol: Protocol,
    *,
    real_statistics: Mapping[str, npt.NDArray[np.floating[Any]]] | None = None,
) -> dict[str, float]:
    """All metrics of `protocol` from what `extract` gives for generated and for real images."""
    return {
        **inception_score(fake["logits"], protocol),
        **distances(fake["features"], real["features"], protocol, real_statistics=real_statistics),
    }
