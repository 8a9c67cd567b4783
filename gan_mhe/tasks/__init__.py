"""The tasks that a run can train, by name."""

from collections.abc import Mapping
from types import MappingProxyType

from gan_mhe.tasks.base import TaskConstructor
from gan_mhe.tasks.gan import GanTask

TASKS: Mapping[str, TaskConstructor] = MappingProxyType({"gan": GanTask})
"""How each task of `gan_mhe.config.names.TASKS` is built."""
