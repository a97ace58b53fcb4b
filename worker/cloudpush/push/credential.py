"""What a credential is, and who asks; and what custody needs of Vault and of the record."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from cloudpush.push.job import Secret


class CredentialState(StrEnum):
    """Where a credential stands."""

    SEALING = "sealing"  # the row is there, the secret on its way to Vault
    ACTIVE = "active"  # may be used, unless it expired
    PURGING = "purging"  # may not be used; on its way out of Vault
    PURGED = "purged"  # destroyed in Vault, and seen to be gone


CREDENTIAL_TRANSITIONS: dict[CredentialState, frozenset[CredentialState]] = {
    CredentialState.SEALING: frozenset({CredentialState.ACTIVE, CredentialState.PURGING}),
    CredentialState.ACTIVE: frozenset({CredentialState.PURGING}),
    CredentialState.PURGING: frozenset({CredentialState.PURGED}),
    CredentialState.PURGED: frozenset(),
}


class Reason(StrEnum):
    """Why a credential is destroyed."""

    REQUESTED = "requested"  # its owner or an operator asked
    DUE = "due"  # its purge time has come
    ABANDONED = "abandoned"  # sealing failed or was never finished
    UNFINISHED = "unfinished"  # an earlier attempt to destroy it did not get to its end
    UNUSED = "unused"  # sealed for a push that came to nothing, or was known already
    PUSH_ENDED = "push_ended"  # signed URLs: the push that they were handed over for is over
    URLS_EXPIRED = "urls_expired"  # signed URLs: the last of them has expired
    REVOKED = "revoked"  # a consent that was taken back


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. An operator may see and purge everybody's credentials; no one can read one."""

    name: str
    operator: bool = False

    def may(self, owner: str) -> bool:
        """Whether ``owner``'s credentials are this caller's business."""
        return self.operator or self.name == owner


#: What is to be destroyed, and why.
Due = tuple[UUID, Reason]

#: Who acts when nobody asks.
SWEEPER = Caller("sweeper", operator=True)


@dataclass(frozen=True, slots=True)
class Use:
    """How often a credential was unsealed (None: not counted, lists are short of time), and by what last."""

    count: int | None = None
    last_at: datetime | None = None
    last_push: UUID | None = None
    last_worker: str = ""


@dataclass(frozen=True, slots=True)
class Credential:
    """A credential's metadata: everything but the secret."""

    id: UUID
    owner: str
    kind: str
    name: str
    profile: str
    endpoint: str
    state: CredentialState
    created_at: datetime
    created_by: str
    expires_at: datetime | None = None
    purge_after: datetime | None = None
    transit_key_version: int | None = None
    purged_at: datetime | None = None
    use: Use = field(default_factory=Use)


