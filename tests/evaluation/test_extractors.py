"""Weights: found, verified before they are read, and never replaced by others."""

import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch.nn.functional import cross_entropy

from gan_mhe.data.datasets import ImageSet
from gan_mhe.errors import ExtractorError
from gan_mhe.evaluation import extractors
from gan_mhe.evaluation.classifier_net import ClassifierNet, decode_classifier, encode_classifier
from gan_mhe.evaluation.extractors import ClassifierExtractor, load_extractor
from gan_mhe.evaluation.train_classifier import _stratified_split
from gan_mhe.evaluation.weights import locate_weights
from gan_mhe.files import sha256_bytes, sha256_file

CPU = torch.device("cpu")
PINNED = "ceb29dcfa245304846075799e3d4a0546cc73e3bdbf4d18c8526ce33646e33d8"
SHIPPED = Path(extractors.__file__).parent / "weights" / "digits-v1.safetensors"


def locate(name: str, cache_dir: Path, weights: Path | None = None, download: bool = False) -> Path:
    return locate_weights(name, weights=weights, download=download, cache_dir=cache_dir)


def test_the_shipped_classifier_is_the_pinned_file_and_small(tmp_path: Path) -> None:
    assert locate("digits-v1", tmp_path) == SHIPPED
    assert sha256_file(SHIPPED) == PINNED
    assert SHIPPED.stat().st_size < 300_000


def test_the_shipped_classifier_was_trained_on_these_digits_and_knows_the_held_out_ones(digits: ImageSet) -> None:
    net, metadata = decode_classifier(SHIPPED.read_bytes(), "shipped")
    assert metadata["training_set_sha256"] == digits.content_sha256
    assert digits.labels is not None
    _, held_out = _stratified_split(digits.labels, metadata["recipe"]["seed"])
    with torch.no_grad():
        logits = net(digits.images[held_out])[1]
    accuracy = (logits.argmax(dim=1) == digits.labels[held_out]).double().mean().item()
    assert accuracy == pytest.approx(metadata["held_out_accuracy"], abs=1e-6)
    assert accuracy >= 0.98
    assert cross_entropy(logits, digits.labels[held_out]).item() < 0.1


def test_a_classifier_survives_encoding(
    make_classifier_file: Callable[..., Path], make_images: Callable[..., ImageSet]
) -> None:
    content = make_classifier_file().read_bytes()
    net, metadata = decode_classifier(content, "tiny")
    assert encode_classifier(net.state_dict(), metadata) == content
    assert not net.training
    assert (metadata["class_names"], metadata["image_size"], metadata["width"]) == (["a", "b", "c", "d"], 16, 0.1)


def test_equal_classifiers_are_equal_files_in_every_process() -> None:
    # safetensors writes several metadata entries in an order that changes; one entry has one order.
    content = SHIPPED.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert len(header["__metadata__"]) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not weights",
        safetensors.torch.save({"weight": torch.zeros(3)}),
        safetensors.torch.save({"weight": torch.zeros(3)}, {"gan-mhe-scorer": "{}"}),
        safetensors.torch.save(
            {"weight": torch.zeros(3)},
            {
                "gan-mhe-scorer": json.dumps(
                    {"format_version": "1", "class_names": ["a"], "image_size": 16, "width": 0.1}
                )
            },
        ),
        safetensors.torch.save({"weight": torch.zeros(3)}, {"gan-mhe-scorer": json.dumps({"format_version": "2"})}),
    ],
    ids=["empty", "text", "no description", "empty description", "other tensors", "other version"],
)
def test_foreign_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(content)
    with pytest.raises(ExtractorError, match=r"expected the weights of a classifier \(gan-mhe-scorer, version 1\)"):
        load_extractor("classifier:tiny", path, device=CPU)


def test_another_file_in_place_of_the_shipped_classifier_is_refused(make_classifier_file: Callable[..., Path]) -> None:
    path = make_classifier_file()
    with pytest.raises(ExtractorError, match=f"{PINNED}.*{sha256_file(path)}"):
        load_extractor("digits-v1", path, device=CPU)


