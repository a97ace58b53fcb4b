"""Where pushes with signed URLs, and further sets for them, are stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from cloudpush.push.admission import CredentialCard
from cloudpush.push.job import Destination, Request
from cloudpush.push.states import State


@dataclass(frozen=True, slots=True)
class SignedCard:
    """What intake must know of a push to take fresh URLs for it.

    ``endpoint``: the origin that all its URLs lead to. ``manifest_sha256``: of the paths and keys that were asked
    for; None where there was no manifest, but one SAS for a tree. ``planned``: its files are known by then.
    """

    owner: str
    state: State
    planned: bool
    source: str
    uri: str
    endpoint: str
    bucket: str
    prefix: str
    manifest_sha256: bytes | None


class SignedDesk(Protocol):
    """Intake's side of the store. Every call that changes something is one transaction that appends its events."""

    def credential(self, reference: str, owner: str) -> CredentialCard | None:
        """The credential with this id, or with this name among ``owner``'s live ones."""

    def store_signed(
        self,
        request: Request,
        card: CredentialCard,
        destination: Destination,
        digest: bytes,
        *,
        hook_id: UUID | None = None,
        manifest_sha256: bytes | None = None,
    ) -> tuple[UUID, bool]:
        """Store a push whose set is ``card``, sealed and active; answers and raises as ``push.intake.Desk.store``."""

    def signed_push(self, push_id: UUID, owner: str | None) -> SignedCard:
        """The push. ``owner`` None: an operator asks.

        Raises InputError UNKNOWN_PUSH, NOT_OWNER, BAD_INPUT (not one with signed URLs).
        """

    def open_files_of(self, push_id: UUID) -> Iterator[tuple[int, str, str]]:
        """(seq, path, key) of the files that have no verdict yet, in order; streamed in constant memory."""

    def resign(
        self, push_id: UUID, credential_id: UUID, actor: str, files: int, *, planned: bool | None = None
    ) -> State:
        """From now on the push's set is ``credential_id``, sealed and active, with URLs for ``files`` files.

        What waited is queued again; what runs takes the new set at its next attempt. Returns the push's state now.
        ``planned``: whether the set is numbered as a plan says; None where that does not matter.
        Raises InputError UNKNOWN_PUSH, BAD_INPUT (the push is over, being cancelled, or was planned meanwhile; the set is not active, another
        owner's, of another origin or another push's).
        """
