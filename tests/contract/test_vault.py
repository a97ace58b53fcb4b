"""One suite for every vault: the fake that unit tests use, and the roles on a real OpenBao."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol
from uuid import UUID, uuid4

import pytest

import dev_vault
from cloudpush.credentials.connection import VaultConnection
from cloudpush.credentials.kinds import AccessKey, parse
from cloudpush.credentials.vault import Keeper, Safe, Sealer, TokenSafe, TokenSealer, Vault
from cloudpush.errors import Code, CredentialError, VaultError
from cloudpush.push import credential, ports
from cloudpush.push.grants.model import OAUTH_GRANT
from cloudpush.push.grants.ports import TokenSafe as TokenSafePort
from cloudpush.push.grants.ports import TokenSealer as TokenSealerPort
from cloudpush.push.job import Secret
from cloudpush.push.signed.model import SIGNED_URLS
from cloudpush.push.signed.ports import Safe as SafePort
from cloudpush.push.signed.sets import SheetSealer
from cloudpush.push.signed.sheets import BLOCK_BYTES
from fakes_vault import FakeVault

SECRET = parse("access_key", {"access_key_id": "AKCANARYID", "secret_access_key": "canary/secret"})
OTHER = parse("access_key", {"access_key_id": "AKOTHERID", "secret_access_key": "other/secret"})
KIND = AccessKey.KIND


class House(Protocol):
    """A vault as its users see it, and as a thief with the KV store does."""

    @property
    def sealer(self) -> credential.Sealer: ...
    @property
    def vault(self) -> ports.Vault: ...
    @property
    def keeper(self) -> credential.Keeper: ...
    @property
    def sheets(self) -> SheetSealer: ...
    @property
    def safe(self) -> SafePort: ...
    @property
    def consent(self) -> TokenSealerPort: ...
    @property
    def tokens(self) -> TokenSafePort: ...
    def steal(self, credential_id: UUID) -> dict[str, Any]: ...
    def plant(self, credential_id: UUID, stored: Mapping[str, Any]) -> None: ...
    def steal_block(self, credential_id: UUID, number: int) -> dict[str, Any]: ...
    def plant_block(self, credential_id: UUID, number: int, stored: Mapping[str, Any]) -> None: ...


class FakeHouse:
    def __init__(self, vault: FakeVault) -> None:
        self.sealer = self.vault = self.keeper = self.sheets = self.safe = self.consent = self.tokens = vault

    def steal(self, credential_id: UUID) -> dict[str, Any]:
        return dict(self.vault.stored[credential_id])

    def plant(self, credential_id: UUID, stored: Mapping[str, Any]) -> None:
        self.vault.stored[credential_id] = dict(stored)

    def steal_block(self, credential_id: UUID, number: int) -> dict[str, Any]:
        return dict(self.vault.sheets[credential_id, number])

    def plant_block(self, credential_id: UUID, number: int, stored: Mapping[str, Any]) -> None:
        self.vault.sheets[credential_id, number] = dict(stored)


class RealHouse:
    def __init__(self, server: dev_vault.DevVault) -> None:
        self._kv = server.root.secrets.kv.v2
        self._connections = [VaultConnection(server.settings, role) for role in dev_vault.ROLES]
        intake, worker, keeper, web, _ = self._connections
        self.sealer, self.vault, self.keeper = Sealer(intake), Vault(worker), Keeper(keeper)
        self.sheets, self.safe = self.sealer, Safe(worker)
        self.consent, self.tokens = TokenSealer(web), TokenSafe(worker)

    def steal(self, credential_id: UUID) -> dict[str, Any]:
        return self._read(f"credentials/{credential_id}")

    def plant(self, credential_id: UUID, stored: Mapping[str, Any]) -> None:
        self._write(f"credentials/{credential_id}", stored)

    def steal_block(self, credential_id: UUID, number: int) -> dict[str, Any]:
        return self._read(f"sheets/{credential_id}.{number}")

    def plant_block(self, credential_id: UUID, number: int, stored: Mapping[str, Any]) -> None:
        self._write(f"sheets/{credential_id}.{number}", stored)

    def _read(self, path: str) -> dict[str, Any]:
        answer = self._kv.read_secret_version(path, mount_point="cloudpush", raise_on_deleted_version=True)
        return dict(answer["data"]["data"])

    def _write(self, path: str, stored: Mapping[str, Any]) -> None:
        self._kv.create_or_update_secret(path, dict(stored), mount_point="cloudpush")

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


# -- sheets of signed URLs --------------------------------------------------------------------------


def opened(house: House, credential_id: UUID, number: int = 1, owner: str = "ada") -> bytes | Code:
    try:
        return house.safe.open_sheet(credential_id, owner, number)
    except CredentialError as e:
        return e.code


def a_set(house: House, *blocks: bytes) -> UUID:
    credential_id = uuid4()
    for number, block in enumerate(blocks, 1):
        house.sheets.seal_sheet(credential_id, "ada", number, block)
    return credential_id


def test_sealed_blocks_are_opened_by_owner_set_and_number(house: House) -> None:
    """Bytes of every value, the largest block, and one that a worker adds."""
    blocks = [bytes(range(256)), b"\xff" * BLOCK_BYTES, b""]
    credential_id = a_set(house, *blocks)
    house.safe.seal_sheet(credential_id, "ada", 4, b"a worker's")

    assert [opened(house, credential_id, number) for number in range(1, 6)] == [
        *blocks,
        b"a worker's",
        Code.CREDENTIAL_PURGED,
    ]


def test_blocks_are_sealed_by_many_threads_at_once(house: House) -> None:
    """Each under its own number and data key."""
    credential_id = uuid4()
    with ThreadPoolExecutor(8) as pool:
        versions = set(pool.map(lambda n: house.sheets.seal_sheet(credential_id, "ada", n, b"%d" % n), range(1, 25)))

    stolen = {house.steal_block(credential_id, n)["wrapped"] for n in range(1, 25)}
    assert ([opened(house, credential_id, n) for n in range(1, 25)], len(versions), len(stolen)) == (
        [b"%d" % n for n in range(1, 25)],
        1,
        24,
    )


def test_no_block_is_sealed_over_another(house: House) -> None:
    """Neither by intake nor by a worker; the first stays."""
    credential_id = a_set(house, b"first")

    for seal in (house.sheets.seal_sheet, house.safe.seal_sheet):
        with pytest.raises(VaultError):
            seal(credential_id, "ada", 1, b"second")

    assert opened(house, credential_id) == b"first"


def test_exchanged_blocks_are_corrupt(house: House) -> None:
    """Within a set, between two sets of one owner, and under another owner's name."""
    one, two = a_set(house, b"1", b"2"), a_set(house, b"3")
    first, second, foreign = house.steal_block(one, 1), house.steal_block(one, 2), house.steal_block(two, 1)
    found = [opened(house, two, 1, owner="eve")]
    for number, block in ((1, second), (2, first | {"kind": "signed_urls.2"}), (1, foreign)):
        house.plant_block(one, number, block)
        found.append(opened(house, one, number))

    assert found == [Code.CREDENTIAL_CORRUPT] * 4


