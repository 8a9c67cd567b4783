"""What rows of the tables are in Python."""

from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]
