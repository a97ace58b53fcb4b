"""A notary whose key is in the test: signatures that verify, and an anchor that remembers, without Vault."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloudpush.audit.checkpoints import CheckpointBook
from cloudpush.audit.findings import Witness
from cloudpush.push.trust.checkpoints import Anchored
from cloudpush.push.trust.sealing import Sealing


@dataclass(frozen=True)
class Signed:
    """See the port."""

    signatures: Sequence[bytes]
    version: int = 1


class FakeSigner:
    """Signs with a key of its own."""

    def __init__(self) -> None:
        self.key = Ed25519PrivateKey.generate()

    def sign(self, texts: Sequence[bytes]) -> Signed:
        return Signed([self.key.sign(text) for text in texts])

    def signed(self, signature: bytes, text: bytes) -> bool:
        """Whether it signed this."""
        try:
            self.key.public_key().verify(signature, text)
        except InvalidSignature:
            return False
        return True


@dataclass
class FakeAnchor:
    """Remembers the newest checkpoint. ``trouble``: raised instead of moving, once."""

    at: Anchored | None = None
    trouble: Exception | None = None
    moves: list[Anchored] = field(default_factory=list)

    def read(self) -> Anchored | None:
        return self.at

    def move(self, to: Anchored) -> Anchored:
        if self.trouble is not None:
            trouble, self.trouble = self.trouble, None
            raise trouble
        if self.at is None or to.number > self.at.number:
            self.at = to
            self.moves.append(to)
        return self.at


class FakeNotary:
    """Seals a database's events; its witness says what verify may know from outside."""

    def __init__(self, engine: sa.Engine) -> None:
        self.signer, self.anchor = FakeSigner(), FakeAnchor()
        self.book = CheckpointBook(engine)
        self.sealing = Sealing(self.book, self.signer, self.anchor)

    def seal(self) -> int:
        """Seal what there is; how many events. Transactions of other databases of the server are waited for."""
        made = self.sealing.once()
        while made is None and self.sealing.pending:
            made = self.sealing.once()
        return made.statement.events if made else 0

    def witness(self, *saved: tuple[int, str]) -> Witness:
        """The public key, and the anchor."""
        return Witness(self.signer.signed, self.anchor.at, asked=True, saved=saved)
