"""Time of a training step against an ordinary loop and against the machine's limits, and MHE's share of it.

    python -m benchmarks.step [--rounds 7] [--batch 64] [--width 1.0] [--out FILE.json]
    python -m benchmarks.step --profile

Every arm is a process of its own, with its own allocator and settings, started once. The parent runs them in turn,
A B C A B C, each for one block of steps of about 1.5 seconds, while the others wait. Ratios are computed within a
round, so that a change in the machine's speed affects both sides, and reported as median, lowest and highest.

Ours is `Trainer` driven as a run drives it, without the reports of every 50th step. Plain is `plain.py`.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.machine import Cost, ceilings, cost, describe, has_bf16_instructions, synchronize
from benchmarks.plain import LATENT_DIM, PlainLoop
from gan_mhe.config.run_config import RunConfig
from gan_mhe.errors import GanMheError
from gan_mhe.files import write_json
from gan_mhe.training.precision import resolve_device
from gan_mhe.training.trainer import Trainer

IMAGES = 10_000
RECIPE_STEPS = 200_000
LAZY = 4  # generator steps between two computations of MHE in the lazy arms
BLOCK_SECONDS = 1.5
_ROOT = Path(__file__).parents[1]
_LEAST_INTERVALS = 3  # in a block of a lazy arm
_RECORDED_AT = 5  # steps of each set of due penalties until the GPU's last graph is recorded and replayed
SIZE_OF_GOALS = (1.0, 64)  # width and batch size
CEILING_OF = {"bf16": "bfloat16", "float32": "float32", "tf32": "tf32"}

_STATISTICS = ("median", "min", "max")

Step = Callable[[], object]
Seconds = Mapping[str, Sequence[float]]  # seconds of a step, by arm and round


class Goal(NamedTuple):
    """figure: a key of `figures`; its median must be at least (or at most) `bound`."""

    figure: str
    at_least: bool
    bound: float


_SHARES = {"mhe_share_{}": 0.08, f"mhe_share_{{}}_interval_{LAZY}": 0.03}
CPU_GOALS = (
    Goal("speedup_bf16", True, 2.5),
    Goal("speedup_float32", True, 1.3),
    *(Goal(name.format(p), False, bound) for p in ("bf16", "float32") for name, bound in _SHARES.items()),
    *(Goal(f"fraction_of_ceiling_{p}", True, 0.6) for p in ("bf16", "float32")),
)
CUDA_GOALS = (
    Goal("speedup_bf16", True, 5.0),
    Goal("milliseconds_bf16", False, 1.5),
    Goal("mhe_share_bf16", False, 0.10),
    Goal(f"mhe_share_bf16_interval_{LAZY}", False, 0.03),
    Goal("fraction_of_ceiling_bf16", True, 0.25),
    Goal("recipe_minutes_bf16", False, 6.0),
)


# --- arms


@dataclass(frozen=True)
class Arm:
    """One way to run a step. precision: None for the plain loop. interval: generator steps between uses of MHE."""

    precision: str | None
    mhe: bool = True
    interval: int = 1
    engine: str = "auto"

    @property
    def name(self) -> str:
        """Its name in results: plain_mhe_sn, ours_bf16_mhe_sn_interval_4, ours_tf32_mhe_sn_eager."""
        return "_".join(
            [
                f"ours_{self.precision}" if self.precision else "plain",
                "mhe_sn" if self.mhe else "spectral_norm",
                *([f"interval_{self.interval}"] if self.interval > 1 else []),
                *([self.engine] if self.engine != "auto" else []),
            ]
        )


@dataclass(frozen=True)
class Setup:
    """The settings that all arms share. block_seconds: least length of a timed block."""

    device: str
    batch: int
    width: float
    threads: int
    block_seconds: float = BLOCK_SECONDS


def precisions(device: torch.device) -> tuple[str, ...]:
    """The precisions that a run on the device would choose from; bf16 only if it is not emulated."""
    fast = ("bf16",) if has_bf16_instructions(device) else ()
    return (*fast, "tf32" if device.type == "cuda" else "float32")


def arms(device: torch.device) -> list[Arm]:
    """The plain arms first, then ours; on CUDA every engine too."""
    chosen = [Arm(None), Arm(None, mhe=False)]
    for precision in precisions(device):
        chosen += [Arm(precision), Arm(precision, mhe=False), Arm(precision, interval=LAZY)]
        if device.type == "cuda":
            chosen += [Arm(precision, engine=engine) for engine in ("eager", "compiled", "cuda_graph")]
    return chosen


def configuration(arm: Arm, setup: Setup) -> RunConfig:
    """The configuration of the arm's steps: the published networks, synthetic images of 32 x 32."""
    mhe = {"mhe": {"interval": arm.interval}} if arm.mhe else {}
    return RunConfig.model_validate(
        {
            "variant": "mhe_sn" if arm.mhe else "spectral_norm",
            "data": {"name": "synthetic", "image_size": 32},
            "generator": {"architecture": "cnn", "width": setup.width, "latent_dim": LATENT_DIM},
            "discriminator": {"architecture": "cnn_official", "width": setup.width},
            "constraints": mhe,
            "training": {
                "steps": RECIPE_STEPS,
                "batch_size": setup.batch,
                "precision": arm.precision,
                "engine": arm.engine,
                "device": setup.device,
            },
            "evaluation": {"protocol": "none"},
        }
    )


