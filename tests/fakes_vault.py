"""A vault in memory: seals with the real envelope under keys of its own, and can be sealed, lost or robbed."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterable
from typing import Any
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cloudpush.credentials.envelope import Binding, Envelope, decrypt, encrypt, read_envelope
from cloudpush.credentials.kinds import dump, load
from cloudpush.errors import Code, CredentialError, VaultError
from cloudpush.push.grants.model import OAUTH_GRANT
from cloudpush.push.job import Secret
from cloudpush.push.signed.model import SIGNED_URLS


class FakeVault:
    """Sealer, Vault, Safe, TokenSealer, TokenSafe and Keeper in one. ``failing`` is raised by every call while it is set.

    ``during`` runs at the start of the named call, for what happens in between: ``{"seal": callable}``.
    """

    def __init__(self) -> None:
        self.stored: dict[UUID, dict[str, Any]] = {}
        self.sheets: dict[tuple[UUID, int], dict[str, Any]] = {}
        self.failing: VaultError | None = None
        self.during: dict[str, Callable[[], None]] = {}
        self._keys = {1: os.urandom(32)}
        self._oldest = 1

    def go_away(self, code: Code = Code.VAULT_UNREACHABLE) -> None:
        """Fail from now on."""
        self.failing = VaultError(code, "The fake vault is away.")

    def come_back(self) -> None:
        """Serve again."""
        self.failing = None

    def seal(self, credential_id: UUID, owner: str, secret: Secret) -> int:
        self._enter("seal")
        if credential_id in self.stored:
            raise VaultError(Code.VAULT_DENIED, "There is something under this id already.")
        envelope = self._encrypt(dump(secret), Binding(owner, credential_id, secret.kind))
        self.stored[credential_id] = envelope.stored()
        return envelope.key_version

    def seal_sheet(self, credential_id: UUID, owner: str, number: int, plaintext: bytes) -> int:
        self._enter("seal_sheet")
        return self._seal_block(plaintext, _block_binding(credential_id, owner, number, SIGNED_URLS), number)

    def seal_tokens(self, grant_id: UUID, owner: str, number: int, plaintext: bytes) -> int:
        self._enter("seal_tokens")
        return self._seal_block(plaintext, _block_binding(grant_id, owner, number, OAUTH_GRANT), number)

    def _seal_block(self, plaintext: bytes, binding: Binding, number: int) -> int:
        if (binding.credential_id, number) in self.sheets:
            raise VaultError(Code.VAULT_DENIED, "There is something under this number already.")
        envelope = self._encrypt(plaintext, binding)
        self.sheets[binding.credential_id, number] = envelope.stored()
        return envelope.key_version

    def unseal(self, credential_id: UUID, owner: str, kind: str) -> Secret:
        self._enter("unseal")
        binding = Binding(owner, credential_id, kind)
        envelope = self._fetch(binding)
        return load(kind, decrypt(envelope, self._unwrap(envelope, binding), binding))

    def open_sheet(self, credential_id: UUID, owner: str, number: int) -> bytes:
        self._enter("open_sheet")
        return self._open_block(_block_binding(credential_id, owner, number, SIGNED_URLS), number)[0]

    def open_tokens(self, grant_id: UUID, owner: str, number: int) -> bytes:
        self._enter("open_tokens")
        return self._open_block(_block_binding(grant_id, owner, number, OAUTH_GRANT), number)[0]

    def find_tokens(self, grant_id: UUID, owner: str, number: int) -> tuple[bytes, int] | None:
        self._enter("find_tokens")
        try:
            plaintext, envelope = self._open_block(_block_binding(grant_id, owner, number, OAUTH_GRANT), number)
        except CredentialError:
            return None
        return plaintext, envelope.key_version

    def prepare(self, grant_id: UUID, owner: str, marker: int, number: int) -> FakePen:
        self._enter("prepare")
        self._seal_block(b"", _block_binding(grant_id, owner, marker, OAUTH_GRANT), marker)
        return FakePen(self, _block_binding(grant_id, owner, number, OAUTH_GRANT), number)

    def _open_block(self, binding: Binding, number: int) -> tuple[bytes, Envelope]:
        envelope = self._fetch_sheet(number, binding)
        return decrypt(envelope, self._unwrap(envelope, binding), binding), envelope

    def purge(self, credential_id: UUID) -> None:
        self._enter("purge")
        self.stored.pop(credential_id, None)

    def purge_sheets(self, credential_id: UUID, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._enter("purge_sheets")
            self.sheets.pop((credential_id, number), None)

    def rotate(self) -> int:
        self._enter("rotate")
        self._keys[self.newest() + 1] = os.urandom(32)
        return self.newest()

    def newest(self) -> int:
        self._enter("newest")
        return max(self._keys)

    def rewrap(self, credential_id: UUID, owner: str, kind: str, version: int) -> int:
        self._enter("rewrap")
        binding = Binding(owner, credential_id, kind)
        envelope = self._fetch(binding)
        if envelope.key_version < version:
            envelope = envelope.rewrapped(self._wrap(self._unwrap(envelope, binding)))
            self.stored[credential_id] = envelope.stored()
        return envelope.key_version

    def rewrap_sheet(self, credential_id: UUID, owner: str, number: int, version: int, kind: str) -> int:
        self._enter("rewrap_sheet")
        binding = _block_binding(credential_id, owner, number, kind)
        envelope = self._fetch_sheet(number, binding)
        if envelope.key_version < version:
            envelope = envelope.rewrapped(self._wrap(self._unwrap(envelope, binding)))
            self.sheets[credential_id, number] = envelope.stored()
        return envelope.key_version

    def retire(self, version: int) -> None:
        self._enter("retire")
        self._oldest = version

    def _enter(self, call: str) -> None:
        if call in self.during:
            self.during.pop(call)()
        if self.failing:
            raise self.failing

    def _fetch(self, binding: Binding) -> Envelope:
        if binding.credential_id not in self.stored:
            raise CredentialError(Code.CREDENTIAL_PURGED, "There is nothing under this id.")
        return read_envelope(self.stored[binding.credential_id], binding)

    def _fetch_sheet(self, number: int, binding: Binding) -> Envelope:
        if (binding.credential_id, number) not in self.sheets:
            raise CredentialError(Code.CREDENTIAL_PURGED, "There is nothing under this number.")
        return read_envelope(self.sheets[binding.credential_id, number], binding)

    def _encrypt(self, plaintext: bytes, binding: Binding) -> Envelope:
        key = os.urandom(32)
        return encrypt(plaintext, key, self._wrap(key), binding)

    def _wrap(self, key: bytes) -> str:
        newest, nonce = max(self._keys), os.urandom(12)
        wrapped = nonce + AESGCM(self._keys[newest]).encrypt(nonce, key, None)
        return f"vault:v{newest}:{base64.b64encode(wrapped).decode()}"

    def _unwrap(self, envelope: Envelope, binding: Binding) -> bytes:
        wrapped = base64.b64decode(envelope.wrapped.rpartition(":")[2])
        if not self._oldest <= envelope.key_version <= max(self._keys):
            raise binding.corrupt("is wrapped by a key version that is not there")
        try:
            return AESGCM(self._keys[envelope.key_version]).decrypt(wrapped[:12], wrapped[12:], None)
        except (InvalidTag, ValueError):
            raise binding.corrupt("has a data key that does not unwrap") from None


class FakePen:
    """A block that is ready to be written. The vault's ``during`` and ``failing`` hold for its ``write`` as well."""

    def __init__(self, vault: FakeVault, binding: Binding, number: int) -> None:
        self._vault = vault
        self._binding = binding
        self._number = number
        self._written = b""

    def write(self, plaintext: bytes) -> int:
        self._vault._enter("write")
        if self._written != plaintext:
            self._vault._seal_block(plaintext, self._binding, self._number)
            self._written = plaintext
        return self._vault._open_block(self._binding, self._number)[1].key_version


def _block_binding(credential_id: UUID, owner: str, number: int, kind: str) -> Binding:
    return Binding(owner, credential_id, f"{kind}.{number}")
