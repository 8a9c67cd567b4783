"""Four ways to execute the same step, with equal results up to rounding.

    eager           operation by operation from Python; the reference in the tests
    compiled        the gradients of both networks, including gradient penalties, as compiled functions
    cuda_graph      the whole step, including the optimizers, captured once on the GPU and replayed with one launch
    compiled_graph  the compiled step, captured; not measured on a GPU

All execute `Trainer._compute`, which has no arguments and no result: everything that changes from step to step is in
tensors with fixed addresses. The set of due penalties changes the computation itself, so each set has its own graph.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal, ParamSpec, Protocol, TypeVar

import torch

from gan_mhe.errors import ConfigError

EngineName = Literal["auto", "eager", "compiled", "cuda_graph", "compiled_graph"]
Compute = Callable[[], None]
Due = tuple[str, ...]
P = ParamSpec("P")
T = TypeVar("T")

_WARM_UP = 3  # eager steps before a capture: libraries choose algorithms and optimizers allocate their state in them


class Engine(Protocol):
    """Executes a step. name: the engine in use; reason: why it was chosen."""

    name: str
    reason: str

    @property
    def description(self) -> str:
        """The engine and the reason for it, as a line for people."""

    def prepare(self, function: Callable[P, T]) -> Callable[P, T]:
        """The function that the step calls in place of `function`, which maps tensors to tensors."""

    def run(self, compute: Compute, due: Due) -> None:
        """Execute one step. due: names of the penalties that are due."""

    def reset(self) -> None:
        """Discard captured graphs, because tensors of the step have new addresses."""


class Eager:
    """Executes the step operation by operation."""

    name = "eager"

    def __init__(self, reason: str = "as configured") -> None:
        self.reason = reason

    @property
    def description(self) -> str:
        return f"engine {self.name}: {self.reason}"

    def prepare(self, function: Callable[P, T]) -> Callable[P, T]:
        return function

    def run(self, compute: Compute, due: Due) -> None:
        compute()

    def reset(self) -> None:
        pass


class Compiled(Eager):
    """Compiles the gradients with torch.compile, once per set of due penalties; a compilation takes about a minute."""

    name = "compiled"

    def __init__(self, reason: str = "as configured", *, backend: str = "inductor") -> None:
        super().__init__(reason)
        self._backend = backend
        # torch.compile counts recompilations per code object, across trainers, and stops compiling after eight.
        torch._dynamo.reset()

    def prepare(self, function: Callable[P, T]) -> Callable[P, T]:
        return _compiled(function, self._backend)

    def run(self, compute: Compute, due: Due) -> None:
        with _gradients_traced():
            compute()


def _compiled(function: Callable[P, T], backend: str) -> Callable[P, T]:
    compiled: Callable[P, T] = torch.compile(function, fullgraph=True, dynamic=False, backend=backend)
    return compiled


def _gradients_traced() -> AbstractContextManager[None]:
    """Context of calls of compiled functions: they call torch.autograd.grad, which is traced only with this option."""
    dynamo: Any = torch._dynamo.config
    patched: AbstractContextManager[None] = dynamo.patch(trace_autograd_ops=True)
    return patched


class CudaGraph(Eager):
    """Captures the step as a CUDA graph after a few eager steps and replays it from then on.

    record: captures a computation without executing it and returns a function that replays it. required: whether an
    error of `record` is raised; otherwise the run continues eagerly, and `description` gives the error.
    """

    name = "cuda_graph"

    def __init__(
        self,
        reason: str = "as configured",
        *,
        required: bool = True,
        record: Callable[[Compute], Compute] | None = None,
    ) -> None:
        super().__init__(reason)
        self._required = required
        self._record = record or _record_on_cuda
        self._eager_steps: dict[Due, int] = {}
        self._graphs: dict[Due, Compute] = {}

    def run(self, compute: Compute, due: Due) -> None:
        if due not in self._graphs:
            if self._eager_steps.setdefault(due, 0) < _WARM_UP:
                self._eager_steps[due] += 1
                compute()
                return
            self._graphs[due] = self._record_or_fall_back(compute)
        self._graphs[due]()

    def _record_or_fall_back(self, compute: Compute) -> Compute:
        try:
            return self._record(compute)
        except RuntimeError as error:  # an operation that cannot be captured, or not enough memory for the graph
            if self._required:
                raise
            self.name, self.reason = "eager", f"auto: the step could not be captured as a CUDA graph: {error}"
            return compute

    def reset(self) -> None:
        self._eager_steps.clear()
        self._graphs.clear()


class CompiledGraph(CudaGraph):
    """Captures the compiled step. The eager steps before the capture compile it."""

    name = "compiled_graph"

    def __init__(
        self,
        reason: str = "as configured",
        *,
        backend: str = "inductor",
        record: Callable[[Compute], Compute] | None = None,
    ) -> None:
        super().__init__(reason, record=record)
        self._backend = backend
        torch._dynamo.reset()  # as in Compiled

    def prepare(self, function: Callable[P, T]) -> Callable[P, T]:
        return _compiled(function, self._backend)

    def run(self, compute: Compute, due: Due) -> None:
        with _gradients_traced():
            super().run(compute, due)


def _record_on_cuda(compute: Compute) -> Compute:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        compute()
    return graph.replay


def choose_engine(name: EngineName, precision: str, device: torch.device) -> Engine:
    """The engine `name`; for `auto` the fastest one that works on the device.

    Raises ConfigError for a graph without a CUDA device, for compilation with precision tf32, and for compilation with
    a version of PyTorch that does not support it.
    """
    cuda = device.type == "cuda"
    match name:
        case "auto" if cuda:
            reason = "auto: kernel launches limit small networks on a GPU, and a replayed graph needs one per step"
            return CudaGraph(reason, required=False)
        case "auto":
            return Eager("auto: on a CPU compilation takes about a minute and saves at most 10 % per step")
        case "eager":
            return Eager()
        case "compiled":
            _check_compiled(precision)
            return Compiled()
        case "cuda_graph" | "compiled_graph":
            if not cuda:
                raise ConfigError(f"training.engine: {name} needs a CUDA device, got {device.type}")
            if name == "cuda_graph":
                return CudaGraph()
            _check_compiled(precision)
            return CompiledGraph()


def _check_compiled(precision: str) -> None:
    if precision == "tf32":
        raise ConfigError(
            "training.engine: a compiled step cannot disable tf32 for the penalties; "
            "expected training.precision float32 or bf16, or another engine"
        )
    if not hasattr(torch._dynamo.config, "trace_autograd_ops"):
        raise ConfigError(
            f"training.engine: a compiled step needs a newer PyTorch, got {torch.__version__}; use another engine"
        )
