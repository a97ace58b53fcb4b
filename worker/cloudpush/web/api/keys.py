"""The public keys that receipts and checkpoints are checked with. Public: who has a receipt may have no account here."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Protocol

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from cloudpush.credentials.ed25519 import jwk_of
from cloudpush.errors import VaultError
from cloudpush.web.api.documents import NOT_MODIFIED
from cloudpush.web.api.paging import IfNoneMatch, answer

#: Seconds that Vault is not asked again: anybody may ask us.
KEPT_SECONDS = 60.0
#: Nor while it is away, where it never told them.
AWAY_SECONDS = 5.0


class Jwk(BaseModel):
    """An Ed25519 key (RFC 8037)."""

    kty: str
    crv: str
    x: str
    kid: Annotated[str, Field(description="Its thumbprint (RFC 7638).")]
    use: str
    alg: str


class KeySet(BaseModel):
    """A JWKS (RFC 7517), oldest version first."""

    keys: list[Jwk]


def router() -> APIRouter:
    """Routes."""
    made = APIRouter(tags=["audit"])
    kept = Kept()

    @made.get(
        "/keys",
        operation_id="listKeys",
        summary="The keys that receipts and checkpoints are signed with",
        response_model=KeySet,
        openapi_extra={"security": []} | IfNoneMatch,
        responses=NOT_MODIFIED,
    )
    def keys(request: Request) -> Response:
        raws = kept.get(request.app.state.services.audit_keys)
        return answer(request, {"keys": [jwk_of(raw) for raw in raws]})

    return made


class Key(Protocol):
    """A public key: 32 bytes."""

    @property
    def raw(self) -> bytes:
        """Its bytes."""


class Keys(Protocol):
    """Where they come from."""

    def keys(self) -> Sequence[Key]:
        """Every version, oldest first. Raises VaultError."""


class Kept:
    """What Vault told, for a while; and for longer while it is away. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._raws: list[bytes] = []
        self._away: VaultError | None = None
        self._until = float("-inf")

    def get(self, source: Keys) -> list[bytes]:
        """The keys. Raises VaultError where Vault never told them."""
        with self._lock:
            if self._clock() >= self._until:
                try:
                    self._raws, self._away = [key.raw for key in source.keys()], None  # noqa: SIM118 -- no mapping
                except VaultError as e:
                    self._away = None if self._raws else e
                # From when it has answered: others wait meanwhile, and must not ask in their turn.
                self._until = self._clock() + (KEPT_SECONDS if self._away is None else AWAY_SECONDS)
            if (away := self._away) is not None:
                raise VaultError(away.code, away.message, field=away.field)
            return list(self._raws)
