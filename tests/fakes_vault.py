"""A vault in memory: seals with the real envelope under keys of its own, and can be sealed, lost or robbed."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from typing import Any
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cloudpush.credentials.envelope import Binding, Envelope, decrypt, encrypt, read_envelope
from cloudpush.credentials.kinds import dump, load
from cloudpush.errors import Code, CredentialError, VaultError
from cloudpush.push.job import Secret


class FakeVault:
    """Sealer, Vault and Keeper in one. ``failing`` is raised by every call while it is set.

    ``during`` runs at the start of the named call, for what happens in between: ``{"seal": callable}``.
    """

    def __init__(self) -> None:
        self.stored: dict[UUID, dict[str, Any]] = {}
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
        key = os.urandom(32)
        envelope = encrypt(dump(secret), key, self._wrap(key), Binding(owner, credential_id, secret.kind))
        self.stored[credential_id] = envelope.stored()
        return envelope.key_version

    def unseal(self, credential_id: UUID, owner: str, kind: str) -> Secret:
        self._enter("unseal")
        binding = Binding(owner, credential_id, kind)
        envelope = self._fetch(binding)
        return load(kind, decrypt(envelope, self._unwrap(envelope, binding), binding))

    def purge(self, credential_id: UUID) -> None:
        self._enter("purge")
        self.stored.pop(credential_id, None)

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
