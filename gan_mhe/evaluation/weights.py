"""Where an extractor's weights come from, and the hashes they must have."""

import urllib.error
from pathlib import Path

import torch
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

from gan_mhe.errors import ScorerError
from gan_mhe.evaluation.classifier_net import SCORER_NET
from gan_mhe.evaluation.protocol import classifier_name, protocol_settings

# The shipped scorer: train_scorer on the digits with width 0.1875, 100 epochs, seed 0. Training it on another
# processor gives other last bits, hence another hash and other fingerprints: the file is shipped, not made.
DIGITS_SHA256 = "ceb29dcfa245304846075799e3d4a0546cc73e3bdbf4d18c8526ce33646e33d8"
INCEPTION_SHA256 = "6726825d"  # the eight leading digits that torch-fidelity's file name promises


def locate_weights(name: str, *, weights: Path | None, download: bool, cache_dir: Path) -> Path:
    """The weights file of protocol `name`: `weights` if given, else its usual place.

    The shipped scorer lies in this package, Inception in torch hub's cache (fetched there, its hash checked,
    only if `download`), `classifier:<name>` in `cache_dir`/scorers/<name>.safetensors. Raises ScorerError
    where there is no such file.
    """
    settings = protocol_settings(name)
    if name == "digits-v1":
        place = Path(__file__).parent / "weights" / "digits-v1.safetensors"
        ways = "install the package again, or set evaluation.weights to a copy of the file"
    elif settings.extractor == SCORER_NET:
        place = cache_dir / "scorers" / f"{classifier_name(name)}.safetensors"
        ways = "train it there with `gan-mhe scorer train`, or set evaluation.weights to a scorer file"
    else:
        place = Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rpartition("/")[2]
        ways = f"set evaluation.weights to a copy of {URL_INCEPTION_V3}, or evaluation.download = true"
        if weights is None and download and not place.exists():
            _download_inception(place)
    chosen = place if weights is None else weights
    if not chosen.is_file():
        raise ScorerError(
            f"evaluation.protocol {name}: the weights of its {settings.extractor} are missing, "
            f"there is no file {chosen}; {ways}"
        )
    return chosen


def _download_inception(place: Path) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(URL_INCEPTION_V3, str(place), INCEPTION_SHA256, progress=False)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise ScorerError(
            f"evaluation.download: cannot fetch {URL_INCEPTION_V3} to {place}: {error}; "
            "set evaluation.weights to a copy of the file"
        ) from error
