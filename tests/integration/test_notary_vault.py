"""What the notary does in Vault: signatures that verify offline, and an anchor that only moves forward."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import dev_vault
from cloudpush.credentials.connection import VaultConnection
from cloudpush.credentials.ed25519 import verify
from cloudpush.credentials.notary import BATCH, Anchor, Signer
from cloudpush.errors import Code, VaultError
from cloudpush.push.trust.checkpoints import Anchored


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dev_vault.DevVault]:
    """A Vault of this module's own."""
    with dev_vault.running(tmp_path_factory.mktemp("vault")) as server:
        yield server


@pytest.fixture
def connection(vault: dev_vault.DevVault) -> Iterator[VaultConnection]:
    """The notary's way to it."""
    made = VaultConnection(vault.settings, "notary")
    yield made
    made.close()


def test_each_text_is_signed_in_its_place(connection: VaultConnection) -> None:
    """More than one request's worth, checked with nothing but the public key."""
    signer = Signer(connection, "cloudpush-audit")
    texts = [f"text {n}".encode() for n in range(BATCH + 2)]

    signed = signer.sign(texts)

    (key,) = signer.keys()
    assert (len(signed.signatures), signed.version, key.version) == (len(texts), 1, 1)
    assert all(verify(key.raw, s, t) for s, t in zip(signed.signatures, texts, strict=True))


def test_older_versions_of_the_key_stay_known(vault: dev_vault.DevVault, connection: VaultConnection) -> None:
    """What was signed before a rotation can be checked after it."""
    signer = Signer(connection, "cloudpush-audit")
    before = signer.sign([b"x"])
    vault.root.secrets.transit.rotate_key("cloudpush-audit")

    after = signer.sign([b"x"])

    known = signer.keys()
    keys = {key.version: key.raw for key in known}
    assert (before.version + 1, len(keys)) == (after.version, after.version)
    assert [verify(keys[s.version], s.signatures[0], b"x") for s in (before, after)] == [True, True]


def test_a_key_of_another_kind_is_refused_in_words(connection: VaultConnection) -> None:
    """The notary may not even read the key that wraps credentials."""
    with pytest.raises(VaultError) as caught:
        Signer(connection, "cloudpush").keys()

    assert caught.value.code is Code.VAULT_DENIED


def test_the_anchor_only_moves_forward(connection: VaultConnection) -> None:
    """An older checkpoint does not take its place, and neither does another of the same number."""
    anchor = Anchor(connection)
    first, second = Anchored(1, "aa", 10, 10), Anchored(2, "bb", 20, 19)

    told = [anchor.read(), anchor.move(first), anchor.move(second), anchor.move(first), anchor.read()]
    other = anchor.move(Anchored(2, "cc", 20, 19))

    assert (told, other) == ([None, first, second, second, second], second)


def test_an_anchor_of_somebody_else_is_no_anchor(vault: dev_vault.DevVault, connection: VaultConnection) -> None:
    """And is told as such, not taken for none."""
    vault.root.secrets.kv.v2.create_or_update_secret("anchors/checkpoint", {"hello": "you"}, mount_point="cloudpush")

    with pytest.raises(VaultError, match="is no checkpoint"):
        Anchor(connection).read()
