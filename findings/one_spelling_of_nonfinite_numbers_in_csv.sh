#!/usr/bin/env bash
# Of the usual spellings of NaN and infinity in CSV, one pair alone is numeric in DuckDB, polars, pandas and Arrow.
#
# Date: 2026-11-28
# Versions: duckdb 2.0.1, polars 2.1.0, pandas 3.1.1, pyarrow 26.0.1
# Behavior: a column of losses in which a run diverged stays numeric in all four only as `NaN` with `inf` and `-inf`.
#   Python's and C's own spelling `nan`, and `Infinity`, as JavaScript, Java and Python's json module write it, turn the
#   whole column into text in polars. `NAN` does so in pandas and polars. Nothing warns; sorting is then alphabetical.
#   DuckDB holds NaN for the largest of all numbers, above infinity, so that max() of the column is NaN.
# Seen: "numeric everywhere: NaN/inf", "polars reads text: nan/inf nan/Infinity NaN/Infinity NAN/inf NAN/Infinity",
#   "pandas reads text: NAN/inf NAN/Infinity", "duckdb max: nan".
# Guess that misses: what printf and repr write, nan and inf, is read back as numbers by every tool.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet duckdb==2.0.1 polars==2.1.0 pandas==3.1.1 pyarrow==26.0.1
cd "$folder"
seen=$("$folder/venv/bin/python" - <<'PY'
import duckdb
import pandas
import polars
import pyarrow.csv

text = {"polars": [], "pandas": [], "duckdb": [], "arrow": []}
everywhere = []
for nan in ("nan", "NaN", "NAN"):
    for inf in ("inf", "Infinity"):
        with open("losses.csv", "w") as file:
            file.write(f"step,loss\n1,0.5\n2,{nan}\n3,{inf}\n4,-{inf}\n")
        numeric = {
            "polars": polars.read_csv("losses.csv").schema["loss"].is_numeric(),
            "pandas": pandas.api.types.is_numeric_dtype(pandas.read_csv("losses.csv")["loss"]),
            "duckdb": duckdb.sql("select typeof(loss) from 'losses.csv' limit 1").fetchall()[0][0] == "DOUBLE",
            "arrow": str(pyarrow.csv.read_csv("losses.csv").schema.field("loss").type) == "double",
        }
        for tool, is_numeric in numeric.items():
            if not is_numeric:
                text[tool].append(f"{nan}/{inf}")
        if all(numeric.values()):
            everywhere.append(f"{nan}/{inf}")
            largest = duckdb.sql("select max(loss) from 'losses.csv'").fetchall()[0][0]
print("numeric everywhere:", *everywhere)
for tool in ("polars", "pandas"):
    print(f"{tool} reads text:", *text[tool])
print("duckdb max:", largest)
PY
)
echo "$seen"
[ "$seen" = "numeric everywhere: NaN/inf
polars reads text: nan/inf nan/Infinity NaN/Infinity NAN/inf NAN/Infinity
pandas reads text: NAN/inf NAN/Infinity
duckdb max: nan" ]
