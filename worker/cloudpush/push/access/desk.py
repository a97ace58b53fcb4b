"""Making and ending tokens, granting roles: what somebody may of it, and the record of it.

Nobody gives away more than they have in hand: a token made with a token has no scope that the first one lacks, and no other
role than the one that the first was made for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from cloudpush.errors import AccessError, Code, InputError
from cloudpush.push.access.model import Principal, Right, Role, Scope
from cloudpush.push.access.names import checked, storable
from cloudpush.push.access.ports import ApiToken, RoleGrant, TokenBook
from cloudpush.push.access.tokens import digest, new_token

DAY_SECONDS = 86_400.0
#: A token's life unless somebody asks for another; never longer than the operator allows.
DAYS = 90
TOKEN_NAME_LENGTH = 100


@dataclass(frozen=True, slots=True)
class Made:
    """A new token. ``text`` is shown once, and is nowhere else."""

    token: ApiToken
    text: str = field(repr=False)


class TokenDesk:
    """Tokens and roles, as somebody may see and change them. Thread-safe."""

    def __init__(self, book: TokenBook, most_days: int) -> None:
        self._book = book
        self._most_days = most_days

    def create(
        self,
        asked_by: Principal,
        name: str,
        scopes: frozenset[Scope],
        *,
        role: Role | None = None,
        days: float | None = None,
        owner: str = "",
    ) -> Made:
        """A token of theirs, or of ``owner``'s where they may act for others.

        Raises AccessError FORBIDDEN, InputError, StoreError.
        """
        asked_by.need(Right.TOKENS)
        owner = asked_by.owner_to_act_for(owner)
        _check_token_name(name)
        days = min(DAYS, self._most_days) if days is None else days
        if not 0 < days <= self._most_days:
            raise InputError(
                Code.BAD_INPUT, f"days {days:g}: a token lives for at most {self._most_days} days here.", field="days"
            )
        if not scopes:
            raise InputError(Code.BAD_INPUT, f"scopes: name at least one of {', '.join(Scope)}.", field="scopes")
        if more := scopes - asked_by.scopes:
            raise AccessError(
                Code.FORBIDDEN, f"scope {' '.join(sorted(more))}: the token in use has it not itself.", field="scopes"
            )
        role = self._role(asked_by, owner, role)
        text = new_token()
        made = self._book.add_token(
            digest(text),
            owner=owner,
            name=name,
            role=role,
            scopes=scopes,
            seconds=days * DAY_SECONDS,
            actor=asked_by.actor,
        )
        return Made(made, text)

    def _role(self, asked_by: Principal, owner: str, role: Role | None) -> Role | None:
        """The role of the new token: none that whoever asks has not, but for pipelines'."""
        if role is Role.PIPELINE:
            return role
        inherited = None if (used := self.used(asked_by)) is None else used.role
        if role is None and (inherited is None or owner != asked_by.name):
            # Where an identity provider says who has which role, it may have said less than was granted here.
            if owner == asked_by.name and not self._book.roles_of(owner) <= asked_by.roles:
                raise AccessError(Code.FORBIDDEN, "role: name one of those that you have just now.", field="role")
            return None
        role = inherited if role is None else role
        if inherited not in (None, role) or (owner == asked_by.name and role not in asked_by.roles):
            raise AccessError(Code.FORBIDDEN, f"role {role}: the token in use has it not itself.", field="role")
        return role

    def used(self, asked_by: Principal) -> ApiToken | None:
        """The token that they show, if it is one of ours. Raises StoreError."""
        return self._book.token(asked_by.token_id) if asked_by.token_id is not None else None

    def list(self, asked_by: Principal, owner: str = "", *, everyone: bool = False) -> Sequence[ApiToken]:
        """Their living tokens, newest first; another's or everybody's for who may. Raises AccessError, StoreError."""
        asked_by.need(Right.TOKENS)
        if everyone:
            asked_by.need(Right.ADMIN)
            return self._book.tokens(None)
        return self._book.tokens(asked_by.owner_to_act_for(owner))

    def revoke(self, asked_by: Principal, token_id: UUID) -> ApiToken:
        """End a token of theirs, of anybody's for who may; everybody may end the one in use. Repeatable.

        Raises AccessError FORBIDDEN, InputError UNKNOWN_TOKEN, StoreError.
        """
        if token_id != asked_by.token_id:
            asked_by.need(Right.TOKENS)
        owner = None if asked_by.may(Right.ADMIN) else asked_by.name
        return self._book.revoke_token(token_id, owner, asked_by.actor)

    # -- roles ---------------------------------------------------------------------------------

    def roles(self, asked_by: Principal, principal: str = "") -> Sequence[RoleGrant]:
        """Who was granted which role. Raises AccessError, StoreError."""
        if principal != asked_by.name and not asked_by.may(Right.READ_ALL):
            asked_by.need(Right.ADMIN)
        return self._book.roles(principal or None)

    def grant(self, asked_by: Principal, principal: str, role: Role) -> bool:
        """Give a role; False where they have it. Raises AccessError, InputError, StoreError."""
        asked_by.need(Right.ADMIN)
        return self._book.grant_role(checked(principal, "principal"), role, asked_by.actor)

    def revoke_role(self, asked_by: Principal, principal: str, role: Role) -> bool:
        """Take a role; False where they have it not. Raises AccessError, InputError, StoreError."""
        asked_by.need(Right.ADMIN)
        return self._book.revoke_role(storable(principal, "principal"), role, asked_by.actor)


def _check_token_name(text: str) -> None:
    if not text or len(text) > TOKEN_NAME_LENGTH or not text.isprintable() or text != text.strip():
        what = f"name: write 1 to {TOKEN_NAME_LENGTH} printable characters, without blanks at the ends."
        raise InputError(Code.BAD_INPUT, what, field="name")