def make_step(arm: Arm, setup: Setup) -> Step:
    """A function that runs the next step. Raises ConfigError or DeviceError if this machine cannot run the arm."""
    device = torch.device(setup.device)
    stream = torch.Generator().manual_seed(0)
    images = torch.randint(256, (IMAGES, 3, 32, 32), dtype=torch.uint8, generator=stream)
    if arm.precision is None:
        return PlainLoop(images, setup.batch, device, mhe=arm.mhe, width=setup.width).step
    trainer = Trainer(configuration(arm, setup), images, device)
    numbers = itertools.count()

    def step() -> None:
        trainer.set_step(next(numbers))
        trainer.step()

    return step


# --- processes


def serve(arm: Arm, setup: Setup) -> None:
    """Run an arm's process: one JSON line when ready or refused, then one per line "go": the seconds of a step."""
    torch.set_num_threads(setup.threads)
    device = torch.device(setup.device)
    try:
        step = make_step(arm, setup)
        for _ in range(arm.interval * (_RECORDED_AT if device.type == "cuda" else 1)):
            step()
    # The compiler needs tools, such as a C compiler, that a machine may lack.
    except (GanMheError, torch._dynamo.exc.TorchDynamoException) as error:
        _answer({"refused": str(error).strip().partition("\n")[0]})
        return
    block(step, arm.interval, setup)  # to warm up
    _answer({"refused": None})
    for line in sys.stdin:
        if line.strip() == "go":
            _answer({"seconds": block(step, arm.interval, setup)})


def block(step: Step, interval: int, setup: Setup) -> dict[str, float]:
    """Seconds of a step by suffix of the arm's name, over whole intervals, for at least `block_seconds`.

    The mean of all steps. A lazy arm reports two medians instead: steps that compute MHE (`_due`) and the others
    (`_other`), which are so close in time that the machine's speed is the same for both.
    """
    device = torch.device(setup.device)
    taken: list[float] = []
    synchronize(device)
    began = time.perf_counter()
    while (
        len(taken) < (interval > 1) * _LEAST_INTERVALS * interval or time.perf_counter() - began < setup.block_seconds
    ):
        for _ in range(interval):
            before = time.perf_counter()
            step()
            if interval > 1:
                synchronize(device)
            taken.append(time.perf_counter() - before)
    synchronize(device)  # a GPU may lag behind: that lengthens the block, not the mean
    if interval == 1:
        return {"": (time.perf_counter() - began) / len(taken)}
    others = [seconds for number, seconds in enumerate(taken) if number % interval]
    return {"_due": statistics.median(taken[::interval]), "_other": statistics.median(others)}


