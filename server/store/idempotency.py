"""Requests that are done once however often they come: the answer is kept in the transaction of the work itself.

Only the answers of work that was done are kept. A request that failed changed nothing and may simply be sent again.
Two requests with one key at the same time are put in order by the store's one writer; the second gets the first's
answer.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, delete, select

from server.clock import now_ms
from server.errors import IdempotencyMismatch
from server.store import tables
from server.store.store import Store

KEPT_MS = 24 * 3600 * 1000

_keys = tables.idempotency_keys


@dataclass(frozen=True)
class Call:
    """A request as far as it must be the same to be the same. key: None where the client sent none."""

    owner: str
    method: str
    path: str
    key: str | None
    body_sha256: str


@dataclass(frozen=True)
class Answer:
    """What is sent back. body: a JSON document; replayed: whether it was made by an earlier request."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)
    replayed: bool = False


def run(store: Store, call: Call, work: Callable[[Connection], Answer]) -> Answer:
    """Do `work` in one transaction, or give the answer it had when this call came before.

    Raises IdempotencyMismatch when the key came with another body, and whatever `work` raises.
    """

    def once(connection: Connection) -> Answer:
        if call.key is None:
            return work(connection)
        before = _kept(connection, call)
        if before is not None:
            return before
        answer = work(connection)
        _keep(connection, call, answer)
        return answer

    return store.write(once, name="submit")


def kept(store: Store, call: Call) -> Answer | None:
    """The answer this call had when it came before; for work that is costly to prepare.

    Raises IdempotencyMismatch when the key came with another body.
    """
    return store.read(lambda connection: _kept(connection, call)) if call.key is not None else None


def _kept(connection: Connection, call: Call) -> Answer | None:
    same = (
        _keys.c.created_at >= _oldest(),
        _keys.c.owner == call.owner,
        _keys.c.method == call.method,
        _keys.c.path == call.path,
        _keys.c.key == call.key,
    )
    row = connection.execute(select(_keys).where(*same)).mappings().one_or_none()
    if row is None:
        return None
    if row["body_sha256"] != call.body_sha256:
        raise IdempotencyMismatch(f"the Idempotency-Key {call.key!r} came before with another request")
    return Answer(row["status"], json.loads(row["body"]), row["headers"], replayed=True)


def _oldest() -> int:
    return now_ms() - KEPT_MS


def _keep(connection: Connection, call: Call, answer: Answer) -> None:
    values = {
        "owner": call.owner,
        "method": call.method,
        "path": call.path,
        "key": call.key,
        "body_sha256": call.body_sha256,
        "status": answer.status,
        "headers": dict(answer.headers),
        "body": json.dumps(answer.body),
        "created_at": now_ms(),
    }
    connection.execute(delete(_keys).where(_keys.c.created_at < _oldest()))
    connection.execute(_keys.insert().values(values))
