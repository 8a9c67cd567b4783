"""Scores of generators: pinned, repeatable, and without side effects."""

import dataclasses
import math
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch_fidelity
from torch import Tensor, nn
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

from gan_mhe.data.datasets import ImageSet
from gan_mhe.data.pixels import to_uint8, to_unit_range
from gan_mhe.errors import ConfigError, ExtractorError, MemoryLimitError, StorageError
from gan_mhe.evaluation import evaluator as evaluator_module
from gan_mhe.evaluation.classifier_net import decode_classifier
from gan_mhe.evaluation.evaluator import Evaluator, reference_key
from gan_mhe.evaluation.extractors import ClassifierExtractor
from gan_mhe.evaluation.metrics import fingerprints
from gan_mhe.records.events import StopRequested

Generate = Callable[[Tensor], Tensor]
MakeEvaluator = Callable[..., Evaluator]
CPU = torch.device("cpu")
SCORES = ("inception_score", "inception_score_split_std", "fid", "kid", "precision", "recall")


def play(images: Tensor) -> Generate:
    """A "generator" that gives the images one after the other, from the start again when they end."""
    position = 0

    def generate(latents: Tensor) -> Tensor:
        nonlocal position
        indices = torch.arange(position, position + len(latents)) % len(images)
        position += len(latents)
        return to_unit_range(images[indices])

    return generate


def score(evaluator: Evaluator, generate: Generate, seed: int = 1) -> dict[str, float]:
    return evaluator.score(generate, latent_dim=8, latent_seed=seed)


def test_an_evaluation_has_the_six_scores(make_evaluator: MakeEvaluator, generate: Generate) -> None:
    found = score(make_evaluator(), generate)
    assert tuple(found) == SCORES
    assert all(math.isfinite(value) for value in found.values())


def test_a_score_is_a_function_of_the_latent_seed(make_evaluator: MakeEvaluator, generate: Generate) -> None:
    evaluator = make_evaluator()
    assert score(evaluator, generate) == score(evaluator, generate)
    assert score(evaluator, generate) != score(evaluator, generate, seed=2)


def test_a_score_equals_the_library_s_for_the_same_generator(
    make_evaluator: MakeEvaluator,
    generate: Generate,
    make_images: Callable[..., ImageSet],
    make_classifier_file: Callable[..., Path],
) -> None:
    class Quantised(nn.Module):
        def forward(self, latents: Tensor) -> Tensor:
            return to_uint8(generate(latents))

    class Real(torch.utils.data.Dataset[Tensor]):
        def __len__(self) -> int:
            return 40

        def __getitem__(self, index: int) -> Tensor:
            return make_images().images[index]

    name = "gan-mhe-generator-parity"
    torch_fidelity.register_feature_extractor(name, ClassifierExtractor)
    try:
        library = torch_fidelity.calculate_metrics(
            input1=torch_fidelity.GenerativeModelModuleWrapper(Quantised(), 8, "normal", 0),
            input1_model_num_samples=40,
            input2=Real(),
            feature_extractor=name,
            feature_extractor_weights_path=str(make_classifier_file()),
            cuda=False,
            isc=True,
            fid=True,
            save_cpu_ram=True,
            cache=False,
            verbose=False,
        )
    finally:
        del FEATURE_EXTRACTORS_REGISTRY[name]
    ours = score(make_evaluator(), generate, seed=2020)
    assert ours["inception_score"] == pytest.approx(library["inception_score_mean"], abs=1e-4)
    assert ours["fid"] == pytest.approx(library["frechet_inception_distance"], abs=1e-2)


def test_latents_are_numpy_s_whatever_the_batch_size(make_evaluator: MakeEvaluator, generate: Generate) -> None:
    seen: list[Tensor] = []

    def spy(latents: Tensor) -> Tensor:
        seen.append(latents)
        return generate(latents)

    score(make_evaluator(num_samples=600), spy, seed=9)  # two full batches of 256 and a rest
    expected = np.random.RandomState(9).randn(600, 8).astype(np.float32)
    assert [len(part) for part in seen] == [256, 256, 88]
    np.testing.assert_array_equal(torch.cat(seen).numpy(), expected)


