#!/usr/bin/env bash
# PyTorch: making any optimizer, or importing torchvision, loads the whole compiler, though nothing is compiled.
#
# Date: 2026-11-28
# Version: torch 2.15.0 and torchvision 0.29.2, on a machine without a GPU
# Behavior: `import torch` loads no compiler. The first torch.optim.SGD(...) or Adam(...) imports torch._dynamo, and with it
#   torch._inductor, sympy and triton, because Optimizer.add_param_group is decorated to be skipped by the compiler and the
#   decorator imports it at the first call; TORCH_COMPILE_DISABLE=1 changes nothing. `import torchvision` does the same at
#   once, through an operator of its detection models. torch.nn, autograd and torch.save load none of it.
# Seen: "import torch: -", "backward pass: -", "SGD: torch._dynamo torch._inductor sympy triton",
#   "SGD, compiler disabled: torch._dynamo torch._inductor sympy triton",
#   "import torchvision: torch._dynamo torch._inductor sympy triton"; more than 800 modules and 100 MiB of memory in a
#   process that had about 1,200 and 500, and 1.8 s of processor time after 2.3 s for torch itself.
# Guess that misses: a program that never calls torch.compile does not pay for it. A process per run pays each time.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 torchvision==0.29.2 numpy
cd "$folder"
cat > look.py <<'PY'
import resource
import sys

COMPILER = ("torch._dynamo", "torch._inductor", "sympy", "triton")


def memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def report(what: str) -> None:
    print(f"{what}: {' '.join(name for name in COMPILER if name in sys.modules) or '-'}")


import torch

if sys.argv[1] == "import torchvision":
    import torchvision

    report(sys.argv[1])
    raise SystemExit
if sys.argv[1] == "SGD":
    report("import torch")
    weight = torch.nn.Parameter(torch.zeros(3))
    torch.nn.functional.relu(weight).sum().backward()
    report("backward pass")
modules, before = len(sys.modules), memory()
torch.optim.SGD([torch.nn.Parameter(torch.zeros(3))], lr=0.1)
report(sys.argv[1])
added = len(sys.modules) - modules, memory() - before
print("%d modules, %d MiB" % added, file=sys.stderr)
assert added[0] > 800 and added[1] > 100, added
PY
seen=$(
    "$folder/venv/bin/python" look.py SGD
    TORCH_COMPILE_DISABLE=1 "$folder/venv/bin/python" look.py "SGD, compiler disabled"
    "$folder/venv/bin/python" look.py "import torchvision"
)
echo "$seen"
[ "$seen" = "import torch: -
backward pass: -
SGD: torch._dynamo torch._inductor sympy triton
SGD, compiler disabled: torch._dynamo torch._inductor sympy triton
import torchvision: torch._dynamo torch._inductor sympy triton" ]
