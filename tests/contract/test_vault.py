"""One suite for every vault: the fake that unit tests use, and the three roles on a real OpenBao."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol
from uuid import UUID, uuid4

import pytest

import dev_vault
from cloudpush.credentials.connection import VaultConnection
from cloudpush.credentials.kinds import AccessKey, parse
from cloudpush.credentials.vault import Keeper, Sealer, Vault
from cloudpush.errors import Code, CredentialError, VaultError
from cloudpush.push import custody, ports
from cloudpush.push.job import Secret
from fakes_vault import FakeVault

SECRET = parse("access_key", {"access_key_id": "AKCANARYID", "secret_access_key": "canary/secret"})
OTHER = parse("access_key", {"access_key_id": "AKOTHERID", "secret_access_key": "other/secret"})
KIND = AccessKey.KIND


class House(Protocol):
    """A vault as its users see it, and as a thief with the KV store does."""

    @property
    def sealer(self) -> custody.Sealer: ...
    @property
    def vault(self) -> ports.Vault: ...
    @property
    def keeper(self) -> custody.Keeper: ...
    def steal(self, credential_id: UUID) -> dict[str, Any]: ...
    def plant(self, credential_id: UUID, stored: Mapping[str, Any]) -> None: ...


class FakeHouse:
    def __init__(self, vault: FakeVault) -> None:
        self.sealer = self.vault = self.keeper = vault

    def steal(self, credential_id: UUID) -> dict[str, Any]:
        return dict(self.vault.stored[credential_id])

    def plant(self, credential_id: UUID, stored: Mapping[str, Any]) -> None:
        self.vault.stored[credential_id] = dict(stored)


class RealHouse:
    def __init__(self, server: dev_vault.DevVault) -> None:
        self._kv = server.root.secrets.kv.v2
        self._connections = [VaultConnection(server.settings, role) for role in dev_vault.ROLES]
        intake, worker, keeper = self._connections
        self.sealer, self.vault, self.keeper = Sealer(intake), Vault(worker), Keeper(keeper)

    def steal(self, credential_id: UUID) -> dict[str, Any]:
        answer = self._kv.read_secret_version(
            f"credentials/{credential_id}", mount_point="cloudpush", raise_on_deleted_version=True
        )
        return dict(answer["data"]["data"])

    def plant(self, credential_id: UUID, stored: Mapping[str, Any]) -> None:
        self._kv.create_or_update_secret(f"credentials/{credential_id}", dict(stored), mount_point="cloudpush")

    def close(self) -> None:
        for connection in self._connections:
            connection.close()


@pytest.fixture(scope="module", params=["fake", "real"])
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    if request.param == "fake":
        yield FakeHouse(FakeVault())
        return
    with dev_vault.running(tmp_path_factory.mktemp("bao") / "dev") as server:
        real = RealHouse(server)
        yield real
        real.close()


def sealed(house: House, secret: Secret = SECRET, owner: str = "ada") -> UUID:
    credential_id = uuid4()
    house.sealer.seal(credential_id, owner, secret)
    return credential_id


def unsealed(house: House, credential_id: UUID, owner: str = "ada", kind: str = KIND) -> Secret | Code:
    try:
        return house.vault.unseal(credential_id, owner, kind)
    except CredentialError as e:
        return e.code


def test_sealed_credential_is_unsealed_by_owner_id_and_kind(house: House) -> None:
    """What goes in comes out, as often as it is asked for."""
    credential_id = sealed(house)

    assert [unsealed(house, credential_id), unsealed(house, credential_id)] == [SECRET, SECRET]


def test_stored_blob_shows_nothing_of_the_secret(house: House) -> None:
    """Whoever reads the KV store alone learns the kind and no more."""
    stolen = house.steal(sealed(house))

    assert (sorted(stolen), "canary" in str(stolen).lower()) == (["ciphertext", "kind", "nonce", "v", "wrapped"], False)


def test_nothing_is_sealed_over_another_credential(house: House) -> None:
    """A second seal under one id is refused and the first stays."""
    credential_id = sealed(house)

    with pytest.raises(VaultError):
        house.sealer.seal(credential_id, "ada", OTHER)

    assert unsealed(house, credential_id) == SECRET


def test_unknown_credential_is_told_as_purged(house: House) -> None:
    """Nothing under the id is no outage: a retry cannot help."""
    assert unsealed(house, uuid4()) is Code.CREDENTIAL_PURGED


@pytest.mark.parametrize(("owner", "kind"), [("eve", KIND), ("ada", "oauth_grant")], ids=["owner", "kind"])
def test_credential_of_another_owner_or_kind_is_corrupt(house: House, owner: str, kind: str) -> None:
    """An owner or kind that was edited in the database opens nothing."""
    assert unsealed(house, sealed(house), owner, kind) is Code.CREDENTIAL_CORRUPT


def test_swapped_blobs_are_corrupt(house: House) -> None:
    """One credential's blob under another's id opens neither, the same owner's included."""
    one, two = sealed(house), sealed(house, OTHER)
    first, second = house.steal(one), house.steal(two)

    house.plant(one, second)
    house.plant(two, first)

    assert [unsealed(house, one), unsealed(house, two)] == [Code.CREDENTIAL_CORRUPT] * 2


