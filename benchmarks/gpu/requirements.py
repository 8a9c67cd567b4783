"""List the project's dependencies that the present interpreter lacks or has in another version.

    python -m benchmarks.gpu.requirements

Needs the standard library alone, so that it runs on a machine with nothing installed. Packages that are only missing
can be carried there as wheels.
"""

import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

# What the kit and `import gan_mhe` need; the service's own dependencies are not used.
NEEDED = ("numpy", "pillow", "pydantic", "rich", "safetensors", "scikit-learn", "scipy", "torch", "torch-fidelity",
          "torchvision", "typer")  # fmt: skip
PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def missing(requirements: list[str], needed: tuple[str, ...] = NEEDED) -> list[str]:
    """`NAME: installed version (or absent), expected RANGE` for each needed requirement that is not met."""
    found = []
    for requirement in requirements:
        name, _, expected = re.fullmatch(r"([\w.-]+)(\[[\w,-]+\])?(.*)", requirement).groups()
        if name not in needed:
            continue
        version = _version(name)
        if version is None or not all(_meets(version, bound) for bound in expected.split(",")):
            found.append(f"{name}: {version or 'absent'}, expected {expected}")
    return found


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _meets(version: str, bound: str) -> bool:
    operator, limit = re.fullmatch(r"(>=|<)([\d.]+)", bound).groups()
    have, want = (tuple(map(int, re.match(r"\d+(\.\d+)*", text)[0].split("."))) for text in (version, limit))
    return have >= want if operator == ">=" else have < want


def main() -> None:
    """Print the list; exit status 1 unless it is empty."""
    lines = missing(tomllib.loads(PROJECT.read_text())["project"]["dependencies"])
    sys.stdout.write("".join(f"{line}\n" for line in lines) or "nothing is missing\n")
    sys.exit(1 if lines else 0)


if __name__ == "__main__":
    main()
