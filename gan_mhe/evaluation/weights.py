"""Finding the weights file of a protocol's extractor, or downloading it."""

import urllib.error
from pathlib import Path

import torch

from gan_mhe.config.protocols import ProtocolSettings, classifier_file, classifier_name, protocol_settings
from gan_mhe.errors import ExtractorError


def locate_weights(name: str, *, weights: Path | None, download: bool, cache_dir: Path) -> Path:
    """The weights file of protocol `name`: `weights` if given, else the default path.

    The default is in this package, in torch hub's cache, or `cache_dir`/scorers/<name>.safetensors, as the protocol's
    settings say. Weights with a URL are downloaded to the hub's cache if they are missing and `download` is set.
    Raises ExtractorError if the file does not exist or cannot be downloaded.
    """
    settings = protocol_settings(name)
    if weights is None and settings.weights_url and download:
        _download(settings.weights_url, settings.weights_sha256)
    path, advice = _default(name, settings, cache_dir)
    chosen = path if weights is None else weights
    if not chosen.is_file():
        raise ExtractorError(
            f"evaluation.protocol {name}: the weights of its {settings.extractor} are missing, "
            f"there is no file {chosen}; {advice}"
        )
    return chosen


def _default(name: str, settings: ProtocolSettings, cache_dir: Path) -> tuple[Path, str]:
    """The default path of the weights, and advice to the user if there is no file."""
    if settings.weights_file:
        path = Path(__file__).parent / "weights" / settings.weights_file
        return path, "reinstall the package, or set evaluation.weights to a copy of the file"
    if settings.weights_url:
        advice = f"set evaluation.weights to a copy of {settings.weights_url}, or evaluation.download = true"
        return _hub_path(settings.weights_url), advice
    path = classifier_file(classifier_name(name), cache_dir)
    return path, "train it with `gan-mhe scorer train`, or set evaluation.weights to the weights of a classifier"


def _hub_path(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def _download(url: str, sha256: str) -> None:
    """Download a file to torch hub's cache unless it is there, and check the leading digits of its hash."""
    path = _hub_path(url)
    if path.exists():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), sha256, progress=False)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise ExtractorError(
            f"evaluation.download: cannot download {url} to {path}: {error}; "
            "set evaluation.weights to a copy of the file"
        ) from error