@dataclass(frozen=True, slots=True)
class Block:
    """A sealed block of a set or a grant. ``version``: of the key that wraps it; None where nobody told.

    ``kind``: the credential's.
    """

    credential_id: UUID
    owner: str
    number: int
    version: int | None
    sealed_at: datetime
    kind: str


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a rotation did: ``rewrapped`` counts data keys, each block of a set has one. ``failed`` keep the old key version alive until they are dealt with."""

    version: int  # of the Transit key now
    rewrapped: int
    failed: tuple[UUID, ...]
    retired: bool  # older key versions unwrap nothing any more


class Sealer(Protocol):
    """Puts secrets into Vault; cannot read them back."""

    def seal(self, credential_id: UUID, owner: str, secret: Secret) -> int:
        """Seal ``secret`` and return the version of the key that wraps its data key.

        Raises VaultError, also where something is sealed under this id already.
        """


class Keeper(Protocol):
    """Destroys and rewraps what is in Vault; cannot decrypt it."""

    def purge(self, credential_id: UUID) -> None:
        """Destroy every version and see that it is gone. Repeatable. Raises VaultError."""

    def purge_sheets(self, credential_id: UUID, numbers: Iterable[int]) -> None:
        """Destroy these blocks of a set or a grant and see that they are gone. Repeatable. Raises VaultError."""

    def rotate(self) -> int:
        """Add a version to the Transit key and return its number. Raises VaultError."""

    def newest(self) -> int:
        """The newest version of the Transit key. Raises VaultError."""

    def rewrap(self, credential_id: UUID, owner: str, kind: str, version: int) -> int:
        """Wrap the data key by the newest key version, unless it is by ``version`` or later already.

        Returns the version that wraps it now; no older wrapping is left behind. Repeatable.
        Raises VaultError, CredentialError (purged, corrupt).
        """

    def rewrap_sheet(self, credential_id: UUID, owner: str, number: int, version: int, kind: str) -> int:
        """As ``rewrap``, for one block of a credential of this ``kind``: a set's, or a grant's."""

    def retire(self, version: int) -> None:
        """Key versions before ``version`` unwrap nothing any more. Repeatable. Raises VaultError."""


class CredentialStore(Protocol):
    """Postgres. Every call is one transaction that appends its events. Raises StoreError."""

    def add(self, credential: Credential, actor: str) -> None:
        """Insert a row that is ``sealing``. Raises InputError where the owner has a live one of that name."""

    def activate(self, credential_id: UUID, key_version: int, actor: str) -> None:
        """``sealing`` → ``active``. Raises CredentialError where the row is not ``sealing`` any more."""

    def get(self, credential_id: UUID) -> Credential | None:
        """One credential with its use, counted; None where there is no such row."""

    def find(self, owner: str | None, *, purged: bool, limit: int) -> Sequence[Credential]:
        """Credentials of ``owner`` (None: of all), newest first, with their last use; ``purged`` ones on demand."""

    def start_purge(self, credential_id: UUID, reason: Reason, actor: str) -> None:
        """Any live state → ``purging``; nothing where it is ``purging`` or ``purged`` already."""

    def end_purge(self, credential_id: UUID, actor: str, unsettled_since: datetime | None) -> bool:
        """``purging`` → ``purged``; nothing where it is ``purged`` already.

        False, and ``purging`` still, where a block of it was begun after ``unsettled_since`` and nobody told that it was
        sealed: it may come yet. So it may where a refresh is under way that began less than REFRESH_PATIENCE before.
        """

    def due(self, now: datetime, sealing_before: datetime, sets_before: datetime, limit: int) -> Sequence[Due]:
        """What is to be destroyed: due, half destroyed, or ``sealing`` since before ``sealing_before``.

        A set is given up when nothing was added to it since ``sets_before`` and no push has it. What ``end_purge``
        would refuse for the sake of a block begun since ``sealing_before`` is left out.
        """

    def blocks(self, credential_id: UUID, after: int, limit: int) -> Sequence[int]:
        """Numbers of a set's or a grant's blocks, in order, from after ``after``; none for any other credential.

        Those of a grant that are destroyed already are left out.
        """

    def expire(self, now: datetime, limit: int, actor: str) -> Sequence[UUID]:
        """Append ``credential.expired``, once each, for what has expired; return whose."""

    def wrapped_before(self, version: int, after: UUID | None, limit: int) -> Sequence[Credential]:
        """``active`` credentials whose data key an older key version wraps, by id, from after ``after``."""

    def rewrapped(self, credential_id: UUID, version: int, actor: str) -> None:
        """Note that key ``version`` wraps the data key now."""

    def blocks_wrapped_before(self, version: int, after: tuple[UUID, int] | None, limit: int) -> Sequence[Block]:
        """Blocks of ``active`` sets whose data key an older key version wraps, or nobody knows which; in order.

        Of an ``active`` grant only the block of its current generation: the others are on their way out, or in.
        """

    def blocks_rewrapped(self, credential_id: UUID, numbers: Sequence[int], version: int, actor: str) -> None:
        """Note that key ``version`` wraps the data keys of these blocks now."""

    def wraps_only(self, version: int) -> bool:
        """Whether nothing is ``sealing``, and nothing ``active`` is wrapped by a key before ``version``: in one look.

        A block whose version nobody knows counts as wrapped by an older one. Of a grant's blocks its current
        generation counts, and what was begun less than REFRESH_PATIENCE ago and may come yet.
        """

    def note_rotation(self, version: int, actor: str) -> None:
        """Append that the Transit key has a new version."""

    def note_retirement(self, version: int, actor: str) -> None:
        """Append that key versions before ``version`` are retired."""