def test_loading_leaves_the_global_generator_alone(make_classifier_file: Callable[..., Path]) -> None:
    path = make_classifier_file()
    before = torch.random.get_rng_state()
    load_extractor("classifier:tiny", path, device=CPU)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_extractor_gives_layers_in_the_order_requested(
    make_classifier_file: Callable[..., Path], make_images: Callable[..., ImageSet]
) -> None:
    path, images = make_classifier_file(), make_images(3).images
    both = ClassifierExtractor("x", ["logits", "features"], feature_extractor_weights_path=str(path), verbose=False)
    alone = ClassifierExtractor("x", ["features"], feature_extractor_weights_path=path)
    logits, features = both(images)
    assert (logits.shape, features.shape) == ((3, 4), (3, 26))
    assert torch.equal(alone(images)[0], features)
    torch.testing.assert_close(both.net.head(features), logits)


def test_the_network_sees_pixels_in_minus_one_to_one() -> None:
    seen: list[torch.Tensor] = []
    net = ClassifierNet(2, 8, 0.1).eval()
    net.body.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    net(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 8, 8))
    assert (seen[0][0].unique().item(), seen[0][1].unique().item()) == (-1.0, 1.0)


def test_a_missing_classifier_names_its_place_and_both_ways_to_provide_it(tmp_path: Path) -> None:
    with pytest.raises(ExtractorError) as caught:
        locate("classifier:cifar10", tmp_path)
    for part in (str(tmp_path / "scorers" / "cifar10.safetensors"), "gan-mhe scorer train", "evaluation.weights"):
        assert part in str(caught.value)


def test_a_classifier_is_found_in_the_cache_directory_or_where_it_is_said_to_be(tmp_path: Path) -> None:
    usual, other = tmp_path / "scorers" / "cifar10.safetensors", tmp_path / "other.safetensors"
    usual.parent.mkdir()
    usual.touch()
    other.touch()
    assert locate("classifier:cifar10", tmp_path) == usual
    assert locate("classifier:cifar10", tmp_path, weights=other) == other
    with pytest.raises(ExtractorError, match=r"no file .*gone"):
        locate("classifier:cifar10", tmp_path, weights=tmp_path / "gone")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch hub cache; the weights' place in it."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"


def test_missing_inception_weights_name_their_place_and_both_ways_to_provide_them(hub: Path, tmp_path: Path) -> None:
    with pytest.raises(ExtractorError) as caught:
        locate("inception-2015", tmp_path)
    for part in (str(hub), "evaluation.weights", "evaluation.download = true"):
        assert part in str(caught.value)


def test_nothing_is_fetched_unless_it_is_allowed(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[tuple[str, str]] = []

    def fetch(url: str, place: str, hash_prefix: str, progress: bool) -> None:
        fetched.append((url, hash_prefix))
        Path(place).touch()

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    with pytest.raises(ExtractorError):
        locate("inception-2015", tmp_path)
    assert fetched == []
    assert locate("inception-2015", tmp_path, download=True) == hub
    assert [(url.rpartition("/")[2], prefix) for url, prefix in fetched] == [(hub.name, "6726825d")]
    locate("inception-2015", tmp_path, download=True)
    assert len(fetched) == 1


def test_a_failed_download_is_an_extractor_error(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(ExtractorError, match=r"cannot download .*no route to host.*evaluation\.weights"):
        locate("inception-2015", tmp_path, download=True)


class Trap:
    """Unpickling it makes a directory."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.marker),)


def test_inception_weights_are_hashed_before_anything_is_unpickled(tmp_path: Path) -> None:
    path, marker = tmp_path / "weights.pth", tmp_path / "executed"
    path.write_bytes(pickle.dumps(Trap(marker)))
    with pytest.raises(ExtractorError, match="6726825d"):
        load_extractor("inception-2015", path, device=CPU)
    assert not marker.exists()


def test_inception_weights_run_no_code_even_under_the_right_hash(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    buffer = io.BytesIO()
    torch.save({"fc.bias": Trap(marker)}, buffer)
    path = tmp_path / "weights.pth"
    path.write_bytes(buffer.getvalue())
    with pytest.raises(ExtractorError, match="expected the state of torch-fidelity's InceptionV3"):
        load_extractor("inception-2015", path, device=CPU, expected_sha256=sha256_bytes(path.read_bytes()))
    assert not marker.exists()
    torch.load(path, weights_only=False)  # the trap is a real one
    assert marker.exists()
