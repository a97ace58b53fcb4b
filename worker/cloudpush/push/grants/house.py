"""Keeping house: tokens of earlier generations are destroyed in Vault soon after others took their place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol
from uuid import UUID

from cloudpush.logs import get_logger
from cloudpush.push.grants.ports import GrantStore

log = get_logger(__name__)

#: Grants that one call deals with; the rest is the next second's.
AT_ONCE = 100


class Shredder(Protocol):
    """Destroys blocks in Vault; cannot read them."""

    def purge_sheets(self, credential_id: UUID, numbers: Iterable[int]) -> None:
        """Destroy these blocks and see that they are gone. Repeatable. Raises VaultError."""


def shred_superseded(store: GrantStore, keeper: Shredder, *, limit: int = AT_ONCE) -> int:
    """Destroy what was superseded; of how many grants. Repeatable. Raises StoreError, VaultError."""
    found = store.superseded(limit)
    for grant_id, numbers in found:
        keeper.purge_sheets(grant_id, numbers)
        store.note_superseded(grant_id, numbers)
        log.info("grant.superseded", grant=str(grant_id), blocks=len(numbers))
    return len(found)
