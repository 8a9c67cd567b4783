"""Conversion of networks and optimizers to and from one flat mapping of named tensors."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gan_mhe.errors import CheckpointError

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def section(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries whose keys start with `prefix/`, with that prefix removed."""
    return {key.removeprefix(f"{prefix}/"): value for key, value in state.items() if key.startswith(f"{prefix}/")}


def prefixed(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Add `prefix/` to every key; inverse of `section`."""
    return {f"{prefix}/{key}": value for key, value in state.items()}


def check_sections(state: Mapping[str, Tensor], expected: set[str]) -> None:
    """Raise CheckpointError if the part of a key before the first `/` is not in `expected`."""
    if unknown := sorted({key.partition("/")[0] for key in state} - expected):
        raise CheckpointError(f"checkpoint contains {', '.join(unknown)}, which this run does not have")


def load_module(module: nn.Module, state: Mapping[str, Tensor], prefix: str) -> None:
    """Load the entries under `prefix/` into `module`. Raises CheckpointError if a key or shape does not match."""
    try:
        module.load_state_dict(section(state, prefix))
    except RuntimeError as error:
        raise CheckpointError(f"checkpoint does not fit the {prefix}: {error}") from error


def optimizer_state(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """Adam's step count and moments as `<parameter>/<moment>`; empty before the first update."""
    return {
        f"{name}/{moment}": optimizer.state[parameter][moment]
        for name, parameter in module.named_parameters()
        if parameter in optimizer.state
        for moment in _MOMENTS
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, module: nn.Module, state: Mapping[str, Tensor], prefix: str
) -> None:
    """Inverse of `optimizer_state`. Raises CheckpointError if a moment is missing, unknown or of another shape."""
    entries = section(state, prefix)
    shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
    expected = {f"{name}/{moment}" for name in shapes for moment in _MOMENTS}
    if entries and entries.keys() != expected:
        raise CheckpointError(f"checkpoint does not fit the {prefix}: keys differ: {sorted(entries.keys() ^ expected)}")
    optimizer.state.clear()
    if not entries:
        return
    for name, parameter in module.named_parameters():
        moments = {moment: entries[f"{name}/{moment}"] for moment in _MOMENTS}
        if any(moments[moment].shape != parameter.shape for moment in ("exp_avg", "exp_avg_sq")):
            raise CheckpointError(f"checkpoint does not fit the {prefix}: {name} has another shape")
        optimizer.state[parameter] = {
            "step": moments["step"].to(parameter.device, copy=True),
            "exp_avg": torch.empty_like(parameter).copy_(moments["exp_avg"]),
            "exp_avg_sq": torch.empty_like(parameter).copy_(moments["exp_avg_sq"]),
        }


def match_strides(parameter: Tensor, value: Tensor) -> Tensor:
    """`value` with the strides of `parameter`: the fused Adam kernel pairs elements by their position in memory."""
    return value if value.stride() == parameter.stride() else torch.empty_like(parameter).copy_(value)
