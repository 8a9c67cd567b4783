"""Idempotent requests: a request is carried out once, and its repetitions get the stored answer.

The answer is stored in the transaction of the work. Only successful answers are stored: a failed request changed
nothing and can be sent again. The store has one writer, so of two simultaneous requests with one key the second gets
the answer of the first.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, delete, select

from server.clock import now_ms
from server.errors import IdempotencyMismatch
from server.store import tables
from server.store.rows import IdempotencyKeyRow, fetch_one
from server.store.store import Store

KEPT_MS = 24 * 3600 * 1000

_keys = tables.idempotency_keys


@dataclass(frozen=True)
class Call:
    """What identifies a request. key: None if the client sent no Idempotency-Key."""

    owner: str
    method: str
    path: str
    key: str | None
    body_sha256: str


@dataclass(frozen=True)
class Answer:
    """An HTTP answer. body: a JSON document. replayed: it was stored by an earlier request."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)
    replayed: bool = False


def run(store: Store, call: Call, work: Callable[[Connection], Answer]) -> Answer:
    """Do `work` in one transaction, or return the stored answer if the same call came before.

    Raises IdempotencyMismatch if the key came with another body, and whatever `work` raises.
    """

    def once(connection: Connection) -> Answer:
        if call.key is None:
            return work(connection)
        before = _stored(connection, call)
        if before is not None:
            return before
        answer = work(connection)
        _store_answer(connection, call, answer)
        return answer

    return store.write(once, name="submit")


def kept(store: Store, call: Call) -> Answer | None:
    """Return the stored answer if the same call came before, else None; for work that is costly to prepare.

    Raises IdempotencyMismatch if the key came with another body.
    """
    return store.read(lambda connection: _stored(connection, call)) if call.key is not None else None


def _stored(connection: Connection, call: Call) -> Answer | None:
    same = (
        _keys.c.created_at >= _oldest(),
        _keys.c.owner == call.owner,
        _keys.c.method == call.method,
        _keys.c.path == call.path,
        _keys.c.key == call.key,
    )
    row = fetch_one(connection, select(_keys).where(*same), IdempotencyKeyRow)
    if row is None:
        return None
    if row["body_sha256"] != call.body_sha256:
        raise IdempotencyMismatch(f"the Idempotency-Key {call.key!r} came before with another request")
    return Answer(row["status"], json.loads(row["body"]), row["headers"], replayed=True)


def _oldest() -> int:
    return now_ms() - KEPT_MS


def _store_answer(connection: Connection, call: Call, answer: Answer) -> None:
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
