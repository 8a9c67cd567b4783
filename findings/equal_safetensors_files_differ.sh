#!/usr/bin/env bash
# safetensors writes metadata of several keys in an order that changes from process to process.
#
# Date: 2026-11-28
# Version: safetensors 0.8.0, through safetensors.numpy
# Behavior: the same tensors and the same metadata, saved by several processes, give files with different bytes, so that a
#   checkpoint's hash says nothing about its equality, and a cache or an artifact store keeps each copy. The tensors
#   keep their order; only the keys of `__metadata__` move. With one key the files are equal: put everything into it as
#   JSON.
# Seen: of 12 files with five keys at least two differ; of 12 files with one key none; all headers are equal as JSON.
# Guess that misses: a format made for safe and simple files writes equal content as equal bytes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet safetensors==0.8.0 numpy
cd "$folder"
cat > write.py <<'PY'
import sys

import numpy
from safetensors.numpy import save_file

tensors = {"weight": numpy.zeros(3, "float32"), "bias": numpy.ones(2, "float32")}
keys = ("format", "step", "seed", "digest", "variant")[: int(sys.argv[1])]
save_file(tensors, sys.argv[2], metadata={key: key for key in keys})
PY
for number in $(seq 12); do
    "$folder/venv/bin/python" write.py 5 "many_$number.safetensors"
    "$folder/venv/bin/python" write.py 1 "one_$number.safetensors"
done
seen=$("$folder/venv/bin/python" - <<'PY'
import json
from pathlib import Path


def header(content):
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


for kind in ("many", "one"):
    contents = [path.read_bytes() for path in sorted(Path().glob(f"{kind}_*"))]
    equal = all(header(content) == header(contents[0]) for content in contents)
    order = len({tuple(key for key in header(content) if key != "__metadata__") for content in contents})
    print(f"{kind}: bytes differ {len(set(contents)) > 1}, headers equal {equal}, orders of tensors {order}")
PY
)
echo "$seen"
[ "$seen" = "many: bytes differ True, headers equal True, orders of tensors 1
one: bytes differ False, headers equal True, orders of tensors 1" ]
