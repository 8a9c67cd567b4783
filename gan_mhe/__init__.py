"""Train GANs whose discriminators are regularized on the hypersphere, and compare them over training seeds.

    RunConfig    configuration of a run                              gan_mhe.config.run_config.RunConfig
    VARIANTS     the named variants                                  gan_mhe.variants.VARIANTS
    train        train a configuration in a run directory            gan_mhe.run.loop.execute
    sample       generate images from a checkpoint of a run          gan_mhe.run.sample.generate
    score        score a checkpoint of a run                         gan_mhe.run.score.score_checkpoint
    compare      compare the scores of runs by variant               gan_mhe.comparison.compare.compare

`sample` and `score` take a `gan_mhe.records.run_dir.RunDir`, `compare` takes the results of
`gan_mhe.comparison.compare.read_score`. Each name is imported on first use: importing this package loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gan_mhe.version import __version__

if TYPE_CHECKING:
    from gan_mhe.comparison.compare import compare
    from gan_mhe.config.run_config import RunConfig
    from gan_mhe.run.loop import execute as train
    from gan_mhe.run.sample import generate as sample
    from gan_mhe.run.score import score_checkpoint as score
    from gan_mhe.variants import VARIANTS

__all__ = ["VARIANTS", "RunConfig", "__version__", "compare", "sample", "score", "train"]

_SOURCES = {
    "RunConfig": ("gan_mhe.config.run_config", "RunConfig"),
    "VARIANTS": ("gan_mhe.variants", "VARIANTS"),
    "compare": ("gan_mhe.comparison.compare", "compare"),
    "sample": ("gan_mhe.run.sample", "generate"),
    "score": ("gan_mhe.run.score", "score_checkpoint"),
    "train": ("gan_mhe.run.loop", "execute"),
}


def __getattr__(name: str) -> Any:
    if name not in _SOURCES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _SOURCES[name]
    return getattr(import_module(module), attribute)