def test_latents_drawn_in_pieces_are_those_drawn_at_once(
    make_evaluator: MakeEvaluator, generate: Generate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluator_module, "_LATENTS_AT_ONCE", 1)  # a piece is one batch of 256
    seen: list[Tensor] = []

    def spy(latents: Tensor) -> Tensor:
        seen.append(latents[:, :7])
        return generate(torch.nn.functional.pad(latents, (0, 1)))

    make_evaluator(num_samples=600).score(spy, latent_dim=7, latent_seed=9)
    expected = np.random.RandomState(9).randn(600, 7).astype(np.float32)  # an odd number for pairs of normal draws
    np.testing.assert_array_equal(torch.cat(seen).numpy(), expected)


class StopAt:
    """A control that asks for a stop when it is asked for the n-th time."""

    def __init__(self, asked: int) -> None:
        self.left = asked

    def should_stop(self) -> bool:
        self.left -= 1
        return self.left <= 0


@pytest.mark.parametrize(("asked", "batches"), [(1, 0), (2, 1), (3, 2), (4, 3)])
def test_a_score_is_left_before_the_next_batch_and_before_the_metrics(
    make_evaluator: MakeEvaluator, generate: Generate, asked: int, batches: int
) -> None:
    made: list[int] = []

    def spy(latents: Tensor) -> Tensor:
        made.append(len(latents))
        return generate(latents)

    with pytest.raises(StopRequested):
        make_evaluator(num_samples=600).score(spy, latent_dim=8, latent_seed=1, control=StopAt(asked))
    assert len(made) == batches


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: no")]
)
def test_a_score_that_runs_out_of_memory_names_its_own_setting(make_evaluator: MakeEvaluator, error: Exception) -> None:
    def fail(latents: Tensor) -> Tensor:
        raise error

    with pytest.raises(
        MemoryLimitError, match=r"^evaluation\.num_samples = 40: .* with 256 images at once: "
    ) as caught:
        score(make_evaluator(), fail)
    assert caught.value.__cause__ is error


def test_another_error_of_a_generator_is_not_taken_for_a_lack_of_memory(make_evaluator: MakeEvaluator) -> None:
    def fail(latents: Tensor) -> Tensor:
        raise RuntimeError("something odd")

    with pytest.raises(RuntimeError, match=r"^something odd$"):
        score(make_evaluator(), fail)


def test_images_reach_the_extractor_through_the_one_quantization(
    make_evaluator: MakeEvaluator, make_images: Callable[..., ImageSet]
) -> None:
    found = score(make_evaluator(), play(make_images().images))
    assert found["fid"] == pytest.approx(0.0, abs=1e-3)  # the very bytes of the real images
    assert (found["precision"], found["recall"]) == (1.0, 1.0)


def test_scoring_leaves_modes_gradients_and_global_generators_as_they_were(make_evaluator: MakeEvaluator) -> None:
    with torch.random.fork_rng(devices=[]):
        net = nn.Sequential(nn.Linear(8, 3 * 16 * 16), nn.Tanh(), nn.Dropout(0.0))
    net[2].eval()
    modes = [module.training for module in net.modules()]
    torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state(legacy=False)
    evaluator = make_evaluator()
    score(evaluator, lambda latents: net(latents).view(-1, 3, 16, 16))
    evaluator.real_scores()
    assert [module.training for module in net.modules()] == modes
    assert torch.is_grad_enabled()
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    after = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict) and isinstance(after, dict)
    np.testing.assert_array_equal(after["state"]["key"], numpy_state["state"]["key"])
    assert after["state"]["pos"] == numpy_state["state"]["pos"]


