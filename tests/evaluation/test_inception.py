"""The rearranged InceptionV3 against the library's own."""

from pathlib import Path

import pytest
import torch
import torch_fidelity
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from gan_mhe.evaluation import extractors
from gan_mhe.evaluation.extractors import InceptionExtractor
from gan_mhe.evaluation.inception import FoldedInception, resized_like_tensorflow

LAYERS = ["2048", "logits_unbiased"]


def images(count: int, height: int, width: int) -> Tensor:
    """Seeded random blobs, each image of another brightness."""
    coarse = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(height))
    blobs = torch.nn.functional.interpolate(coarse, size=(height, width))
    return (blobs * torch.linspace(255, 60, count)[:, None, None, None]).to(torch.uint8)


@pytest.fixture(scope="module")
def library(inception_weights: Path) -> FeatureExtractorInceptionV3:
    """The library's network; its batch norms have statistics of their own, so that folding them matters."""
    return FeatureExtractorInceptionV3("library", LAYERS, feature_extractor_weights_path=str(inception_weights))


@pytest.mark.parametrize("size", [(32, 32), (48, 48), (1, 1), (7, 31), (299, 299), (400, 310)], ids=str)
def test_the_resize_has_the_library_s_bits(size: tuple[int, int]) -> None:
    batch = images(2, *size)
    library = interpolate_bilinear_2d_like_tensorflow1x(batch.float(), size=(299, 299), align_corners=False)
    found = resized_like_tensorflow(batch)
    assert torch.equal(found, (library - 128) / 128)
    assert found.is_contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def test_features_and_logits_are_the_library_s_to_float32_rounding(library: FeatureExtractorInceptionV3) -> None:
    batch = images(2, 32, 32)
    features, logits = FoldedInception(library)(batch)
    expected = library(batch)
    assert features.dtype == torch.float32
    # The head of these weights takes away what images have in common, and rounding stays.
    for found, reference, tolerance in zip((features, logits), expected, (5e-6, 5e-5), strict=True):
        torch.testing.assert_close(found, reference, rtol=0, atol=tolerance * reference.abs().max().item())


@torch.no_grad()
def test_the_extractor_gives_layers_in_the_order_requested_whatever_the_batch(
    inception_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(extractors._CPU_IMAGES_AT_ONCE, "inception", 2)
    extractor = InceptionExtractor(
        "ours", LAYERS[::-1], feature_extractor_weights_path=str(inception_weights), verbose=False
    )
    batch = images(3, 32, 32)  # more than are worked on at once
    logits, features = extractor(batch)
    assert (logits.shape, features.shape) == ((3, 1008), (3, 2048))
    logits_alone, features_alone = extractor(batch[2:])
    torch.testing.assert_close(features[2:], features_alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits[2:], logits_alone, rtol=1e-4, atol=1e-4)


def test_the_extractor_holds_every_weight_once(inception_weights: Path, library: FeatureExtractorInceptionV3) -> None:
    extractor = InceptionExtractor("ours", LAYERS, feature_extractor_weights_path=str(inception_weights))
    held = sum(tensor.numel() for tensor in extractor.state_dict().values())
    assert held <= sum(tensor.numel() for tensor in library.state_dict().values())
    assert not list(extractor.parameters())


def test_the_library_s_own_call_takes_the_extractor(inception_weights: Path) -> None:
    class Bytes(torch.utils.data.Dataset[Tensor]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Tensor:
            return images(4, 32, 32)[index]

    name = "gan-mhe-inception-under-test"
    torch_fidelity.register_feature_extractor(name, InceptionExtractor)
    scores = [
        torch_fidelity.calculate_metrics(
            input1=Bytes(),
            cuda=False,
            isc=True,
            isc_splits=1,
            feature_extractor=each,
            feature_extractor_weights_path=str(inception_weights),
            save_cpu_ram=True,
            cache=False,
            verbose=False,
        )["inception_score_mean"]
        for each in (name, "inception-v3-compat")
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    assert scores[1] > 1.01
