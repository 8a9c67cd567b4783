"""API keys: `gk_<prefix>_<secret>`. Only the prefix and a SHA-256 of the secret are stored.

Secrets have 256 random bits and are generated here only, so they cannot be guessed and a fast hash is enough.
"""

import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, select, update

from gan_mhe import text
from gan_mhe.files import sha256_bytes
from server.clock import now_ms
from server.errors import FieldError, InvalidRequest, NotFound
from server.settings import MOST_PRIORITY
from server.store import tables
from server.store.rows import KeyRow, ListedKeyRow, fetch_all, fetch_one
from server.store.store import Store

SCOPES = ("jobs:read", "jobs:write", "samples:read", "artifacts:read", "admin")
DEFAULT_PROJECT = "default"

_keys = tables.api_keys
_TOKEN = re.compile(r"gk_([a-z0-9]{12})_([A-Za-z0-9_-]{43})")
_PROJECT = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
_MAX_NAME = 100
_MOST_COUNT = 2**31 - 1


@dataclass(frozen=True)
class KeyLimits:
    """Limits of one key in place of the operator's settings; None: the setting holds.

    max_priority: of the jobs that it submits or changes, -10 to 10. max_queued_jobs: waiting jobs of its project, at
    which it can add none, at least 1. max_streams: event streams open at a time, at least 1.
    """

    max_priority: int | None = None
    max_queued_jobs: int | None = None
    max_streams: int | None = None


def create(store: Store, name: str, project: str, scopes: Sequence[str], limits: KeyLimits | None = None) -> str:
    """Create a key and return its token, which cannot be shown again.

    Spaces around the name are removed. Raises InvalidRequest for an unknown scope or an invalid name, project or limit.
    """
    limits = limits or KeyLimits()
    _check(name, project, scopes, limits)
    prefix = "".join(secrets.choice(_ALPHABET) for _ in range(12))
    secret = secrets.token_urlsafe(32)
    values = {
        "prefix": prefix,
        "secret_sha256": sha256_bytes(secret.encode()),
        "name": text.name(name),
        "project": project,
        "scopes": sorted(set(scopes)),
        "created_at": now_ms(),
        **asdict(limits),
    }
    store.write(lambda connection: connection.execute(_keys.insert().values(values)))
    return f"gk_{prefix}_{secret}"


def _check(name: str, project: str, scopes: Sequence[str], limits: KeyLimits) -> None:
    errors = [
        FieldError("/scopes", "unknown_scope", f"unknown scope {scope!r}; expected some of {', '.join(SCOPES)}")
        for scope in scopes
        if scope not in SCOPES
    ]
    if not scopes:
        errors.append(FieldError("/scopes", "missing", f"scopes: expected at least one of {', '.join(SCOPES)}"))
    errors += _name_errors(name)
    if not _PROJECT.fullmatch(project):
        expected = "1 to 64 lower-case letters, digits, '-' and '_', beginning with a letter or digit"
        errors.append(FieldError("/project", "project", f"project: expected {expected}, got {project!r}"))
    errors += _limit_errors(limits)
    if errors:
        raise InvalidRequest(*errors)


def _limit_errors(limits: KeyLimits) -> list[FieldError]:
    errors = []
    priority = limits.max_priority
    if priority is not None and not -MOST_PRIORITY <= priority <= MOST_PRIORITY:
        expected = f"{-MOST_PRIORITY} to {MOST_PRIORITY}"
        errors.append(FieldError("/max_priority", "out_of_range", f"max_priority: expected {expected}, got {priority}"))
    for name, count in (("max_queued_jobs", limits.max_queued_jobs), ("max_streams", limits.max_streams)):
        if count is not None and not 1 <= count <= _MOST_COUNT:
            message = f"{name}: expected 1 to {_MOST_COUNT}, got {count}"
            errors.append(FieldError(f"/{name}", "out_of_range", message))
    return errors


def _name_errors(name: str) -> list[FieldError]:
    if not 1 <= len(name) <= _MAX_NAME:
        return [FieldError("/name", "name", f"name: expected 1 to {_MAX_NAME} characters, got {name!r}")]
    try:
        text.name(name)
    except ValueError as error:
        return [FieldError("/name", "name", f"name: {error}")]
    return []


def listing(store: Store) -> list[ListedKeyRow]:
    """Return all keys without their secrets, oldest first, including revoked ones."""
    shown = [column for column in _keys.c if column.name != "secret_sha256"]
    query = select(*shown).order_by(_keys.c.created_at, _keys.c.prefix)
    return store.read(lambda connection: fetch_all(connection, query, ListedKeyRow))


def revoke(store: Store, prefix: str) -> None:
    """Revoke a key from the next request on; its open streams end at their next ping.

    Revoking it again changes nothing. Raises NotFound if there is none.
    """

    def work(connection: Connection) -> None:
        if connection.execute(select(_keys.c.prefix).where(_keys.c.prefix == prefix)).first() is None:
            raise NotFound(f"there is no key {prefix!r}")
        usable = (_keys.c.prefix == prefix, _keys.c.revoked_at.is_(None))
        connection.execute(update(_keys).where(*usable).values(revoked_at=now_ms()))

    store.write(work)


def verify(connection: Connection, token: str) -> KeyRow | None:
    """Return the key of a token, or None if the token is malformed, unknown, wrong or revoked."""
    parts = _TOKEN.fullmatch(token)
    if parts is None:
        return None
    prefix, secret = parts.groups()
    row = fetch_one(connection, select(_keys).where(_keys.c.prefix == prefix), KeyRow)
    stored = "" if row is None else row["secret_sha256"]
    if not hmac.compare_digest(stored, sha256_bytes(secret.encode())):
        return None
    return None if row is None or row["revoked_at"] is not None else row


def usable(connection: Connection, prefix: str) -> KeyRow | None:
    """Return the key with this prefix, or None if there is none or it is revoked."""
    row = fetch_one(connection, select(_keys).where(_keys.c.prefix == prefix), KeyRow)
    return None if row is None or row["revoked_at"] is not None else row


def exist(connection: Connection) -> bool:
    """Return whether a key was ever created. Revoked ones count, or revoking the last key would open the service."""
    return connection.execute(select(_keys.c.prefix).limit(1)).first() is not None