def test_ambient_autocast_changes_nothing(make_evaluator: MakeEvaluator) -> None:
    weight = torch.randn(8, 3 * 16 * 16, generator=torch.Generator().manual_seed(0))
    evaluator = make_evaluator()

    def generate(latents: Tensor) -> Tensor:
        made = torch.tanh(latents @ weight)
        assert made.dtype == torch.float32
        return made.view(-1, 3, 16, 16)

    outside = score(evaluator, generate)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
        assert score(evaluator, generate) == outside


def test_no_loader_and_no_process_is_started(
    make_evaluator: MakeEvaluator, generate: Generate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a worker was asked for")

    monkeypatch.setattr(torch.utils.data.DataLoader, "__init__", refuse)
    monkeypatch.setattr(multiprocessing.Process, "start", refuse)
    monkeypatch.setattr("os.fork", refuse)
    score(make_evaluator(), generate)


def test_a_generator_of_non_finite_images_has_no_score(make_evaluator: MakeEvaluator, generate: Generate) -> None:
    def broken(latents: Tensor) -> Tensor:
        images = generate(latents)
        images[3, 0, 0, 0] = math.nan
        return images

    found = score(make_evaluator(), broken)
    assert tuple(found) == SCORES
    assert all(math.isnan(value) for value in found.values())


@pytest.fixture
def break_extractor(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Makes every classifier return `value` as the first image's first feature from now on."""

    def break_it(value: float) -> None:
        forward = ClassifierExtractor.forward

        def broken(self: ClassifierExtractor, images: Tensor) -> tuple[Tensor, ...]:
            features, logits = forward(self, images)
            features[0, 0] = value
            return features, logits

        monkeypatch.setattr(ClassifierExtractor, "forward", broken)

    return break_it


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_images_of_non_finite_features_have_no_score(
    make_evaluator: MakeEvaluator, generate: Generate, break_extractor: Callable[[float], None], value: float
) -> None:
    evaluator = make_evaluator()
    break_extractor(value)
    found = score(evaluator, generate)
    assert tuple(found) == SCORES
    assert all(math.isnan(each) for each in found.values())


def test_real_images_of_non_finite_features_are_refused_and_not_cached(
    make_evaluator: MakeEvaluator, break_extractor: Callable[[float], None], tmp_path: Path
) -> None:
    break_extractor(math.nan)
    with pytest.raises(ExtractorError, match=r"evaluation\.protocol classifier:tiny: expected finite features"):
        make_evaluator()
    assert not (tmp_path / "reference").exists()


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 16, 16), (3 * 16 * 16,)])
def test_images_of_another_shape_than_the_real_ones_are_refused(
    make_evaluator: MakeEvaluator, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ExtractorError, match=r"expected images of shape \(40, 3, 16, 16\)"):
        score(make_evaluator(), lambda latents: torch.zeros(len(latents), *shape))


def test_a_classifier_for_another_image_size_is_refused(
    make_evaluator: MakeEvaluator, make_images: Callable[..., ImageSet]
) -> None:
    with pytest.raises(ExtractorError, match=r"expected images of 16 pixels.*blobs has 96"):
        make_evaluator(images=make_images(side=96))


def test_the_protocol_records_what_was_given(
    make_evaluator: MakeEvaluator, make_images: Callable[..., ImageSet]
) -> None:
    evaluator = make_evaluator(ema=True, num_samples=77)
    protocol = evaluator.protocol
    assert (protocol.name, protocol.ema, protocol.num_samples) == ("classifier:tiny", True, 77)
    assert (protocol.reference_sha256, protocol.reference_samples) == (make_images().content_sha256, 40)
    assert fingerprints(protocol)["fid"] != fingerprints(make_evaluator(num_samples=77).protocol)["fid"]


