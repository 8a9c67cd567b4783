#!/usr/bin/env bash
# The transcript of docs/tutorial.md: an experiment of two variants and two seeds with curl alone. Prints each command.
# Usage: docs/tutorial.sh [SERVER] [FOLDER FOR THE IMAGES]
set -euo pipefail
server=${1:-http://127.0.0.1:8000}
folder=${2:-.}

run() {
    printf '$ %s\n' "$1"
    eval "$1"
    printf '\n'
}

field() { python3 -c 'import json, sys; print(eval("d" + sys.argv[1], {"d": json.load(sys.stdin)}))' "$1"; }

run "curl -s $server/v1/experiments -H 'Content-Type: application/json' -H 'Idempotency-Key: first-look' -d '{
    \"preset\": \"digits_cnn\", \"name\": \"first look\",
    \"matrix\": {\"variant\": [\"spectral_norm\", \"mhe_sn\"], \"seed\": [0, 1]},
    \"overrides\": {\"training.steps\": 600, \"sampling.every_steps\": 100}}' > $folder/experiment.json"
experiment=$(field '["id"]' < "$folder/experiment.json")
job=$(field '["cells"][1]["job_id"]' < "$folder/experiment.json")

run "curl -sN '$server/v1/stream?experiment=$experiment' | grep --line-buffered '^event: ' | sort | uniq -c"
run "curl -sL $server/v1/jobs/$job/samples/latest -o $folder/grid.png"
run "curl -s '$server/v1/jobs/$job/samples/animation?format=webp&fps=4' -o $folder/animation.webp"

checkpoint=$(curl -s "$server/v1/jobs/$job/checkpoints" | field '["data"][-1]["id"]')
for file in one two; do
    run "curl -s $server/v1/checkpoints/$checkpoint/samples -H 'Content-Type: application/json' -H 'Prefer: wait=60' \\
    -d '{\"n\": 64, \"seed\": 7, \"format\": \"png\"}' > $folder/task-$file.json"
    url=$(field '["result"]["url"]' < "$folder/task-$file.json")
    run "curl -s $server$url -o $folder/fresh-$file.png"
done
run "sha256sum $folder/fresh-one.png $folder/fresh-two.png"
run "curl -s '$server/v1/compare?experiment=$experiment&reference=spectral_norm&format=markdown'"
