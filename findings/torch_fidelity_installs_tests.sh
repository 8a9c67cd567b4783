#!/usr/bin/env bash
# torch-fidelity 0.4.0 installs a second top-level package, `tests`, beside `torch_fidelity`.
#
# Date: 2026-11-28
# Behavior: the wheel lists `tests` among its top-level packages. In an environment that has it, `import tests` succeeds
#   in any directory without a `tests` of its own, and a helper process that imports `tests.support` before the project's
#   root is on sys.path gets torch-fidelity's package, keeps it in sys.modules, and then fails with
#   "No module named 'tests.support'" even after the path was corrected.
# Seen: top-level packages "tests torch_fidelity"; `tests/tf1` and `tests/torch_pure` among the installed folders.
# Guess that misses: a library of metrics installs one package, under its own name.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-deps torch-fidelity==0.4.0
cd "$folder"
seen=$("$folder/venv/bin/python" - <<'PY'
import importlib.metadata
import tests

top = sorted({str(path).split("/")[0] for path in importlib.metadata.files("torch-fidelity") if str(path).endswith(".py")})
folders = {path.parts[1] for path in importlib.metadata.files("torch-fidelity") if path.parts[0] == "tests" and len(path.parts) > 2}
print(*top, "tf1" in folders and "torch_pure" in folders, "site-packages" in tests.__file__)
PY
)
echo "$seen"
[ "$seen" = "tests torch_fidelity True True" ]