@pytest.mark.parametrize("field", ["wrapped", "nonce", "ciphertext"])
def test_field_of_another_blob_is_corrupt(house: House, field: str) -> None:
    """No field can be exchanged, the wrapped data key included."""
    one, two = sealed(house), sealed(house, OTHER)

    house.plant(one, house.steal(one) | {field: house.steal(two)[field]})

    assert unsealed(house, one) is Code.CREDENTIAL_CORRUPT


@pytest.mark.parametrize(
    "change",
    [
        {"wrapped": "vault:v1:" + "QUJD" * 20},
        {"wrapped": "vault:v999:" + "QUJD" * 20},
        {"wrapped": "vault:v1:QUJD"},
        {"wrapped": ""},
        {"nonce": "AAAAAAAAAAAAAAAA"},
        {"kind": "oauth_grant"},
        {"v": 2},
        {"ciphertext": None},
    ],
    ids=str,
)
def test_tampered_blob_is_corrupt(house: House, change: dict[str, object]) -> None:
    """Every kind of damage is told as corruption, none as an outage."""
    credential_id = sealed(house)

    house.plant(credential_id, house.steal(credential_id) | change)

    assert unsealed(house, credential_id) is Code.CREDENTIAL_CORRUPT


def test_purged_credential_is_gone(house: House) -> None:
    """Nothing is left to unseal; purging again, or what never was, is fine."""
    credential_id = sealed(house)

    house.keeper.purge(credential_id)
    house.keeper.purge(credential_id)
    house.keeper.purge(uuid4())

    assert unsealed(house, credential_id) is Code.CREDENTIAL_PURGED


def test_rotation_wraps_anew_without_touching_the_ciphertext(house: House) -> None:
    """The data key is under the newest key version, nonce and ciphertext are as they were, the secret opens."""
    credential_id = sealed(house)
    before = house.steal(credential_id)

    version = house.keeper.rotate()
    wrapped_by = house.keeper.rewrap(credential_id, "ada", KIND, version)

    after = house.steal(credential_id)
    assert (
        wrapped_by,
        house.keeper.newest(),
        after["wrapped"].startswith(f"vault:v{version}:"),
        before | {"wrapped": ""} == after | {"wrapped": ""},
        unsealed(house, credential_id),
    ) == (version, version, True, True, SECRET)


def test_rewrapping_again_changes_nothing(house: House) -> None:
    """A rotation that is resumed passes over what it has done."""
    credential_id = sealed(house)
    version = house.keeper.newest()
    before = house.steal(credential_id)

    assert (house.keeper.rewrap(credential_id, "ada", KIND, version), house.steal(credential_id)) == (version, before)


def test_retired_key_version_opens_nothing_any_more(house: House) -> None:
    """A copy of a blob from before the rotation is worthless; the rewrapped one opens."""
    kept, stolen_from = sealed(house), sealed(house)
    old = house.steal(stolen_from)
    version = house.keeper.rotate()
    for credential_id in (kept, stolen_from):
        house.keeper.rewrap(credential_id, "ada", KIND, version)

    house.keeper.retire(version)
    house.plant(stolen_from, old)

    assert [unsealed(house, kept), unsealed(house, stolen_from)] == [SECRET, Code.CREDENTIAL_CORRUPT]


def test_corrupt_or_purged_credential_cannot_be_rewrapped(house: House) -> None:
    """Rewrapping says what is wrong with a credential, so that a rotation can go on and report it."""
    damaged = sealed(house)
    house.plant(damaged, house.steal(damaged) | {"wrapped": "vault:v1:" + "QUJD" * 20})
    version = house.keeper.rotate()

    codes = []
    for credential_id in (damaged, uuid4()):
        with pytest.raises(CredentialError) as caught:
            house.keeper.rewrap(credential_id, "ada", KIND, version)
        codes.append(caught.value.code)

    assert codes == [Code.CREDENTIAL_CORRUPT, Code.CREDENTIAL_PURGED]
