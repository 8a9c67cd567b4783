"""Checks that a run still reads what it read before: the same images, and the same weights of its scorer."""

from collections.abc import Iterable
from pathlib import Path

from gan_mhe.config.run_config import RunConfig
from gan_mhe.errors import ConfigError
from gan_mhe.evaluation.weights import locate_weights
from gan_mhe.files import canonical_json, default_cache_dir, sha256_file
from gan_mhe.records.inputs import Inputs
from gan_mhe.records.run_dir import RunDir
from gan_mhe.tasks.gan import load_images

_WAY_OUT = "restore them, or train in another directory"


def current_inputs(config: RunConfig) -> Inputs:
    """The content that `config` names now. Reads all images; raises DataError and ExtractorError if some is missing."""
    data = load_images(config).summary.sha256
    return Inputs(data, None if config.evaluation.protocol == "none" else sha256_file(_weights_file(config)))


def check_inputs(config: RunConfig, found: Inputs, expected: Inputs, holder: str) -> None:
    """ConfigError if `found`, which `config` names now, is not what `holder`, a run or checkpoint, has read before."""
    changes = [
        f"{_name(config, key)} changed: expected SHA-256 {before}, found {now}"
        for key, (now, before) in found.differing(expected).items()
    ]
    if changes:
        raise ConfigError(f"{holder} was made with other files: {'; '.join(changes)}; {_WAY_OUT}")


def check_all(runs: Iterable[tuple[RunConfig, RunDir]]) -> None:
    """ConfigError for the first run whose files have changed. Reads each data set once, and none without a record."""
    known: dict[bytes, Inputs] = {}
    for config, run in runs:
        expected = run.read_inputs()
        if expected == Inputs():
            continue
        document = config.document()
        key = canonical_json([document["data"], document["evaluation"]])
        if key not in known:
            known[key] = current_inputs(config)
        check_inputs(config, known[key], expected, str(run.root))


def _name(config: RunConfig, key: str) -> str:
    if key == "weights_sha256":
        return f"evaluation.weights: the weights of {config.evaluation.protocol} in {_weights_file(config)}"
    if config.data.root is None:
        return f"data.name: the images of {config.data.name}"
    return f"data.root: the images of {config.data.name} in {config.data.root}"


def _weights_file(config: RunConfig) -> Path:
    settings = config.evaluation
    return locate_weights(
        settings.protocol, weights=settings.weights, download=settings.download, cache_dir=default_cache_dir()
    )
