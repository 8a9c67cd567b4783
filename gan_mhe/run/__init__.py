"""One training run: execution, and images and scores from its checkpoints.

`execute` is imported on first use, so that importing `run.control` does not load torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gan_mhe.run.loop import execute

__all__ = ["execute"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gan_mhe.run import loop

    return getattr(loop, name)
