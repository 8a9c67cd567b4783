"""The server process that each of these tests has to itself."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server_process import PROMPT, Server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A data directory with settings that make everything fast; no server runs yet."""
    made = Server(tmp_path / "data", dict(PROMPT))
    yield made
    made.destroy()
