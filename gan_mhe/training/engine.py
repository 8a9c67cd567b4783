"""Three ways to run the same step, with the same result to rounding.

    eager       operation by operation from Python; what the tests compare the others with
    compiled    both networks' gradients as compiled functions, those of gradient penalties included
    cuda_graph  the whole step, optimisers included, recorded once on the GPU and replayed with one launch

All run `Trainer._compute`, which takes nothing and returns nothing: what changes from step to step lies in tensors
that keep their addresses. Which penalties are due changes the computation itself, so a graph is kept for each such set.
"""

from collections.abc import Callable
from typing import Any, Literal, ParamSpec, Protocol, TypeVar

import torch

from gan_mhe.errors import ConfigError

EngineName = Literal["auto", "eager", "compiled", "cuda_graph"]
Compute = Callable[[], None]
Due = tuple[str, ...]
P = ParamSpec("P")
T = TypeVar("T")

_WARM_UP = 3  # real steps before a capture: in them libraries choose algorithms and optimisers make their state


class Engine(Protocol):
    """How a step is executed."""

    name: str
    why: str

    @property
    def note(self) -> str:
        """Which engine this is, and why, for people."""

    def prepare(self, function: Callable[P, T]) -> Callable[P, T]:
        """What the step is to call instead of `function`, which takes and gives tensors."""

    def run(self, compute: Compute, due: Due) -> None:
        """Compute one step in which the penalties `due` are due."""

    def forget(self) -> None:
        """Drop what was recorded: tensors of the step now lie elsewhere."""


class Eager:
    """Operation by operation."""

    name = "eager"

    def __init__(self, why: str = "as configured") -> None:
        self.why = why

    @property
    def note(self) -> str:
        return f"engine {self.name}: {self.why}"

    def prepare(self, function: Callable[P, T]) -> Callable[P, T]:
        return function

    def run(self, compute: Compute, due: Due) -> None:
        compute()

    def forget(self) -> None:
        pass


class Compiled(Eager):
    """Gradients by torch.compile, once for each set of due penalties; each compilation takes a minute or so."""

    name = "compiled"

    def __init__(self, why: str = "as configured", *, backend: str = "inductor") -> None:
        super().__init__(why)
        self._backend = backend
        # The compiler counts what it compiled by code, not by trainer, and gives up after the eighth.
        torch._dynamo.reset()

    def prepare(self, function: Callable[P, T]) -> Callable[P, T]:
        compiled: Callable[P, T] = torch.compile(function, fullgraph=True, dynamic=False, backend=self._backend)
        return compiled

    def run(self, compute: Compute, due: Due) -> None:
        dynamo: Any = torch._dynamo.config
        # Gradients are taken inside what is compiled, which the compiler follows only when told to.
        with dynamo.patch(trace_autograd_ops=True):
            compute()


class CudaGraph(Eager):
    """The step is recorded after a few real ones, and replayed from then on.

    record: takes a computation, leaves no trace of it, and returns what performs it. required: raise what it raises;
    otherwise the run goes on eagerly, and `note` says so.
    """

    name = "cuda_graph"

    def __init__(
        self,
        why: str = "as configured",
        *,
        required: bool = True,
        record: Callable[[Compute], Compute] | None = None,
    ) -> None:
        super().__init__(why)
        self._required = required
        self._record = record or _record_on_cuda
        self._warm: dict[Due, int] = {}
        self._graphs: dict[Due, Compute] = {}

    def run(self, compute: Compute, due: Due) -> None:
        if due not in self._graphs:
            if self._warm.setdefault(due, 0) < _WARM_UP:
                self._warm[due] += 1
                compute()
                return
            self._graphs[due] = self._recorded(compute)
        self._graphs[due]()

    def _recorded(self, compute: Compute) -> Compute:
        try:
            return self._record(compute)
        except RuntimeError as error:  # an operation that cannot be captured, or too little memory for the graph
            if self._required:
                raise
            self.name, self.why = "eager", f"auto: no CUDA graph could be made of the step: {error}"
            return compute

    def forget(self) -> None:
        self._warm.clear()
        self._graphs.clear()


def _record_on_cuda(compute: Compute) -> Compute:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        compute()
    return graph.replay


def choose_engine(name: EngineName, precision: str, device: torch.device) -> Engine:
    """The engine called `name`; for `auto` the fastest that is valid on the device.

    Raises ConfigError for cuda_graph without a CUDA device, for compiled with precision tf32, and for compiled where
    this version of PyTorch cannot.
    """
    cuda = device.type == "cuda"
    match name:
        case "auto" if cuda:
            why = "auto: small networks on a GPU are bound by launches, and a replayed graph has one a step"
            return CudaGraph(why, required=False)
        case "auto":
            return Eager("auto: on a CPU compilation takes about a minute and gains a tenth at most")
        case "eager":
            return Eager()
        case "compiled":
            _check_compiled(precision)
            return Compiled()
        case "cuda_graph":
            if not cuda:
                raise ConfigError(f"training.engine: cuda_graph needs a CUDA device, but this run is on {device.type}")
            return CudaGraph()


def _check_compiled(precision: str) -> None:
    if precision == "tf32":
        raise ConfigError(
            "training.engine: compiled cannot switch tf32 off for the penalties; "
            "expected precision float32 or bf16, or another engine"
        )
    if not hasattr(torch._dynamo.config, "trace_autograd_ops"):
        raise ConfigError(
            f"training.engine: compiled needs a newer PyTorch than {torch.__version__}; use another engine"
        )
