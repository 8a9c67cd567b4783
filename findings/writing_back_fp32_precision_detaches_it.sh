#!/usr/bin/env bash
# PyTorch's fp32_precision settings: writing back the value that was read changes what a later general setting does.
#
# Date: 2026-11-28
# Version: torch 2.15.0, on a machine without a GPU
# Behavior: torch.backends.cuda.matmul.fp32_precision and its relatives return a resolved value when read, not their own.
#   A context manager that saves the value, sets another, and writes the saved value back gives the setting a value of its
#   own: from then on torch.backends.fp32_precision = "ieee" leaves it at tf32. For products, writing "none" makes the
#   setting follow again. For cuDNN's convolutions nothing does: they read tf32 in a fresh process and follow a general
#   setting, after "none" they read none, which is full precision, and no write brings the initial state back.
# Seen: "untouched: conv tf32 -> ieee", "written back: conv tf32 -> tf32", "none: conv none -> ieee",
#   "products that followed tf32, written back: tf32 -> tf32, after none: ieee".
# Guess that misses: `before = x.fp32_precision; ...; x.fp32_precision = before` leaves everything as it was.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 numpy
cd "$folder"
cat > conv.py <<'PY'
import sys
import torch

conv = torch.backends.cudnn.conv
if sys.argv[1] == "written back":
    conv.fp32_precision = conv.fp32_precision
elif sys.argv[1] == "none":
    conv.fp32_precision = "none"
before = conv.fp32_precision
torch.backends.fp32_precision = "ieee"
print(f"{sys.argv[1]}: conv {before} -> {conv.fp32_precision}")
PY
cat > products.py <<'PY'
import torch

products = torch.backends.cuda.matmul
torch.backends.fp32_precision = "tf32"
before = products.fp32_precision
products.fp32_precision = before
torch.backends.fp32_precision = "ieee"
pinned = products.fp32_precision
products.fp32_precision = "none"
print(f"products that followed tf32, written back: {before} -> {pinned}, after none: {products.fp32_precision}")
PY
seen=$(
    for state in untouched "written back" none; do "$folder/venv/bin/python" conv.py "$state"; done
    "$folder/venv/bin/python" products.py
)
echo "$seen"
[ "$seen" = "untouched: conv tf32 -> ieee
written back: conv tf32 -> tf32
none: conv none -> ieee
products that followed tf32, written back: tf32 -> tf32, after none: ieee" ]
