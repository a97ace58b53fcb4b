"""What each role may do on a server that is set up as `cloudpush up` sets it up, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import hvac
import pytest

from cloudpush.credentials.clients import Clients
from cloudpush.credentials.connection import VaultConnection
from cloudpush.credentials.kinds import parse
from cloudpush.credentials.vault import Keeper, Safe, Sealer, TokenSafe, TokenSealer, Vault
from cloudpush.errors import CredentialError, InputError, VaultError
from cloudpush.settings import Settings
from cloudpush.stack.services import OpenBao

SECRET = parse("access_key", {"access_key_id": "AKCANARYID", "secret_access_key": "canary/secret"})
KV = {"mount_point": "cloudpush"}


@pytest.fixture(scope="module")
def vault_settings(openbao: OpenBao) -> Settings:
    return Settings(vault_url=openbao.url, vault_auth_dir=openbao.auth_dir)


@pytest.fixture(scope="module")
def path(vault_settings: Settings) -> str:
    """Where a credential lies, sealed with the role intake and seen to be unsealed by the role worker."""
    credential_id = uuid4()
    Sealer(VaultConnection(vault_settings, "intake")).seal(credential_id, "ada", SECRET)
    assert Vault(VaultConnection(vault_settings, "worker")).unseal(credential_id, "ada", "access_key") == SECRET
    return f"credentials/{credential_id}"


@pytest.fixture(scope="module")
def block(vault_settings: Settings) -> str:
    """Where a block of signed URLs lies, sealed with the role intake and opened with the role worker."""
    credential_id = uuid4()
    worker = VaultConnection(vault_settings, "worker")
    Sealer(VaultConnection(vault_settings, "intake")).seal_sheet(credential_id, "ada", 1, b"urls")
    assert Safe(worker).open_sheet(credential_id, "ada", 1) == b"urls"
    return f"sheets/{credential_id}.1"


@pytest.fixture(scope="module")
def wrapped(vault_settings: Settings, path: str) -> str:
    """Its wrapped data key, as the role keeper reads it."""
    keeper = VaultConnection(vault_settings, "keeper")
    found = keeper.run(lambda v: v.secrets.kv.v2.read_secret_version(path, raise_on_deleted_version=True, **KV))
    return str(found["data"]["wrapped"])


#: What somebody could want to do to a block of signed URLs: name → request with (client, its path).
BLOCK_DEEDS: dict[str, Callable[[hvac.Client, str], Any]] = {
    "read": lambda v, p: v.secrets.kv.v2.read_secret_version(p, raise_on_deleted_version=True, **KV),
    "create": lambda v, _: v.secrets.kv.v2.create_or_update_secret(f"sheets/{uuid4()}.1", {}, cas=0, **KV),
    "overwrite": lambda v, p: v.secrets.kv.v2.create_or_update_secret(p, {"v": 0}, **KV),
    "patch": lambda v, p: v.adapter.request(
        "patch", f"/v1/cloudpush/data/{p}", json={"data": {}}, headers={"Content-Type": "application/merge-patch+json"}
    ),
    "delete a version": lambda v, p: v.secrets.kv.v2.delete_latest_version_of_secret(p, **KV),
    "delete versions": lambda v, p: v.secrets.kv.v2.delete_secret_versions(p, [1], **KV),
    "destroy versions": lambda v, p: v.secrets.kv.v2.destroy_secret_versions(p, [1], **KV),
    "read metadata": lambda v, p: v.secrets.kv.v2.read_secret_metadata(p, **KV),
    "write metadata": lambda v, p: v.secrets.kv.v2.update_metadata(p, max_versions=1, **KV),
    "list": lambda v, _: v.secrets.kv.v2.list_secrets("sheets", **KV),
    "write below": lambda v, p: v.secrets.kv.v2.create_or_update_secret(f"{p}/below", {}, **KV),
}
MAY_WITH_BLOCKS: dict[str, set[str]] = {
    "intake": {"create"},
    "web": {"create"},
    "worker": {"create", "read"},
    "keeper": {"read", "overwrite", "read metadata", "write metadata"},
}

#: What somebody could want to do: name → request with (client, path of a credential, a wrapped data key).
DEEDS: dict[str, Callable[[hvac.Client, str, str], Any]] = {
    "read a blob": lambda v, p, _: v.secrets.kv.v2.read_secret_version(p, raise_on_deleted_version=True, **KV),
    "create a blob": lambda v, _, __: v.secrets.kv.v2.create_or_update_secret(f"credentials/{uuid4()}", {}, **KV),
    "overwrite a blob": lambda v, p, _: v.secrets.kv.v2.create_or_update_secret(p, {"v": 0}, **KV),
    "patch a blob": lambda v, p, _: v.adapter.request(
        "patch", f"/v1/cloudpush/data/{p}", json={"data": {}}, headers={"Content-Type": "application/merge-patch+json"}
    ),
    "delete a version": lambda v, p, _: v.secrets.kv.v2.delete_latest_version_of_secret(p, **KV),
    "delete versions": lambda v, p, _: v.secrets.kv.v2.delete_secret_versions(p, [1], **KV),
    "undelete versions": lambda v, p, _: v.secrets.kv.v2.undelete_secret_versions(p, [1], **KV),
    "destroy versions": lambda v, p, _: v.secrets.kv.v2.destroy_secret_versions(p, [1], **KV),
    "read metadata": lambda v, p, _: v.secrets.kv.v2.read_secret_metadata(p, **KV),
    "write metadata": lambda v, p, _: v.secrets.kv.v2.update_metadata(p, max_versions=1, **KV),
    "list blobs": lambda v, _, __: v.secrets.kv.v2.list_secrets("credentials", **KV),
    "write elsewhere": lambda v, _, __: v.secrets.kv.v2.create_or_update_secret("elsewhere", {}, **KV),
    "read elsewhere": lambda v, _, __: v.adapter.get("/v1/cloudpush/data/elsewhere"),
    "configure the mount": lambda v, _, __: v.secrets.kv.v2.configure(max_versions=5, **KV),
    "unwrap a data key": lambda v, _, w: v.secrets.transit.decrypt_data("cloudpush", w),
    "make a data key": lambda v, _, __: v.secrets.transit.generate_data_key("cloudpush", "plaintext", bits=256),
    "make a wrapped data key": lambda v, _, __: v.secrets.transit.generate_data_key("cloudpush", "wrapped", bits=256),
    "encrypt": lambda v, _, __: v.secrets.transit.encrypt_data("cloudpush", plaintext="QUJD"),
    "rewrap": lambda v, _, w: v.secrets.transit.rewrap_data("cloudpush", w),
    "rotate": lambda v, _, __: v.secrets.transit.rotate_key("cloudpush"),
    "read the key": lambda v, _, __: v.secrets.transit.read_key("cloudpush"),
    "retire key versions": lambda v, _, __: v.secrets.transit.update_key_configuration(
        "cloudpush", min_decryption_version=1
    ),
    "make the key exportable": lambda v, _, __: v.secrets.transit.update_key_configuration(
        "cloudpush", exportable=True
    ),
    "make the key deletable": lambda v, _, __: v.secrets.transit.update_key_configuration(
        "cloudpush", deletion_allowed=True
    ),
    "allow plaintext backups": lambda v, _, __: v.secrets.transit.update_key_configuration(
        "cloudpush", allow_plaintext_backup=True
    ),
    "export the key": lambda v, _, __: v.secrets.transit.export_key("cloudpush", "encryption-key"),
    "back the key up": lambda v, _, __: v.secrets.transit.backup_key("cloudpush"),
    "trim the key": lambda v, _, __: v.secrets.transit.trim_key("cloudpush", 1),
    "delete the key": lambda v, _, __: v.secrets.transit.delete_key("cloudpush"),
    "make another key": lambda v, _, __: v.secrets.transit.create_key("another"),
    "list keys": lambda v, _, __: v.secrets.transit.list_keys(),
    "read a policy": lambda v, _, __: v.sys.read_acl_policy("worker"),
    "write a policy": lambda v, _, __: v.sys.create_or_update_acl_policy("worker", 'path "*" {}'),
    "list mounts": lambda v, _, __: v.sys.list_mounted_secrets_engines(),
    "make a secret id": lambda v, _, __: v.auth.approle.generate_secret_id("worker"),
    "make a token": lambda v, _, __: v.auth.token.create(),
    "seal Vault": lambda v, _, __: v.sys.seal(),
}
MAY: dict[str, set[str]] = {
    "intake": {"create a blob", "make a data key"},
    "web": {"create a blob", "make a data key"},
    "notary": set(),
    "worker": {"read a blob", "unwrap a data key", "make a data key"},
    "keeper": {
        "read a blob",
        "overwrite a blob",
        "read metadata",
        "write metadata",
        "rewrap",
        "rotate",
        "read the key",
        "retire key versions",
    },
}


#: What somebody could want to do to a client secret: name → request with (client, its path).
CLIENT_DEEDS: dict[str, Callable[[hvac.Client, str], Any]] = {
    "read": lambda v, p: v.secrets.kv.v2.read_secret_version(p, raise_on_deleted_version=True, **KV),
    "create": lambda v, _: v.secrets.kv.v2.create_or_update_secret(f"clients/{uuid4()}", {}, **KV),
    "overwrite": lambda v, p: v.secrets.kv.v2.create_or_update_secret(p, {"client_secret": "other"}, **KV),
    "patch": BLOCK_DEEDS["patch"],
    "delete a version": BLOCK_DEEDS["delete a version"],
    "delete versions": BLOCK_DEEDS["delete versions"],
    "destroy versions": BLOCK_DEEDS["destroy versions"],
    "read metadata": BLOCK_DEEDS["read metadata"],
    "write metadata": BLOCK_DEEDS["write metadata"],
    "list": lambda v, _: v.secrets.kv.v2.list_secrets("clients", **KV),
    "write below": BLOCK_DEEDS["write below"],
}
MAY_WITH_CLIENTS: dict[str, set[str]] = {
    "intake": set(),
    "web": {"read"},
    "worker": {"read"},
    "keeper": {"create", "overwrite", "read metadata", "write metadata"},
}

#: What somebody could want to do with the key that signs identity tokens.
ISSUER_DEEDS: dict[str, Callable[[hvac.Client], Any]] = {
    "sign": lambda v: v.secrets.transit.sign_data(
        "cloudpush-issuer", "QUJD", hash_algorithm="sha2-256", signature_algorithm="pkcs1v15"
    ),
    "sign by path": lambda v: v.adapter.post(
        "/v1/transit/sign/cloudpush-issuer/sha2-256", json={"input": "QUJD", "signature_algorithm": "pkcs1v15"}
    ),
    "read the public key": lambda v: v.secrets.transit.read_key("cloudpush-issuer"),
    "decrypt": lambda v: v.secrets.transit.decrypt_data("cloudpush-issuer", "vault:v1:QUJD"),
    "encrypt": lambda v: v.secrets.transit.encrypt_data("cloudpush-issuer", plaintext="QUJD"),
    "rotate": lambda v: v.secrets.transit.rotate_key("cloudpush-issuer"),
    "configure": lambda v: v.secrets.transit.update_key_configuration("cloudpush-issuer", exportable=True),
    "export": lambda v: v.secrets.transit.export_key("cloudpush-issuer", "signing-key"),
    "back up": lambda v: v.secrets.transit.backup_key("cloudpush-issuer"),
    "trim": lambda v: v.secrets.transit.trim_key("cloudpush-issuer", 1),
    "delete": lambda v: v.secrets.transit.delete_key("cloudpush-issuer"),
    "import a version": lambda v: v.adapter.post(
        "/v1/transit/keys/cloudpush-issuer/import_version", json={"ciphertext": "QUJD"}
    ),
}
MAY_WITH_THE_ISSUER: dict[str, set[str]] = {
    "intake": set(),
    "web": {"read the public key"},
    "worker": {"sign", "sign by path", "read the public key"},
    "keeper": set(),
}


def logged_in(settings: Settings, role: str) -> hvac.Client:
    client = hvac.Client(url=settings.vault_url, token="", timeout=5)
    auth = settings.vault_auth_dir
    client.auth.approle.login((auth / f"{role}-role-id").read_text(), (auth / f"{role}-secret-id").read_text())
    return client


def allowed(deed: Callable[..., Any], *given: object) -> bool:
    try:
        deed(*given)
    except hvac.exceptions.Forbidden:
        return False
    return True


@pytest.mark.parametrize("role", MAY)
def test_role_may_do_its_own_work_and_nothing_else(
    vault_settings: Settings, path: str, wrapped: str, role: str
) -> None:
    """Of everything that one could try, exactly what the role is for is not refused with 403."""
    client = logged_in(vault_settings, role)

    assert {deed for deed in DEEDS if allowed(DEEDS[deed], client, path, wrapped)} == MAY[role]


@pytest.mark.parametrize("role", MAY_WITH_BLOCKS)
def test_role_may_do_to_signed_urls_what_it_must_and_nothing_else(
    vault_settings: Settings, block: str, role: str
) -> None:
    """A worker adds blocks and reads them; it can neither overwrite one nor destroy one."""
    client = logged_in(vault_settings, role)

    assert {deed for deed in BLOCK_DEEDS if allowed(BLOCK_DEEDS[deed], client, block)} == MAY_WITH_BLOCKS[role]


@pytest.fixture(scope="module")
def client_path(vault_settings: Settings) -> str:
    """Where a client secret lies, put there with the role keeper, read with the roles web and worker."""
    Clients(VaultConnection(vault_settings, "keeper")).put("google", "canary-client-secret")
    readers = [Clients(VaultConnection(vault_settings, role)) for role in ("web", "worker")]
    assert [c.secret("google") for c in readers] == ["canary-client-secret"] * 2
    return "clients/google"


@pytest.mark.parametrize("role", MAY_WITH_CLIENTS)
def test_role_may_do_to_client_secrets_what_it_must_and_nothing_else(
    vault_settings: Settings, client_path: str, role: str
) -> None:
    """Who uses a client secret cannot put one there, and who puts it there cannot read it."""
    client = logged_in(vault_settings, role)

    assert {d for d in CLIENT_DEEDS if allowed(CLIENT_DEEDS[d], client, client_path)} == MAY_WITH_CLIENTS[role]


@pytest.mark.parametrize("role", MAY_WITH_THE_ISSUER)
def test_role_may_do_with_the_issuers_key_what_it_must_and_nothing_else(vault_settings: Settings, role: str) -> None:
    """Only a worker signs; nobody gets the private half."""
    client = logged_in(vault_settings, role)

    assert {d for d in ISSUER_DEEDS if allowed(ISSUER_DEEDS[d], client)} == MAY_WITH_THE_ISSUER[role]


def test_the_issuers_key_is_what_identity_tokens_need_and_cannot_be_taken_out(vault_settings: Settings) -> None:
    """RSA, for RS256; neither exportable nor in a plaintext backup nor deletable."""
    key = logged_in(vault_settings, "worker").secrets.transit.read_key("cloudpush-issuer")["data"]
    unwanted = ("exportable", "allow_plaintext_backup", "deletion_allowed")

    assert (key["type"], [key[word] for word in unwanted]) == ("rsa-2048", [False] * 3)
    assert key["keys"]["1"]["public_key"].startswith("-----BEGIN PUBLIC KEY-----")


def test_a_client_secret_is_replaced_without_trace_and_forgotten(vault_settings: Settings) -> None:
    """No older version is kept, and none where it was forgotten; both again does no harm."""
    keeper = VaultConnection(vault_settings, "keeper")
    clients, reader = Clients(keeper), Clients(VaultConnection(vault_settings, "web"))
    found = [reader.secret("box")]
    for secret in ("first-secret", "second-secret"):
        clients.put("box", secret)
        found.append(reader.secret("box"))
    kept = keeper.run(lambda v: v.secrets.kv.v2.read_secret_metadata("clients/box", **KV))["versions"]
    for _ in range(2):
        clients.forget("box")
    found.append(reader.secret("box"))

    assert (found, len(kept)) == (["", "first-secret", "second-secret", ""], 1)


@pytest.mark.parametrize("name", ["", "../credentials/x", "Google", "a/b", "x" * 64, "-a", "a\n"])
def test_a_client_secret_of_what_is_no_provider_is_refused(vault_settings: Settings, name: str) -> None:
    """A name becomes a path: it may not lead elsewhere."""
    with pytest.raises(InputError):
        Clients(VaultConnection(vault_settings, "web")).secret(name)


@pytest.mark.parametrize("secret", ["", "with blank", "umläut", "x" * 4097])
def test_what_is_no_client_secret_is_refused_and_not_quoted(vault_settings: Settings, secret: str) -> None:
    """A line break in it would be a header of its own."""
    with pytest.raises(InputError) as caught:
        Clients(VaultConnection(vault_settings, "keeper")).put("google", secret)
    assert not secret or secret not in caught.value.message


def test_what_the_web_application_sealed_a_worker_opens_and_carries_on(vault_settings: Settings) -> None:
    """The web application cannot read it back."""
    grant_id = uuid4()
    web, worker = VaultConnection(vault_settings, "web"), VaultConnection(vault_settings, "worker")
    TokenSealer(web).seal_tokens(grant_id, "ada", 1, b"first")
    safe = TokenSafe(worker)
    safe.prepare(grant_id, "ada", 2, 3).write(b"second")

    with pytest.raises(VaultError):
        TokenSafe(web).open_tokens(grant_id, "ada", 1)
    assert [safe.open_tokens(grant_id, "ada", n) for n in (1, 3)] == [b"first", b"second"]


def test_keeper_purges_what_it_cannot_read(vault_settings: Settings) -> None:
    """Its right to delete is the one that the matrix cannot try without destroying the evidence."""
    credential_id = uuid4()
    sealer, keeper = (VaultConnection(vault_settings, role) for role in ("intake", "keeper"))
    Sealer(sealer).seal(credential_id, "ada", SECRET)

    Keeper(keeper).purge(credential_id)

    with pytest.raises(Exception, match="has nothing under this name"):
        keeper.run(lambda v: v.secrets.kv.v2.read_secret_metadata(f"credentials/{credential_id}", **KV))


def test_keeper_purges_signed_urls_that_it_cannot_read(vault_settings: Settings) -> None:
    """Block by block; none is left."""
    credential_id = uuid4()
    sealer, keeper = (VaultConnection(vault_settings, role) for role in ("intake", "keeper"))
    for number in (1, 2):
        Sealer(sealer).seal_sheet(credential_id, "ada", number, b"urls")

    Keeper(keeper).purge_sheets(credential_id, [1, 2])

    for number in (1, 2):
        with pytest.raises(CredentialError):
            Safe(VaultConnection(vault_settings, "worker")).open_sheet(credential_id, "ada", number)


def test_a_remembered_envelope_outlives_a_rotation(vault_settings: Settings) -> None:
    """A worker that kept the ciphertext asks for it again when its key version is retired."""
    credential_id = uuid4()
    sealer, keeper = (VaultConnection(vault_settings, role) for role in ("intake", "keeper"))
    Sealer(sealer).seal(credential_id, "ada", SECRET)
    vault = Vault(VaultConnection(vault_settings, "worker"), remember=3600)
    vault.unseal(credential_id, "ada", "access_key")
    newest = Keeper(keeper).rotate()
    Keeper(keeper).rewrap(credential_id, "ada", "access_key", newest)
    Keeper(keeper).retire(newest)

    assert vault.unseal(credential_id, "ada", "access_key") == SECRET


def test_an_envelope_is_remembered_and_its_key_is_not(vault_settings: Settings) -> None:
    """Without the ciphertext in Vault a remembering worker still opens it, but only by asking Transit."""
    credential_id = uuid4()
    sealer, keeper, worker = (VaultConnection(vault_settings, role) for role in ("intake", "keeper", "worker"))
    Sealer(sealer).seal(credential_id, "ada", SECRET)
    remembering, forgetful = Vault(worker, remember=3600), Vault(worker)
    remembering.unseal(credential_id, "ada", "access_key")
    Keeper(keeper).purge(credential_id)

    with pytest.raises(CredentialError):
        forgetful.unseal(credential_id, "ada", "access_key")
    assert remembering.unseal(credential_id, "ada", "access_key") == SECRET
    worker.close()
