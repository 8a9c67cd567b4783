"""The small classifier whose features `digits-v1` and `classifier:<name>` use, and its weights file."""

import json
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from gan_mhe.data.pixels import to_unit_range
from gan_mhe.errors import ExtractorError
from gan_mhe.files import canonical_json

FORMAT = "gan-mhe-scorer"
FORMAT_VERSION = "1"
_BASE_CHANNELS = (64, 128, 256)


class ClassifierNet(nn.Module):
    """A plain CNN: three stages of two 3x3 convolutions with batch norm and ReLU, max pooling between the stages.

    The stages have 64, 128 and 256 channels times `width`. The features are the spatial mean of the last stage.
    """

    def __init__(self, num_classes: int, image_size: int, width: float) -> None:
        super().__init__()
        self.image_size = image_size
        channels = [max(4, round(base * width)) for base in _BASE_CHANNELS]
        stages: list[nn.Module] = []
        previous = 3
        for stage, current in enumerate(channels):
            stages += [nn.MaxPool2d(2)] if stage else []
            for _ in range(2):
                stages.append(nn.Conv2d(previous, current, 3, padding=1, bias=False))
                stages += [nn.BatchNorm2d(current), nn.ReLU()]
                previous = current
        self.body = nn.Sequential(*stages)
        self.head = nn.Linear(previous, num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, D) and logits (B, C) of uint8 images (B, 3, H, H)."""
        features_BD = self.body(to_unit_range(images)).mean(dim=(2, 3))
        return features_BD, self.head(features_BD)


def encode_classifier(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> bytes:
    """The content of a weights file: state and metadata of a ClassifierNet, as `train_classifier` returns them."""
    # One entry with everything as JSON: safetensors writes several entries in an order that differs between processes,
    # and equal classifiers must give equal files.
    description = canonical_json({**metadata, "format_version": FORMAT_VERSION}).decode()
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(contiguous, {FORMAT: description})


def decode_classifier(content: bytes, origin: str) -> tuple[ClassifierNet, dict[str, Any]]:
    """The network in eval mode and the metadata of a weights file. Raises ExtractorError for any other content.

    origin: what error messages call the file.
    """
    try:
        tensors = safetensors.torch.load(content)
        metadata = _header_metadata(content)
        if metadata["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format version {metadata['format_version']}")
        with torch.random.fork_rng(devices=[]):  # layers draw initial weights from the global generator
            net = ClassifierNet(len(metadata["class_names"]), metadata["image_size"], metadata["width"])
        net.load_state_dict(tensors)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ExtractorError(
            f"{origin}: expected the weights of a classifier ({FORMAT}, version {FORMAT_VERSION}), "
            f"got something else: {error}"
        ) from error
    return net.eval().requires_grad_(False), metadata


def _header_metadata(content: bytes) -> dict[str, Any]:
    # safetensors reads metadata only from a path, and the file there may have changed since it was hashed.
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    metadata: dict[str, Any] = json.loads(header["__metadata__"][FORMAT])
    return metadata
