"""API keys: what is stored, what is accepted, and that a revocation holds at once."""

import hashlib
import re

import pytest

from server.errors import InvalidRequest, NotFound
from server.store import keys
from server.store.store import Store


def verified(store: Store, token: str) -> object:
    return store.read(lambda connection: keys.verify(connection, token))


def test_a_new_key_is_accepted_with_its_project_and_scopes(store: Store) -> None:
    token = keys.create(store, "laptop", "vision", ["jobs:write", "jobs:read"])
    key = store.read(lambda connection: keys.verify(connection, token))
    assert key is not None
    assert key["project"] == "vision"
    assert key["scopes"] == ["jobs:read", "jobs:write"]


def test_a_token_carries_256_random_bits_and_only_their_hash_is_stored(store: Store) -> None:
    token = keys.create(store, "laptop", "default", ["admin"])
    parts = re.fullmatch(r"gk_([a-z0-9]{12})_([A-Za-z0-9_-]{43})", token)
    assert parts is not None
    key = store.read(lambda connection: keys.verify(connection, token))
    assert key is not None
    assert key["secret_sha256"] == hashlib.sha256(parts[2].encode()).hexdigest()
    assert parts[2] not in str(dict(key))


def test_two_keys_never_share_prefix_or_secret(store: Store) -> None:
    tokens = {keys.create(store, "same", "default", ["admin"]) for _ in range(20)}
    assert len({token.split("_", 2)[1] for token in tokens}) == 20
    assert len({token.split("_", 2)[2] for token in tokens}) == 20


@pytest.mark.parametrize(
    "spoil",
    [
        lambda token: token[:-1] + ("A" if token[-1] != "A" else "B"),
        lambda token: token[:-1],
        lambda token: token + "A",
        lambda token: token.replace("gk_", "xk_"),
        lambda token: "gk_" + "a" * 12 + token[15:],
        lambda token: token.upper(),
        lambda token: "",
        lambda token: "gk__",
    ],
)
def test_a_spoilt_token_is_refused(store: Store, spoil: object) -> None:
    token = keys.create(store, "laptop", "default", ["admin"])
    assert callable(spoil)
    assert verified(store, spoil(token)) is None
    assert verified(store, token) is not None


def test_a_secret_is_good_only_with_its_own_prefix(store: Store) -> None:
    first, second = (keys.create(store, "laptop", "default", ["admin"]) for _ in range(2))
    assert verified(store, first[:16] + second[16:]) is None


def test_a_revoked_key_is_refused_at_once(store: Store) -> None:
    token = keys.create(store, "laptop", "default", ["admin"])
    keys.revoke(store, token.split("_")[1])
    assert verified(store, token) is None


def test_revoking_one_key_leaves_the_others(store: Store) -> None:
    first, second = (keys.create(store, "laptop", "default", ["admin"]) for _ in range(2))
    keys.revoke(store, first.split("_")[1])
    assert verified(store, second) is not None


def test_revoking_again_keeps_the_first_time(store: Store) -> None:
    token = keys.create(store, "laptop", "default", ["admin"])
    keys.revoke(store, token.split("_")[1])
    before = keys.listing(store)[0]["revoked_at"]
    keys.revoke(store, token.split("_")[1])
    assert before is not None
    assert keys.listing(store)[0]["revoked_at"] == before


def test_revoking_an_unknown_key_is_an_error(store: Store) -> None:
    with pytest.raises(NotFound, match="'nothing'"):
        keys.revoke(store, "nothing")


def test_the_listing_shows_revoked_keys_and_nothing_secret(store: Store) -> None:
    tokens = [keys.create(store, name, "default", ["jobs:read"]) for name in ("one", "two")]
    keys.revoke(store, tokens[0].split("_")[1])
    listed = keys.listing(store)
    assert {row["name"] for row in listed} == {"one", "two"}
    assert all("secret_sha256" not in row for row in listed)


def test_keys_count_as_existing_even_when_all_are_revoked(store: Store) -> None:
    assert not store.read(keys.exist)
    token = keys.create(store, "laptop", "default", ["admin"])
    keys.revoke(store, token.split("_")[1])
    assert store.read(keys.exist)


@pytest.mark.parametrize(
    ("name", "project", "scopes", "pointer"),
    [
        ("", "default", ["admin"], "/name"),
        ("n" * 101, "default", ["admin"], "/name"),
        ("laptop", "", ["admin"], "/project"),
        ("laptop", "../other", ["admin"], "/project"),
        ("laptop", "Default", ["admin"], "/project"),
        ("laptop", "default", [], "/scopes"),
        ("laptop", "default", ["jobs:raed"], "/scopes"),
    ],
)
def test_an_unusable_key_is_refused_by_field(
    store: Store, name: str, project: str, scopes: list[str], pointer: str
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        keys.create(store, name, project, scopes)
    assert [error.pointer for error in refusal.value.errors] == [pointer]
    assert keys.listing(store) == []
