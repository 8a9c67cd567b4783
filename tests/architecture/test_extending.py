"""The additions of docs/extending.md, applied to a copy of the source, work in training, comparison and the service."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

BLOCK = re.compile(
    r"```python\n# (?P<path>\S+?)(?:, (?P<side>above|below): (?P<anchor>[^\n]+))?\n(?P<code>.*?)```", re.DOTALL
)

PROGRAM = """
import json, sys
from pathlib import Path
from fastapi.testclient import TestClient
from gan_mhe.comparison.compare import compare, read_score
from gan_mhe.config.compose import parse
from gan_mhe.records.run_dir import RunDir
from gan_mhe.run import execute
from server.app import create_app
from server import startup
from server.settings import Settings

root = Path(sys.argv[1])
for variant in ("none", "norm_spread"):
    config = parse({
        "variant": variant, "loss": "logistic", "data": {"name": "stripes"},
        "generator": {"width": 0.03125, "latent_dim": 4}, "discriminator": {"width": 0.03125},
        "training": {"steps": 2, "batch_size": 4, "device": "cpu"}, "sampling": {"num_images": 4},
        "evaluation": {"protocol": "digits-quick"},
    })
    execute(config, root / variant)
runs = [RunDir(root / variant) for variant in ("none", "norm_spread")]
scalars = {name for event in runs[1].read_events() for name in getattr(event, "values", {})}
table = compare([read_score(run) for run in runs], metric="mean_distance", reference="none")
settings = Settings(data_dir=root / "service", port=0, cpu_slots=0, cuda_slots_per_device=0, disk_reserve_bytes=0)
client = TestClient(create_app(startup.open_service(settings)), base_url="http://localhost")
catalogue = {kind: [row["name"] for row in client.get(f"/v1/{kind}").json()["data"]]
             for kind in ("variants", "protocols", "data")}
(root / "seen.json").write_text(json.dumps({
    "scalars": sorted(scalars), "rows": sorted(row.variant for row in table.rows), "catalogue": catalogue,
    "losses": client.get("/v1/losses").json(),
    "choices": client.get("/v1/schemas/config").json()["$defs"]["DataConfig"]["properties"]["name"]["enum"],
}))
"""


def insert(text: str, side: str, anchor: str, code: str) -> str:
    """`text` with `code` before or after the first line that contains `anchor`."""
    lines = text.splitlines(keepends=True)
    index = next(number for number, line in enumerate(lines) if anchor in line)
    lines.insert(index + (side == "below"), code)
    return "".join(lines)


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source with every block of the page applied."""
    copy = tmp_path_factory.mktemp("extended")
    for name in ("gan_mhe", "server", "configs"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for block in BLOCK.finditer((ROOT / "docs" / "extending.md").read_text(encoding="utf-8")):
        path = copy / block["path"]
        if block["side"] is None:
            path.write_text(block["code"], encoding="utf-8")
        else:
            path.write_text(insert(path.read_text(encoding="utf-8"), block["side"], block["anchor"], block["code"]))
    return copy


def test_every_block_of_the_page_names_a_file() -> None:
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    assert len(BLOCK.findall(page)) == page.count("```python") > 10


def test_what_the_page_adds_is_trained_with_compared_and_listed(extended: Path, tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], cwd=extended, capture_output=True, text=True, timeout=300
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert "penalty/norm_spread" in seen["scalars"]
    assert seen["rows"] == ["none + loss=logistic", "norm_spread + loss=logistic"]
    added = {"variants": "norm_spread", "protocols": "digits-quick", "data": "stripes"}
    assert [kind for kind, name in added.items() if name not in seen["catalogue"][kind]] == []
    assert "logistic" in seen["losses"] and "stripes" in seen["choices"]
