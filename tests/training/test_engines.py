"""All engines compute the same step."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gan_mhe.config.documents import merge
from gan_mhe.config.run_config import RunConfig
from gan_mhe.errors import ConfigError
from gan_mhe.training.engine import Compiled, CompiledGraph, CudaGraph, Engine, choose_engine
from gan_mhe.training.trainer import Trainer
from tests.support.trained import FULL, Trained, each_kind, shallow_trainer

STEPS = 20
CPU, CUDA = torch.device("cpu"), torch.device("cuda")

DOUBLE: Mapping[str, Any] = {"training": {"precision": "float64"}}


class Tape(TorchDispatchMode):
    """Records operations with the tensors they read and wrote and replays them: a stand-in for a CUDA graph.

    Like a graph, it does not see the Python code between operations and keeps every address: a tensor created by an
    operation has the same address in every replay.
    """

    def __init__(self) -> None:
        super().__init__()
        self.played: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self._made: set[int] = set()
        self._before: dict[int, tuple[Any, Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        read = tensors((args, kwargs))
        for tensor in read:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._made | self._before.keys():
                self._before[storage._cdata] = storage, storage.clone()
        result = func(*args, **(kwargs or {}))
        held = {tensor.untyped_storage()._cdata for tensor in read}
        own = [tensor for tensor in tensors(result) if tensor.untyped_storage()._cdata not in held]
        self._made |= {tensor.untyped_storage()._cdata for tensor in own}
        self.played.append((func, args, kwargs or {}, own))
        return result

    def rewind(self) -> None:
        """Restore the values from before the first operation."""
        for storage, content in self._before.values():
            storage.copy_(content)

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, own in self.played:
            result = tensors(func(*args, **kwargs))
            for place, value in zip(own, result, strict=False):
                place.copy_(value)


def tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def record(compute: Callable[[], None]) -> Callable[[], None]:
    """Record on a tape and undo all effects, because a CUDA capture executes nothing."""
    tape = Tape()
    with tape:
        compute()
    tape.rewind()
    return tape.replay


@pytest.fixture
def make(make_config: Callable[..., RunConfig], images: Tensor) -> Callable[..., Trainer]:
    """A trainer of FULL with everything in it that changes from step to step."""

    def build(variant: str, engine: Engine | None = None, **sections: Any) -> Trainer:
        return shallow_trainer(make_config(variant, **merge(FULL, sections)), images, engine)

    return build


def largest_difference(first: Trainer, second: Trainer, counts: Callable[[str], bool] = lambda name: True) -> float:
    """Largest difference of two trainers' tensors for which `counts` holds, relative to each tensor's largest entry."""
    ours, theirs = first.state(), second.state()
    assert ours.keys() == theirs.keys()
    return max(
        ((ours[name].double() - value.double()).abs().max() / value.double().abs().max().clamp(min=1e-6)).item()
        for name, value in theirs.items()
        if counts(name)
    )


def has_an_effect(name: str) -> bool:
    """Whether a tensor affects the output. A bias before a batch normalization does not, nor does the running mean that
    contains it: its gradient is rounding noise, which Adam scales up, so that it depends on the order of summation."""
    return not ("conv" in name and "bias" in name) and not name.endswith("running_mean")


@each_kind
def test_a_recorded_step_replays_to_the_bits_of_the_eager_one(
    trained: Callable[[str], Trained],
    make: Callable[..., Trainer],
    advance: Callable[..., Trainer],
    assert_same: Callable[..., None],
    variant: str,
) -> None:
    graph = CudaGraph(record=record)
    recorded = advance(make(variant, graph), range(STEPS))
    assert len(graph._graphs) == 1
    assert_same(recorded.state(), trained(variant).states[STEPS])


@each_kind
def test_a_traced_step_computes_what_the_eager_one_does(
    make: Callable[..., Trainer], advance: Callable[..., Trainer], variant: str
) -> None:
    """Everything of compilation but the code generator, which takes minutes: see the soak test."""
    traced = advance(make(variant, Compiled(backend="aot_eager"), **DOUBLE), range(8))
    assert largest_difference(traced, advance(make(variant, **DOUBLE), range(8))) < 1e-9


def test_draws_and_inner_steps_replay_to_the_bits_of_the_eager_ones(
    make: Callable[..., Trainer],
    advance: Callable[..., Trainer],
    assert_same: Callable[..., None],
    option: tuple[str, Mapping[str, Any]],
) -> None:
    variant, sections = option
    recorded = advance(make(variant, CudaGraph(record=record), **sections), range(12))
    eager = advance(make(variant, **sections), range(12))
    assert_same(recorded.state(), eager.state())


def test_draws_and_inner_steps_are_traced_as_the_eager_ones(
    make: Callable[..., Trainer], advance: Callable[..., Trainer], option: tuple[str, Mapping[str, Any]]
) -> None:
    variant, sections = option
    sections = merge(sections, DOUBLE)
    traced = advance(make(variant, Compiled(backend="aot_eager"), **sections), range(8))
    assert largest_difference(traced, advance(make(variant, **sections), range(8))) < 1e-9


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "variant",
    ["batch_norm", "comhe_angle", "gan_gp", "half_angular_mhe", "mgd", "mhe_sn", "sphere_conv", "weight_norm"],
)
def test_a_compiled_step_computes_what_the_eager_one_does(
    make: Callable[..., Trainer], advance: Callable[..., Trainer], variant: str
) -> None:
    compiled = advance(make(variant, Compiled(), **DOUBLE), range(STEPS))
    eager = advance(make(variant, **DOUBLE), range(STEPS))
    assert largest_difference(compiled, eager, has_an_effect) < 1e-9


def test_a_penalty_with_an_interval_has_a_graph_for_either_kind_of_step(
    make: Callable[..., Trainer], advance: Callable[..., Trainer], assert_same: Callable[..., None]
) -> None:
    sections = {"constraints": {"mhe": {"interval": 3}}}
    graph = CudaGraph(record=record)
    recorded = advance(make("mhe_sn", graph, **sections), range(STEPS))
    assert set(graph._graphs) == {("mhe",), ()}
    assert_same(recorded.state(), advance(make("mhe_sn", **sections), range(STEPS)).state())


def test_loading_a_state_discards_the_graph(
    make: Callable[..., Trainer], advance: Callable[..., Trainer], assert_same: Callable[..., None]
) -> None:
    eager = advance(make("mhe_sn"), range(8))
    graph = CudaGraph(record=record)
    resumed = advance(make("mhe_sn", graph), range(6))
    resumed.load_state(eager.state())
    assert not graph._graphs
    advance(resumed, range(8, STEPS))
    assert graph._graphs
    assert_same(resumed.state(), advance(eager, range(8, STEPS)).state())


def test_the_step_that_is_captured_after_compilation_is_the_compiled_one(
    make: Callable[..., Trainer], advance: Callable[..., Trainer]
) -> None:
    # A tape cannot stand in for the graph here: PyTorch runs no compiled code in a dispatch mode.
    graph = CompiledGraph(backend="aot_eager", record=lambda compute: compute)
    captured = advance(make("mhe", graph, **DOUBLE), range(8))
    assert set(graph._graphs) == {("mhe",)}
    assert largest_difference(captured, advance(make("mhe", **DOUBLE), range(8))) < 1e-9


@pytest.mark.parametrize(
    ("engine", "variant"),
    [(lambda: Compiled(backend="aot_eager"), "spectral_norm"), (lambda: CudaGraph(record=record), "mhe_sn")],
    ids=["compiled", "cuda_graph"],
)
def test_a_run_started_with_one_engine_continues_with_another(
    make: Callable[..., Trainer], advance: Callable[..., Trainer], engine: Callable[[], Engine], variant: str
) -> None:
    first = advance(make(variant, engine()), range(10))
    second = make(variant)
    second.load_state(first.state())
    advance(second, range(10, STEPS))
    third = make(variant, engine())
    third.load_state(advance(make(variant), range(10)).state())
    advance(third, range(10, STEPS))
    unbroken = advance(make(variant), range(STEPS))
    assert largest_difference(second, unbroken) < 1e-4
    assert largest_difference(third, unbroken) < 1e-4


def fail(compute: Callable[[], None]) -> Callable[[], None]:
    raise RuntimeError("operation not permitted when stream is capturing")


def test_a_step_that_cannot_be_captured_falls_back_to_eager_if_the_engine_is_auto(
    make: Callable[..., Trainer], advance: Callable[..., Trainer], assert_same: Callable[..., None]
) -> None:
    trainer = make("mhe_sn", CudaGraph("auto: fast", required=False, record=fail))
    assert trainer.engine.description == "engine cuda_graph: auto: fast"
    advance(trainer, range(6))
    assert trainer.engine.description.startswith(
        "engine eager: auto: the step could not be captured as a CUDA graph: operation not"
    )
    assert_same(trainer.state(), advance(make("mhe_sn"), range(6)).state())


def test_a_step_that_cannot_be_captured_is_an_error_if_the_engine_is_cuda_graph(
    make: Callable[..., Trainer], advance: Callable[..., Trainer]
) -> None:
    with pytest.raises(RuntimeError, match="not permitted"):
        advance(make("none", CudaGraph(record=fail)), range(6))


@pytest.mark.parametrize(("name", "device", "expected"), [
    ("auto", CPU, "eager"), ("auto", CUDA, "cuda_graph"), ("eager", CUDA, "eager"), ("compiled", CPU, "compiled"),
    ("cuda_graph", CUDA, "cuda_graph"), ("compiled_graph", CUDA, "compiled_graph"),
])  # fmt: skip
def test_the_engine_is_the_configured_one_or_the_fastest_of_the_device(
    name: Any, device: torch.device, expected: str
) -> None:
    engine = choose_engine(name, "float32", device)
    assert engine.name == expected
    assert engine.reason.startswith("auto: " if name == "auto" else "as configured")


@pytest.mark.parametrize("name", ["cuda_graph", "compiled_graph"])
def test_a_cuda_graph_is_refused_on_a_cpu(name: Any) -> None:
    with pytest.raises(ConfigError, match=rf"training.engine: {name} needs a CUDA device, got cpu"):
        choose_engine(name, "float32", CPU)


@pytest.mark.parametrize("name", ["compiled", "compiled_graph"])
def test_compilation_is_refused_where_tf32_would_reach_the_penalties(name: Any) -> None:
    with pytest.raises(ConfigError, match=r"training.engine: a compiled step .*tf32"):
        choose_engine(name, "tf32", CUDA)


def test_compilation_is_refused_where_pytorch_cannot_trace_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._dynamo, "config", object())
    with pytest.raises(ConfigError, match=r"training.engine: a compiled step needs a newer PyTorch"):
        choose_engine("compiled", "float32", CPU)