def test_a_block_is_no_credential_and_a_credential_no_block(house: House) -> None:
    """What was sealed as one kind opens as no other."""
    credential_id = sealed(house)
    house.plant_block(credential_id, 1, house.steal(credential_id))
    block_of = a_set(house, b"{}")
    house.plant(block_of, house.steal_block(block_of, 1))

    assert (opened(house, credential_id), unsealed(house, block_of)) == (Code.CREDENTIAL_CORRUPT,) * 2


def test_purged_blocks_are_gone_and_others_stay(house: House) -> None:
    """Those that are named, whether they were ever sealed or not; again does no harm."""
    credential_id = a_set(house, b"1", b"2", b"3")

    house.keeper.purge_sheets(credential_id, [1, 3, 4])
    house.keeper.purge_sheets(credential_id, [1])

    assert [opened(house, credential_id, n) for n in (1, 2, 3)] == [
        Code.CREDENTIAL_PURGED,
        b"2",
        Code.CREDENTIAL_PURGED,
    ]


def test_rewrapped_block_opens_and_its_old_wrapping_is_worthless(house: House) -> None:
    """As with credentials; what is not there or damaged is told."""
    credential_id = a_set(house, b"kept", b"stolen", b"damaged")
    old = house.steal_block(credential_id, 2)
    house.plant_block(credential_id, 3, house.steal_block(credential_id, 3) | {"wrapped": "vault:v1:" + "QUJD" * 20})
    version = house.keeper.rotate()
    by = [house.keeper.rewrap_sheet(credential_id, "ada", n, version, SIGNED_URLS) for n in (1, 2, 1)]
    refused = []
    for number in (3, 9):
        with pytest.raises(CredentialError) as caught:
            house.keeper.rewrap_sheet(credential_id, "ada", number, version, SIGNED_URLS)
        refused.append(caught.value.code)

    house.keeper.retire(version)
    house.plant_block(credential_id, 2, old)

    assert (by, refused, [opened(house, credential_id, n) for n in (1, 2)]) == (
        [version] * 3,
        [Code.CREDENTIAL_CORRUPT, Code.CREDENTIAL_PURGED],
        [b"kept", Code.CREDENTIAL_CORRUPT],
    )