def _answer(message: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


class ArmProcess:
    """The parent's side of an arm. refused: why this machine cannot run it, or None."""

    def __init__(self, arm: Arm, process: "subprocess.Popen[str]") -> None:
        self.arm = arm
        self._process = process
        self.refused: str | None = self._read()["refused"]

    def block(self) -> dict[str, float]:
        """Seconds of a step in one block, as the function `block` returns them."""
        self.begin()
        return self.finish()

    def begin(self) -> None:
        """Let the process run one block, without waiting for it."""
        assert self._process.stdin, "started with a pipe"
        with suppress(BrokenPipeError):  # reading shows what happened to the process
            os.write(self._process.stdin.fileno(), b"go\n")  # a buffer would be written again on close

    def finish(self) -> dict[str, float]:
        """What the block that `begin` started measured. RuntimeError if the process has ended."""
        seconds: dict[str, float] = self._read()["seconds"]
        return seconds

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout, "started with a pipe"
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"arm {self.arm.name} ended with exit status {self._process.wait()} without an answer")
        message: dict[str, Any] = json.loads(line)
        return message


@contextmanager
def started(arm: Arm, setup: Setup) -> Iterator[ArmProcess]:
    """Run the arm's process, warmed up, until the end of the `with` block. RuntimeError if it cannot start."""
    command = [sys.executable, "-m", "benchmarks.step", "--arm", json.dumps([asdict(arm), asdict(setup)])]
    # OpenMP reads its number of threads when it is loaded, before torch can set it.
    environment = os.environ | {"OMP_NUM_THREADS": str(setup.threads)}
    with subprocess.Popen(
        command, cwd=_ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        yield ArmProcess(arm, process)


# --- measurement


def measure(rounds: int, *, batch: int = 64, width: float = 1.0) -> dict[str, Any]:
    """Measure everything; JSON values: machine, ceilings, seconds by arm, costs of a step, figures, goals.

    Uses all cores, one process per arm, and about rounds x arms x 1.5 seconds after the processes have started.
    """
    device = resolve_device("auto")
    setup = Setup(str(device), batch, width, threads=len(os.sched_getaffinity(0)))
    torch.set_num_threads(setup.threads)
    with ExitStack() as stack:
        processes = []
        for arm in arms(device):
            say(f"starting {arm.name}")
            processes.append(stack.enter_context(started(arm, setup)))
        seconds, best = _take_turns(processes, rounds, device)
    costs = {arm.name: step_cost(arm, setup) for arm in arms(device) if arm.engine == "auto" and arm.interval == 1}
    found = figures(seconds, costs, best)
    return {
        "machine": describe(device),
        "setup": asdict(setup) | {"rounds": rounds, "images": IMAGES},
        "ceilings": best,
        "seconds_per_step": {arm: summary(values) for arm, values in seconds.items()},
        "seconds_by_round": seconds,
        "refused": {process.arm.name: process.refused for process in processes if process.refused},
        "cost_per_step": {arm: asdict(each) for arm, each in costs.items()},
        "figures": found,
        "goals": [verdict(goal, found, setup) for goal in (CUDA_GOALS if device.type == "cuda" else CPU_GOALS)],
    }


def _take_turns(
    processes: Sequence[ArmProcess], rounds: int, device: torch.device
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of a step by arm and round, and the best ceilings, which are measured in every round too."""
    seconds: dict[str, list[float]] = {}
    best: dict[str, float] = {}
    for number in range(rounds):
        for name, value in ceilings(device).items():
            best[name] = max(value, best.get(name, 0.0))
        for process in processes:
            for suffix, value in {} if process.refused else process.block().items():
                seconds.setdefault(process.arm.name + suffix, []).append(value)
        say(f"round {number + 1} of {rounds} done")
    return seconds, best


def step_cost(arm: Arm, setup: Setup) -> Cost:
    """Operations and bytes of one step with every penalty due, run eagerly in this process."""
    step = make_step(Arm(arm.precision, arm.mhe, engine="eager"), setup)
    step()  # creates Adam's moments
    return cost(step)


# --- figures


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return dict(zip(_STATISTICS, (statistics.median(values), min(values), max(values)), strict=True))


def figures(seconds: Seconds, costs: Mapping[str, Cost], best: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Figures derived from times, costs and ceilings: computed within each round, then summarized over the rounds.

    With t(arm) the time of a step:

        speedup_P              t(plain_mhe_sn) / t(ours_P_mhe_sn), P a precision; speedup_P_ENGINE by engine;
                               speedup_P_without_mhe the same of the two spectral_norm arms
        mhe_share_P            1 - t(other) / t(due), of steps without and with MHE of one process, which runs it at
                               interval 4; mhe_share_P_interval_4 = (t(due) - t(other)) / (t(due) + 3 t(other));
                               mhe_share_plain from the plain loop's two arms
        fraction_of_ceiling_P  operations of a step per second / those of the best square product in P
        fraction_of_copy_P     bytes of a step per second / those of the best copy; above 1 if caches help
        milliseconds_P         1000 t(ours_P_mhe_sn)
        recipe_minutes_P       t(ours_P_mhe_sn) of 200,000 steps, extrapolated

    Figures of missing arms are left out. best: GFLOP/s and GB/s, as `machine.ceilings` gives them.
    """
    found = {"mhe_share_plain": _share(seconds, "plain_spectral_norm", "plain_mhe_sn")}
    for precision, ceiling in CEILING_OF.items():
        ours = f"ours_{precision}_mhe_sn"
        if ours not in seconds:
            continue
        without, lazy = f"ours_{precision}_spectral_norm", f"{ours}_interval_{LAZY}"
        flops, moved = costs[ours].flops, costs[ours].bytes
        found |= {
            f"speedup_{precision}": _ratio(seconds, "plain_mhe_sn", ours),
            f"speedup_{precision}_without_mhe": _ratio(seconds, "plain_spectral_norm", without),
            f"mhe_share_{precision}": _share(seconds, f"{lazy}_other", f"{lazy}_due"),
            f"mhe_share_{precision}_interval_{LAZY}": _lazy_share(seconds[f"{lazy}_due"], seconds[f"{lazy}_other"]),
            f"fraction_of_ceiling_{precision}": summary([flops / t / 1e9 / best[ceiling] for t in seconds[ours]]),
            f"fraction_of_copy_{precision}": summary([moved / t / 1e9 / best["copy"] for t in seconds[ours]]),
            f"milliseconds_{precision}": summary([1000 * t for t in seconds[ours]]),
            f"recipe_minutes_{precision}": summary([RECIPE_STEPS * t / 60 for t in seconds[ours]]),
        }
        engines = (name for name in ("eager", "compiled", "cuda_graph") if f"{ours}_{name}" in seconds)
        found |= {f"speedup_{precision}_{name}": _ratio(seconds, "plain_mhe_sn", f"{ours}_{name}") for name in engines}
    return found


def _ratio(seconds: Seconds, slow: str, fast: str) -> dict[str, float]:
    return summary([one / other for one, other in zip(seconds[slow], seconds[fast], strict=True)])


def _share(seconds: Seconds, without: str, whole: str) -> dict[str, float]:
    return summary([1 - one / other for one, other in zip(seconds[without], seconds[whole], strict=True)])


def _lazy_share(due: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    return summary([(one - rest) / (one + (LAZY - 1) * rest) for one, rest in zip(due, other, strict=True)])


def verdict(goal: Goal, found: Mapping[str, Mapping[str, float]], setup: Setup) -> dict[str, Any]:
    """The goal, the median beside it, "met", "missed" or "n/a", and why it does not apply, if so."""
    value, why = None, None
    if goal.figure not in found:
        outcome, why = "n/a", "this device has no bf16 instructions"
    else:
        value = found[goal.figure]["median"]
        outcome = "met" if (value >= goal.bound if goal.at_least else value <= goal.bound) else "missed"
    if (setup.width, setup.batch) != SIZE_OF_GOALS:
        outcome, why = "n/a", "goals are for width {} and batch {}".format(*SIZE_OF_GOALS)
    return goal._asdict() | {"value": value, "verdict": outcome, "why": why}


# --- output


def say(text: str) -> None:
    """Print progress to standard error, apart from the result."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def show(measured: Mapping[str, Any], console: Console) -> None:
    """Print tables of times and of figures beside their goals, then ceilings and costs."""
    machine, setup = measured["machine"], measured["setup"]
    named = machine["device_name"] if setup["device"].startswith("cuda") else machine["cpu_model"]
    console.print(
        f"{named}, {setup['threads']} threads, torch {machine['packages']['torch']}, "
        f"batch {setup['batch']}, width {setup['width']}, {setup['rounds']} rounds"
    )
    console.print(_times_table(measured))
    console.print(_figures_table(measured))
    for arm, why in measured["refused"].items():
        console.print(f"{arm}: {why}")
    for why in dict.fromkeys(goal["why"] for goal in measured["goals"] if goal["why"]):
        console.print(f"n/a: {why}")
    for name, value in measured["ceilings"].items():
        console.print(f"ceiling {name}: {value:.0f} {'GB/s' if name == 'copy' else 'GFLOP/s'}")
    for name, each in measured["cost_per_step"].items():
        console.print(f"{name}: {each['flops'] / 1e9:.1f} GFLOP, {each['bytes'] / 1e9:.2f} GB a step")


def _times_table(measured: Mapping[str, Any]) -> Table:
    table = Table("milliseconds a step", *_STATISTICS, box=box.SIMPLE)
    for name, each in measured["seconds_per_step"].items():
        table.add_row(name, *(f"{1000 * each[key]:.2f}" for key in _STATISTICS))
    return table


def _figures_table(measured: Mapping[str, Any]) -> Table:
    table = Table("figure", *_STATISTICS, "goal", "verdict", box=box.SIMPLE)
    goals = {goal["figure"]: goal for goal in measured["goals"]}
    for name in dict.fromkeys([*measured["figures"], *goals]):
        each, goal = measured["figures"].get(name), goals.get(name)
        numbers = [_short(each[key]) for key in _STATISTICS] if each else ["-"] * len(_STATISTICS)
        verdict = [f"{'>=' if goal['at_least'] else '<='} {goal['bound']:g}", goal["verdict"]] if goal else []
        table.add_row(name, *numbers, *verdict)
    return table


def _short(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"


def profile(batch: int, width: float) -> str:
    """The 15 most expensive operations of one step of ours, in the fastest precision, as a table."""
    device = resolve_device("auto")
    setup = Setup(str(device), batch, width, threads=len(os.sched_getaffinity(0)))
    torch.set_num_threads(setup.threads)
    step = make_step(Arm(precisions(device)[0]), setup)
    for _ in range(_RECORDED_AT):
        step()
    synchronize(device)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        step()
        synchronize(device)
    order = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
    return str(profiler.key_averages().table(sort_by=order, row_limit=15, max_name_column_width=60))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    parser.add_argument("--profile", action="store_true", help="instead, show what one step spends its time on")
    parser.add_argument("--arm", help=argparse.SUPPRESS)  # an arm's own process
    options = parser.parse_args()
    for name, low, high in (("rounds", 1, 1000), ("batch", 2, IMAGES), ("width", 0.01, 16)):
        value = getattr(options, name)
        if not low <= value <= high:
            parser.error(f"--{name}: expected {low} to {high}, got {value}")
    return options


def main() -> None:
    """Measure, print, and write to `--out` if given."""
    options = _options()
    if options.arm:
        arm, setup = json.loads(options.arm)
        serve(Arm(**arm), Setup(**setup))
    elif options.profile:
        sys.stdout.write(profile(options.batch, options.width))
    else:
        measured = measure(options.rounds, batch=options.batch, width=options.width)
        if options.out:
            write_json(options.out, measured)
        show(measured, Console())


if __name__ == "__main__":
    main()
