"""All harms. Each entry makes a fresh one for one round."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from benchmarks.campaign.harms.base import Harm
from benchmarks.campaign.harms.clients import BadImports, Flood, ImportsAndAKill, SilentConnections
from benchmarks.campaign.harms.clock import ClockStep
from benchmarks.campaign.harms.database import FlippedBit, LockedDatabase, LostDatabase, LostLog, OldCopy
from benchmarks.campaign.harms.processes import Freeze, Kill, Restart
from benchmarks.campaign.harms.storage import FullDisk, ReadOnly, half_the_reserve
from benchmarks.campaign.harms.streams import RestlessReaders

_MAKERS: tuple[Callable[[], Harm], ...] = (
    partial(Kill, "trainer"),
    partial(Kill, "trainer", 3),
    partial(Kill, "supervisor"),
    partial(Kill, "server"),
    partial(Kill, "server", 4),
    partial(Kill, "everything"),
    partial(Kill, "everything", 3),
    partial(Freeze, "trainer"),
    partial(Freeze, "supervisor"),
    partial(Freeze, "server"),
    partial(Freeze, "everything"),
    Restart,
    partial(FullDisk, 0),
    half_the_reserve,
    partial(ReadOnly, "jobs"),
    partial(ReadOnly, ""),
    partial(ClockStep, 2),
    partial(ClockStep, -2),
    partial(ClockStep, 24),
    partial(ClockStep, -24),
    LockedDatabase,
    partial(LostDatabase, "deleted", True),
    partial(LostDatabase, "deleted", False),
    partial(LostDatabase, "emptied", True),
    partial(LostDatabase, "emptied", False),
    partial(LostDatabase, "renamed", True),
    LostLog,
    OldCopy,
    FlippedBit,
    RestlessReaders,
    Flood,
    SilentConnections,
    ImportsAndAKill,
    BadImports,
)

HARMS: Mapping[str, Callable[[], Harm]] = MappingProxyType({maker().name: maker for maker in _MAKERS})
"""Makers by the names of the harms."""