def tokens_of(house: House, grant_id: UUID, number: int = 1, owner: str = "ada") -> bytes | Code:
    try:
        return house.tokens.open_tokens(grant_id, owner, number)
    except CredentialError as e:
        return e.code


def a_grant(house: House, *generations: bytes) -> UUID:
    grant_id = uuid4()
    for number, text in enumerate(generations, 1):
        house.consent.seal_tokens(grant_id, "ada", number, text)
    return grant_id


def test_generations_are_opened_by_owner_grant_and_number(house: House) -> None:
    """What the web application sealed and what a worker added."""
    grant_id = a_grant(house, b"first")
    version = house.tokens.prepare(grant_id, "ada", 2, 3).write(b"second")

    assert [tokens_of(house, grant_id, n) for n in range(1, 5)] == [b"first", b"", b"second", Code.CREDENTIAL_PURGED]
    assert [house.tokens.find_tokens(grant_id, "ada", n) for n in (1, 2, 3, 4)] == [
        (b"first", version),
        (b"", version),
        (b"second", version),
        None,
    ]


def test_exchanged_generations_are_corrupt(house: House) -> None:
    """Within a grant, between two grants of one owner, under another owner's name, and with a block of signed URLs."""
    one, two, urls = a_grant(house, b"1", b"2"), a_grant(house, b"3"), a_set(house, b"4")
    first, second, foreign = house.steal_block(one, 1), house.steal_block(one, 2), house.steal_block(two, 1)
    found: list[object] = [tokens_of(house, two, 1, owner="eve")]
    for number, block in (
        (1, second),
        (2, first | {"kind": "oauth_grant.2"}),
        (1, foreign),
        (1, house.steal_block(urls, 1)),
        (1, house.steal_block(urls, 1) | {"kind": "oauth_grant.1"}),
    ):
        house.plant_block(one, number, block)
        found += [tokens_of(house, one, number), house.tokens.find_tokens(one, "ada", number)]
    house.plant_block(urls, 1, foreign)
    found.append(opened(house, urls))

    assert found == [Code.CREDENTIAL_CORRUPT, *[Code.CREDENTIAL_CORRUPT, None] * 5, Code.CREDENTIAL_CORRUPT]


def test_no_generation_is_sealed_over_another(house: House) -> None:
    """Neither by the web application nor by a worker, marker or tokens; the first stays."""
    grant_id = a_grant(house, b"first")
    pen = house.tokens.prepare(grant_id, "ada", 2, 1)

    with pytest.raises(VaultError):
        house.consent.seal_tokens(grant_id, "ada", 1, b"second")
    with pytest.raises(VaultError):
        pen.write(b"second")
    with pytest.raises(VaultError):
        house.tokens.prepare(grant_id, "ada", 1, 9)

    assert (tokens_of(house, grant_id), tokens_of(house, grant_id, 9)) == (b"first", Code.CREDENTIAL_PURGED)


def test_what_a_pen_wrote_it_writes_again_without_harm(house: House) -> None:
    """As it does when an answer got lost: the block is there once, and opens."""
    grant_id = a_grant(house, b"first")
    pen = house.tokens.prepare(grant_id, "ada", 2, 3)

    assert (pen.write(b"second"), tokens_of(house, grant_id, 3)) == (pen.write(b"second"), b"second")
    assert "second" not in repr(pen)


def test_generations_are_rewrapped_and_purged_as_other_blocks_are(house: House) -> None:
    """The keeper is told what kind of credential a block belongs to; under another it is damaged."""
    grant_id = a_grant(house, b"kept", b"purged")
    version = house.keeper.rotate()
    by = house.keeper.rewrap_sheet(grant_id, "ada", 1, version, OAUTH_GRANT)
    with pytest.raises(CredentialError):
        house.keeper.rewrap_sheet(grant_id, "ada", 2, version, SIGNED_URLS)
    house.keeper.purge_sheets(grant_id, [2])
    house.keeper.retire(version)

    assert (by, tokens_of(house, grant_id, 1), tokens_of(house, grant_id, 2)) == (
        version,
        b"kept",
        Code.CREDENTIAL_PURGED,
    )
