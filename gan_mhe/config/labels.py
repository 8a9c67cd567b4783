"""Labels that say in which settings a configuration differs from what its variant is."""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from gan_mhe.config.sections import Section
from gan_mhe.files import sha256_bytes

_UNSAFE = re.compile(r"[^A-Za-z0-9._=+-]+")
_LONGEST = 120  # letters of a folder's name, of the 255 that file systems allow


def labeled(name: str, settings: Iterable[str]) -> str:
    """A name with settings, such as `none + constraints.normalization=spectral`; the name alone without any."""
    added = list(settings)
    if not added:
        return name
    return f"{name}{', ' if ' + ' in name else ' + '}{', '.join(added)}"


def folder_name(name: str, settings: Iterable[str]) -> str:
    """A name with settings as the name of a folder; names that differ stay different.

    What shells or file systems could act on is replaced, long names are cut, and the name then ends in a hash.
    """
    whole = "+".join([name, *settings])
    safe = _UNSAFE.sub("_", whole)[:_LONGEST]
    return safe if safe == whole else f"{safe}-{sha256_bytes(whole.encode())[:8]}"


def setting(key: str, value: Any) -> str:
    """One setting such as `loss=hinge`; None, an absent section, is `none`."""
    if value is None or isinstance(value, str):
        return f"{key}={value or 'none'}"
    whole = isinstance(value, float) and value.is_integer()
    return f"{key}={json.dumps(int(value) if whole else value)}"


def deviations(mine: Section, base: Section, keys: Sequence[str], prefix: str = "") -> list[str]:
    """The settings of `mine` under `keys` that differ from `base`.

    A section that `base` lacks is given by what differs from its defaults, or by its name if nothing does.
    """
    found: list[str] = []
    for key in keys:
        own, other, dotted = getattr(mine, key), getattr(base, key, None), f"{prefix}{key}"
        if own == other:
            continue
        if not isinstance(own, Section):
            found.append(setting(dotted, own))
            continue
        plain = other if isinstance(other, Section) else type(own).model_construct()  # required fields have no value
        found += deviations(own, plain, list(type(own).model_fields), f"{dotted}.") or [dotted]
    return found
