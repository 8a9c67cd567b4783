"""Classifiers whose scores mean nothing, or mean something else than one would think."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gan_mhe.data.datasets import ImageSet
from gan_mhe.errors import ExtractorError
from gan_mhe.evaluation.classifier_facts import ClassifierFacts, check_skill
from gan_mhe.evaluation.classifier_net import ClassifierNet, encode_classifier
from gan_mhe.evaluation.evaluator import Evaluator
from gan_mhe.evaluation.extractors import load_extractor

CPU = torch.device("cpu")
LETTERS = ("a", "b", "c", "d")


def facts(**changes: Any) -> ClassifierFacts:
    return replace(ClassifierFacts(LETTERS, 16, 0.9, "letters", "f" * 64), **changes)


def weights_file(folder: Path, classes: tuple[str, ...] = LETTERS, **metadata: Any) -> Path:
    """A classifier with random weights whose file states `metadata`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = ClassifierNet(len(classes), 16, 0.1)
    path = folder / "made.safetensors"
    stated = {"class_names": list(classes), "image_size": 16, "width": 0.1, **metadata}
    path.write_bytes(encode_classifier(net.state_dict(), stated))
    return path


def test_a_classifier_of_one_class_is_refused_when_it_is_used(tmp_path: Path) -> None:
    path = weights_file(tmp_path, classes=("all",), held_out_accuracy=1.0)
    with pytest.raises(ExtractorError, match="at least 2 classes, got 1; its Inception score is 1 for any image"):
        load_extractor("classifier:made", path, device=CPU)


def test_a_classifier_near_chance_is_refused_when_it_is_used(tmp_path: Path) -> None:
    path = weights_file(tmp_path, held_out_accuracy=0.43)
    with pytest.raises(ExtractorError, match=r"accuracy of at least 0\.438, because chance is 0\.250; got 0\.430"):
        load_extractor("classifier:made", path, device=CPU)


@pytest.mark.parametrize(("chance", "least"), [(0.5, 0.625), (0.1, 0.325), (0.01, 0.2575), (0.9, 0.925)])
def test_a_quarter_of_the_way_from_chance_to_certainty_is_enough(chance: float, least: float) -> None:
    check_skill("it", accuracy=least + 1e-9, chance=chance, smallest=0.25)
    with pytest.raises(ExtractorError, match=r"^it: expected a held-out accuracy"):
        check_skill("it", accuracy=least - 1e-9, chance=chance, smallest=0.25)


def test_a_classifier_whose_file_states_no_accuracy_is_used(tmp_path: Path) -> None:
    assert load_extractor("classifier:made", weights_file(tmp_path), device=CPU).num_classes == 4


@pytest.mark.parametrize(
    ("data", "classes", "sha256"),
    [("letters", LETTERS, "0" * 64), ("photographs", (), "f" * 64)],
    ids=["another split of the same data", "the same images"],
)
def test_a_classifier_of_the_scored_data_needs_no_notice(data: str, classes: tuple[str, ...], sha256: str) -> None:
    assert facts().mismatch(data, classes, sha256) is None


@pytest.mark.parametrize(
    ("data", "classes", "told"),
    [
        (
            "photographs",
            (),
            r"trained on letters \(4 classes: a, b, c, \.\.\.\), but scores photographs \(no classes\)",
        ),
        ("letters", ("cat",), r"but scores letters \(1 class: cat\)"),
    ],
)
def test_a_classifier_of_other_data_is_named_with_both(data: str, classes: tuple[str, ...], told: str) -> None:
    notice = facts().mismatch(data, classes, "0" * 64)
    assert notice is not None and re.search(told, notice)


def test_an_evaluator_tells_of_a_classifier_of_other_data(
    make_evaluator: Callable[..., Evaluator], make_images: Callable[..., ImageSet], tmp_path: Path
) -> None:
    images = make_images()
    own = {"training_set": images.name, "training_set_sha256": images.content_sha256}
    assert make_evaluator(weights=weights_file(tmp_path, **own)).notes == ()
    other = {"training_set": "letters", "training_set_sha256": "0" * 64}
    [notice] = make_evaluator(weights=weights_file(tmp_path, **other)).notes
    assert notice.startswith("evaluation.protocol classifier:tiny: its classifier was trained on letters (4 classes")
