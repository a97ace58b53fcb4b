"""From what somebody shows to who they are.

A token's roles are its owner's of this moment: a role that is taken away is gone from every token within two seconds, and
so is a token that was revoked. What is wrong with a token is told to nobody: unknown, expired and revoked look the same.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime

from cloudpush.errors import AccessError, Code
from cloudpush.push.access.model import ALL_SCOPES, RIGHTS, Principal, Role, Via
from cloudpush.push.access.ports import ApiToken, BearerJwts, Submitter, TokenBook
from cloudpush.push.access.tokens import PREFIX, digest, is_token

#: What was found holds for so long: a revoked token, a role that was taken away, stop within it.
KEPT_SECONDS = 2.0
#: So many are kept.
MOST_KEPT = 10_000
#: Nothing longer is looked at: identity providers' JWTs with many groups take 8 KiB.
MOST_CHARS = 16 * 1024


class Access:
    """Who asks. Thread-safe."""

    def __init__(
        self, book: TokenBook, jwts: BearerJwts | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._book = book
        self._jwts = jwts
        self._kept: _Kept = _Kept(clock)

    def identify(self, bearer: str) -> Principal:
        """Whom a bearer token stands for. Raises AccessError UNAUTHENTICATED; StoreError."""
        if not bearer or len(bearer) > MOST_CHARS:
            raise unauthenticated()
        ours = bearer.startswith(PREFIX)
        if ours and not is_token(bearer):
            raise unauthenticated("This is no whole token of CloudPush's: copy it again, all 53 characters.")
        key = digest(bearer)
        principal = self._kept.get(key)
        if principal is None:
            try:
                principal = self._of_token(key) if ours else self._of_jwt(bearer)
            except AccessError:
                self._kept.drop(key)
                raise
            self._kept.put(key, principal)
        return principal

    def kept(self, bearer: str) -> Principal | None:
        """Whom it was found to stand for a moment ago, as ``identify`` would answer. Asks nobody."""
        return self._kept.get(digest(bearer)) if len(bearer) <= MOST_CHARS else None

    def knew(self, bearer: str) -> bool:
        """Whether it was good when it was last asked about, however long ago. Asks nobody."""
        return len(bearer) <= MOST_CHARS and digest(bearer) in self._kept

    def principal_of_session(self, owner: str) -> Principal:
        """Who is signed in to the web pages: with every role of theirs, and every scope. Raises StoreError."""
        return Principal(owner, self._roles_of(owner), ALL_SCOPES, owner, Via.SESSION)

    def principal_of_message(self, by: Submitter) -> Principal:
        """Whom a submission token in a message names, with the rights that they have now.

        Raises AccessError SUBMISSION_REFUSED where the API token that it was asked for with has ended, by revocation or by its time; StoreError.
        """
        if by.token_id is not None:
            token = self._book.token(by.token_id)
            ended = token is None or token.revoked_at is not None or token.expires_at <= datetime.now(UTC)
            if token is None or ended or token.owner != by.name:
                raise AccessError(Code.SUBMISSION_REFUSED, "The API token behind this submission has ended.")
        roles = covered(by.roles, self._roles_of(by.name))
        return Principal(by.name, roles, by.scopes, by.actor, Via.BROKER)

    def _of_token(self, key: bytes) -> Principal:
        found = self._book.find_token(key)
        if found is None:
            raise unauthenticated()
        token, granted = found
        roles = narrowed(held(granted), token.role)
        return Principal(token.owner, roles, token.scopes, actor_of(token), Via.TOKEN, token.id)

    def _of_jwt(self, bearer: str) -> Principal:
        if self._jwts is None or bearer.count(".") != 2:
            raise unauthenticated()
        found = self._jwts.identify(bearer)
        roles = self._roles_of(found.owner) if found.roles is None else found.roles
        return Principal(found.owner, roles, found.scopes, f"{found.owner} (jwt)", Via.JWT)

    def _roles_of(self, owner: str) -> frozenset[Role]:
        return held(self._book.roles_of(owner))


def held(granted: frozenset[Role]) -> frozenset[Role]:
    """The roles of somebody who was granted these: whoever was granted none is a user."""
    return granted or frozenset({Role.USER})


def narrowed(roles: frozenset[Role], role: Role | None) -> frozenset[Role]:
    """``roles``, or the one that a token was made for, as long as they include what it may: who may push may let a pipeline."""
    return roles if role is None else covered(frozenset({role}), roles)


def covered(wanted: frozenset[Role], roles: frozenset[Role]) -> frozenset[Role]:
    """Those of ``wanted`` that give no right which ``roles`` do not."""
    rights = frozenset().union(*(RIGHTS[role] for role in roles))
    return frozenset(role for role in wanted if RIGHTS[role] <= rights)


def actor_of(token: ApiToken) -> str:
    """Who the record says did what was asked for with this token."""
    return f"{token.owner} (token {str(token.id)[:8]})"


def unauthenticated(why: str = "This token is not known here, has expired or was revoked.") -> AccessError:
    """The answer to whoever is nobody."""
    return AccessError(Code.UNAUTHENTICATED, why, field="authorization")


class _Kept:
    """Found principals, for a moment; what was put in first goes first. Thread-safe."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._found: OrderedDict[bytes, tuple[float, Principal]] = OrderedDict()

    def get(self, key: bytes) -> Principal | None:
        with self._lock:
            until, principal = self._found.get(key, (0.0, None))
        return principal if self._clock() < until else None

    def __contains__(self, key: bytes) -> bool:
        """Whether it was found, a moment or longer ago."""
        with self._lock:
            return key in self._found

    def drop(self, key: bytes) -> None:
        """It is found no more."""
        with self._lock:
            self._found.pop(key, None)

    def put(self, key: bytes, principal: Principal) -> None:
        with self._lock:
            self._found.pop(key, None)
            self._found[key] = self._clock() + KEPT_SECONDS, principal
            while len(self._found) > MOST_KEPT:
                self._found.popitem(last=False)
