"""Features of images by a torch-fidelity extractor, and metrics of features as torch-fidelity defines them.

Only the library's networks are used, on tensors held here, so its habits that change a score without a word
stay outside: a cache keyed by names and not content, a float64 option that does nothing, autocast and TF32
inherited from the caller, loaders that fork, generators left in eval mode, and PRC on another network. That its
own call gives the same values is a test.
"""

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from gan_mhe.evaluation import feature_metrics
from gan_mhe.evaluation.feature_metrics import RealStatistics
from gan_mhe.evaluation.protocol import Protocol

_FULL_PRECISION = ("none", "ieee")  # as torch's fp32_precision settings call it


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
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
    """Features (N, D) and logits (N, C), float32 on `device`, of all uint8 batches (B, 3, H, W).

    `extractor`: a torch-fidelity feature extractor in eval mode on `device`; "features" is the layer it uses
    for FID, "logits" the one for the Inception score. Neither gradients, autocast nor TF32 are on, for
    the making of the batches either. Batch size changes no more than float32 rounding.
    """
    layers = {
        "features": extractor.get_default_feature_layer_for_metric("fid"),
        "logits": extractor.get_default_feature_layer_for_metric("isc"),
    }
    collected: dict[str, list[Tensor]] = {name: [] for name in layers}
    with full_precision(), torch.no_grad():
        for batch in batches:
            found = extractor.convert_features_tuple_to_dict(extractor(batch.to(device)))
            for name, layer in layers.items():
                collected[name].append(found[layer])
        return {name: torch.cat(parts).float() for name, parts in collected.items()}


def real_statistics(real_MD: Tensor, protocol: Protocol) -> RealStatistics:
    """What the distances of `protocol` need of real features (M, D) besides the features."""
    with full_precision():
        return RealStatistics.of(real_MD, protocol.prc_neighbourhood)


def inception_score(logits_NC: Tensor, protocol: Protocol) -> dict[str, float]:
    """exp of the mean KL(p(y|x) || p(y)) (Salimans et al. 2016): mean over splits, and spread over splits.

    `inception_score_split_std` is the standard deviation between splits of one set of samples. It says nothing
    about another training or another draw of latents.
    """
    with full_precision():
        scores = feature_metrics.inception_scores(logits_NC, splits=protocol.splits, seed=protocol.shuffle_seed)
    return _read({"inception_score": scores.mean(), "inception_score_split_std": scores.std(correction=0)})


def distances(
    fake_ND: Tensor, real_MD: Tensor, protocol: Protocol, *, statistics: RealStatistics | None = None
) -> dict[str, float]:
    """FID (Heusel et al. 2017), KID (Binkowski et al. 2018), precision and recall (Kynkaanniemi et al. 2019).

    All on the same features: precision and recall too, where torch-fidelity's own default is VGG-16.
    `statistics`: what `real_statistics(real_MD, protocol)` gives, where it is known already.
    """
    with full_precision():
        known = real_statistics(real_MD, protocol) if statistics is None else statistics
        precision, recall = feature_metrics.precision_recall(fake_ND, real_MD, known, protocol.prc_neighbourhood)
        found = {
            "fid": feature_metrics.frechet_distance(fake_ND, known),
            "kid": feature_metrics.kernel_distance(
                fake_ND,
                real_MD,
                subsets=protocol.kid_subsets,
                size=protocol.kid_subset_size,
                degree=protocol.kid_degree,
                seed=protocol.shuffle_seed,
            ),
            "precision": precision,
            "recall": recall,
        }
    return _read(found)


def metrics_from_features(
    fake: Mapping[str, Tensor],
    real: Mapping[str, Tensor],
    protocol: Protocol,
    *,
    statistics: RealStatistics | None = None,
) -> dict[str, float]:
    """All metrics of `protocol` from what `extract` gives for generated and for real images, on one device.

    Where a generated image's features or logits are not finite, every metric is NaN.
    """
    if not all_finite(fake):
        return dict.fromkeys(protocol.metrics, math.nan)
    return {
        **inception_score(fake["logits"], protocol),
        **distances(fake["features"], real["features"], protocol, statistics=statistics),
    }


def all_finite(tensors: Mapping[str, Tensor]) -> bool:
    """Whether no element of any tensor is infinite or NaN."""
    return bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors.values()]).all())


def _read(values: Mapping[str, Tensor]) -> dict[str, float]:
    """All values by one copy to the host."""
    return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))
