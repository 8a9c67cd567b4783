"""TensorBoard and MLflow in environments and processes of their own, with the same values and grids as our page."""

import array
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2

from benchmarks.page import data
from benchmarks.page.beside import Subject

PACKAGES = {"tensorboard": "tensorboard==2.21.0", "mlflow": "mlflow==3.17.2"}
_HERE = Path(__file__).parent
_START_SECONDS = 120


def write_source(folder: Path) -> None:
    """Write the values and the grids as files that the peers' own scripts read."""
    (folder / "grids").mkdir(parents=True)
    (folder / "values.bin").write_bytes(array.array("d", (value for _, value in data.values())).tobytes())
    for step in data.grid_steps():
        (folder / "grids" / f"{step}.png").write_bytes(data.picture(step))


def install(root: Path, name: str) -> Path:
    """Make an environment with a peer; returns its folder of programs."""
    folder = root / name / "environment"
    venv.create(folder, with_pip=True)
    programs = folder / "bin"
    subprocess.run([programs / "pip", "install", "--quiet", PACKAGES[name]], check=True)
    return programs


@contextmanager
def tensorboard(root: Path, source: Path) -> Iterator[Subject]:
    """Run TensorBoard with its own defaults on one run: it has no list of runs apart from the charts."""
    programs = install(root, "tensorboard")
    logs = root / "tensorboard" / "logs"
    subprocess.run([programs / "python", _HERE / "fill_tensorboard.py", source, logs], check=True)
    port = _free_port()
    command = [str(programs / "tensorboard"), "--logdir", str(logs), "--port", str(port)]
    address = f"http://127.0.0.1:{port}"
    with _running(command, root / "tensorboard.log"):
        # It serves at once and reads meanwhile.
        images = f"{address}/data/plugin/images/images?tag=samples&run=run&sample=0"
        _wait(lambda: httpx2.get(images).json()[-1]["step"] == data.POINTS)
        yield Subject(
            name=PACKAGES["tensorboard"],
            runs=None,
            run=f"{address}/#timeseries",
            # Its data table has the newest step once the series is there; the canvas belongs to a worker.
            curve="document.querySelector('scalar-card')?.textContent.includes('1,000,000')",
            slider="image-card input[type=range]",
            image="image-card img",
            back="ArrowLeft",  # it begins with the newest grid
        )


@contextmanager
def mlflow(root: Path, source: Path) -> Iterator[Subject]:
    """Run an MLflow server of one process on SQLite, with as many runs as our page has jobs."""
    programs = install(root, "mlflow")
    folder = root / "mlflow"
    database = folder / "database.sqlite"
    port = _free_port()
    address = f"http://127.0.0.1:{port}"
    places = ["--backend-store-uri", f"sqlite:///{database}", "--artifacts-destination", str(folder / "artifacts")]
    command = [str(programs / "mlflow"), "server", *places, "--port", str(port), "--workers", "1"]
    with _running(command, root / "mlflow.log"):
        _wait(lambda: httpx2.get(f"{address}/health").is_success)
        filled = subprocess.run(
            [programs / "python", _HERE / "fill_mlflow.py", source, address, database, str(data.JOBS)],
            check=True,
            capture_output=True,
            text=True,
        )
        experiment, run = filled.stdout.splitlines()[-1].split()
        page = f"{address}/#/experiments/{experiment}/runs/{run}/model-metrics"
        yield Subject(
            name=PACKAGES["mlflow"],
            runs=f"{address}/#/experiments/{experiment}/runs",
            rows="[...document.querySelectorAll('a')].filter((link) => /^run \\d/.test(link.textContent)).length >= 50",
            run=page,
            curve="[...document.querySelectorAll('.js-plotly-plot .js-line')]"
            ".some((line) => line.getAttribute('d')?.length > 500)",
            slider="[role=slider]",
            image="img[src*='get-artifact']",
            back="ArrowRight",  # it begins with the first grid
        )


@contextmanager
def _running(command: list[str], log: Path) -> Iterator[None]:
    with open(log, "wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _wait(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        try:
            if ready():
                return
        except (httpx2.HTTPError, ValueError, LookupError):
            pass
        time.sleep(0.5)
    sys.exit(f"a peer did not start within {_START_SECONDS} s")
