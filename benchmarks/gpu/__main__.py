"""Measure the project on one GPU within a budget of time, most valuable results first.

    python -m benchmarks.gpu --budget 520 --out DIR [--data CIFAR10] [--weights FILE]
    python -m benchmarks.gpu --budget 60 --out DIR --device cpu --tiny

Each stage writes DIR/STAGE.jsonl, one result a line. The same command again measures what is missing. The package is
imported from the folder where the command is run; `python -m benchmarks.gpu.requirements` lists the dependencies that a
machine lacks. CIFAR10 is an image folder, or an archive of one, with `train/CLASS/*`; without it there is no table of
variants.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.gpu import (
    agreement,
    compilation,
    concurrency,
    memory,
    numerics,
    scores,
    speed,
    variants_table,
)
from benchmarks.gpu.kit import Setup, Stage, run_stage, run_stages
from benchmarks.machine import describe
from gan_mhe.files import write_json

STAGES = {
    stage.name: stage
    for stage in (
        Stage("agreement", 75, agreement.run),
        Stage("numerics", 20, numerics.run),
        Stage("memory", 20, memory.run),
        Stage("speed", 75, speed.run),
        Stage("concurrency", 45, concurrency.run),
        Stage("scores", 40, scores.run),
        Stage("variants", None, variants_table.run),
        Stage("compilation", None, compilation.run),
    )
}


def main() -> None:
    """Run all stages, or with `--stage` one, in the process that a stage has to itself."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=520, metavar="SECONDS", help="time for everything")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the results")
    parser.add_argument("--data", type=Path, metavar="CIFAR10", help="image folder, or archive of one")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="classifier of CIFAR-10; trained if missing")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="smallest sizes: does the kit work?")
    parser.add_argument("--only", choices=list(STAGES), action="append", help="run this stage alone; may be repeated")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        name, seconds, setup = json.loads(options.stage)
        run_stage(STAGES[name], seconds, Setup(**setup))
        return
    if options.out is None:
        parser.error("--out is missing; expected a folder for the results")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this machine has no CUDA device that torch can use; expected --device cpu --tiny")
    for name in ("data", "weights"):
        path = getattr(options, name)
        if path is not None and not path.exists():
            parser.error(f"--{name}: there is no {path}")
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    paths = {name: str(path.resolve()) if (path := getattr(options, name)) else None for name in ("data", "weights")}
    setup = Setup(options.device, options.tiny, str(out), **paths)
    write_json(out / "machine.json", {"machine": describe(torch.device(options.device)), "setup": asdict(setup)})
    stages = {name: stage for name, stage in STAGES.items() if not options.only or name in options.only}
    run_stages(stages, setup, options.budget)


if __name__ == "__main__":
    main()
