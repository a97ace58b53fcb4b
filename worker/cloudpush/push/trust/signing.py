"""What the notary signs with, as its steps see it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Key(Protocol):
    """A version of the signing key."""

    @property
    def version(self) -> int:
        """Its number in Vault."""

    @property
    def raw(self) -> bytes:
        """Its public half: 32 bytes."""

    @property
    def kid(self) -> str:
        """Its thumbprint."""


class Signed(Protocol):
    """Signatures of one call, in the order of the texts, and the version of the key that made them all."""

    @property
    def signatures(self) -> Sequence[bytes]:
        """64 bytes each."""

    @property
    def version(self) -> int:
        """Of the key."""


class Signer(Protocol):
    """Signs with the key that nobody but Vault has."""

    def sign(self, texts: Sequence[bytes]) -> Signed:
        """Sign each text with the newest version. Raises VaultError."""


class KeyedSigner(Signer, Protocol):
    """And says what it signs with."""

    def keys(self) -> Sequence[Key]:
        """Every version, oldest first; at least one. Raises VaultError."""