def test_an_unknown_protocol_is_refused_before_anything_is_looked_for(
    make_images: Callable[..., ImageSet], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.protocol"):
        Evaluator.build(
            "tf2015",
            images=make_images(),
            num_samples=None,
            ema=False,
            weights=tmp_path / "missing",
            download=False,
            cache_dir=tmp_path,
            device=CPU,
        )


@pytest.fixture
def extractions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one whenever features are worked out."""
    calls: list[int] = []
    extract = evaluator_module.scores.extract

    def counted(*arguments: Any) -> dict[str, Tensor]:
        calls.append(1)
        return extract(*arguments)

    monkeypatch.setattr(evaluator_module.scores, "extract", counted)
    return calls


def cached_files(cache_dir: Path) -> list[Path]:
    return sorted((cache_dir / "reference").iterdir())


def test_a_cache_that_cannot_be_written_is_named_with_its_variable(
    make_evaluator: MakeEvaluator, tmp_path: Path
) -> None:
    (tmp_path / "reference").write_text("in the way")
    with pytest.raises(StorageError, match=r"cannot write .*/reference/.*; set GAN_MHE_CACHE to a folder"):
        make_evaluator(cache_dir=tmp_path)


def test_real_features_are_worked_out_once_and_read_the_next_time(
    make_evaluator: MakeEvaluator, generate: Generate, extractions: list[int], tmp_path: Path
) -> None:
    first = make_evaluator()
    assert len(extractions) == 1
    second = make_evaluator(num_samples=40)
    assert len(extractions) == 1
    assert len(cached_files(tmp_path)) == 1
    assert score(first, generate) == score(second, generate)
    assert first.real_scores() == second.real_scores()


def test_other_images_or_other_weights_never_get_stale_features(
    make_evaluator: MakeEvaluator,
    make_images: Callable[..., ImageSet],
    make_classifier_file: Callable[..., Path],
    generate: Generate,
    tmp_path: Path,
) -> None:
    changes: tuple[dict[str, object], ...] = (
        {},
        {"images": make_images(seed=1)},  # under the same data set name
        {"weights": make_classifier_file(seed=1)},
    )
    shared = [score(make_evaluator(**change), generate) for change in changes]
    alone = [
        score(make_evaluator(**change, cache_dir=tmp_path / f"own-{i}"), generate) for i, change in enumerate(changes)
    ]
    assert shared == alone
    assert len({found["fid"] for found in shared}) == 3
    assert len(cached_files(tmp_path)) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"reference_sha256": "other"},
        {"weights_sha256": "other"},
        {"extractor": "other"},
        {"resize": "other"},
        {"precision": "other"},
        {"prc_neighborhood": 5},
    ],
    ids=str,
)
def test_the_cache_key_changes_with_what_features_depend_on(
    make_evaluator: MakeEvaluator, change: dict[str, Any]
) -> None:
    protocol = make_evaluator().protocol
    other = dataclasses.replace(protocol, **change)
    assert reference_key(other, CPU) != reference_key(protocol, CPU)


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "text"])
def test_a_damaged_cache_is_made_again(
    make_evaluator: MakeEvaluator, generate: Generate, extractions: list[int], tmp_path: Path, damage: str
) -> None:
    expected = score(make_evaluator(), generate)
    (path,) = cached_files(tmp_path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-5] ^= 1
    path.write_bytes({"flipped": bytes(flipped), "cut": whole[:-9], "empty": b"", "text": b"hello"}[damage])
    extractions.clear()
    evaluator = make_evaluator()
    assert len(extractions) == 1
    assert path.read_bytes() == whole
    assert score(evaluator, generate) == expected


def test_real_scores_are_of_all_images_and_of_one_half_against_the_other(make_evaluator: MakeEvaluator) -> None:
    found = make_evaluator().real_scores()
    assert set(found) == {
        "inception_score",
        "inception_score_split_std",
        "fid_between_halves",
        "kid_between_halves",
        "precision_between_halves",
        "recall_between_halves",
    }
    assert all(math.isfinite(value) for value in found.values())


def test_the_real_inception_score_is_of_as_many_images_as_are_generated(
    make_evaluator: MakeEvaluator, make_images: Callable[..., ImageSet], make_classifier_file: Callable[..., Path]
) -> None:
    images = make_images(200)
    net, _ = decode_classifier(make_classifier_file().read_bytes(), "tiny")
    with torch.no_grad():
        chances = net(images.images)[1].double().softmax(dim=1).numpy()
    chosen = chances[np.random.RandomState(2020).permutation(200)[:40]]
    splits = np.split(chosen[np.random.RandomState(2020).permutation(40)], 10)
    expected = np.mean([np.exp((p * np.log(p / p.mean(axis=0))).sum(axis=1).mean()) for p in splits])
    found = make_evaluator(images=images).real_scores()["inception_score"]
    assert found == pytest.approx(expected, rel=1e-5)
    assert found < 0.9 * make_evaluator(images=images, num_samples=200).real_scores()["inception_score"]


def test_with_no_more_real_than_generated_images_all_of_them_are_scored(
    make_evaluator: MakeEvaluator, make_images: Callable[..., ImageSet]
) -> None:
    alone = ("inception_score", "inception_score_split_std")
    equal, more = (make_evaluator(num_samples=count).real_scores() for count in (40, 4_000))
    assert [equal[name] for name in alone] == [more[name] for name in alone]


def test_real_images_too_few_for_the_protocol_have_no_inception_score(
    make_evaluator: MakeEvaluator, make_images: Callable[..., ImageSet]
) -> None:
    evaluator = make_evaluator(images=make_images(39))
    assert "inception_score" not in evaluator.real_scores()
    assert evaluator.notes == (
        "evaluation.num_samples: 40 images are generated, but only 39 are real; the Inception score rises with their "
        "number: they have none",
    )


def test_fewer_real_than_generated_images_are_told(make_evaluator: MakeEvaluator) -> None:
    [notice] = make_evaluator(num_samples=41).notes
    assert notice.endswith(
        "only 40 are real; the Inception score rises with their number: theirs is too low beside that of the generator"
    )


def test_the_counts_that_digits_v1_has_by_itself_are_not_told(digits: ImageSet, tmp_path: Path) -> None:
    def notes(num_samples: int | None) -> tuple[str, ...]:
        how = {"ema": False, "weights": None, "download": False, "cache_dir": tmp_path, "device": CPU}
        return Evaluator.build("digits-v1", images=digits, num_samples=num_samples, **how).notes  # type: ignore[arg-type]

    assert notes(None) == ()
    assert len(notes(1_798)) == 1


def test_real_scores_cannot_be_changed_from_outside(make_evaluator: MakeEvaluator) -> None:
    evaluator = make_evaluator()
    original = evaluator.real_scores()
    evaluator.real_scores()["inception_score"] = 0.0
    assert evaluator.real_scores() == original


def test_real_digits_score_near_ten_under_digits_v1(digits_evaluator: Evaluator) -> None:
    found = digits_evaluator.real_scores()
    assert 8.0 <= found["inception_score"] <= 9.5  # of 500 images, as many as generated; 9.70 of all
    assert found["fid_between_halves"] < 0.5
    assert found["precision_between_halves"] > 0.8


def test_digits_v1_ranks_real_blurred_and_noise_images(digits_evaluator: Evaluator, digits: ImageSet) -> None:
    blurred = torch.nn.functional.avg_pool2d(digits.images.float(), 9, stride=1, padding=4).to(torch.uint8)
    noise = torch.randint(0, 256, (200, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    scores = [score(digits_evaluator, play(images)) for images in (digits.images, blurred, noise)]
    inception = [found["inception_score"] for found in scores]
    fid = [found["fid"] for found in scores]
    assert inception[0] > inception[1] > inception[2] >= 1.0
    assert fid[0] < fid[1] < fid[2]


def test_an_evaluator_of_fewer_images_than_a_configuration_may_have_says_that_scores_are_capped(
    make_evaluator: Callable[..., Evaluator],
) -> None:
    [note] = make_evaluator(num_samples=19).notes
    assert note.startswith("evaluation.num_samples: expected at least 20, ")
    assert note.endswith("got 19; its Inception scores are capped")
