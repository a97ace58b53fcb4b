"""What was asked for, what came back, and whether that is enough.

A provider may grant less than was asked (users untick boxes), more (what they granted before), and may spell a scope
otherwise. Scopes of the protocol itself (``openid``, ``offline_access``) are proved by the tokens that they bring, and
some providers never list them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cloudpush.push.grants.model import Provider

#: Spellings of one scope: what Google answers → what was asked.
_SPELLINGS = {
    "https://www.googleapis.com/auth/userinfo.email": "email",
    "https://www.googleapis.com/auth/userinfo.profile": "profile",
}
OFFLINE = "offline_access"
#: Of the protocol: not listed in the answer does not mean not granted.
_PROTOCOL = frozenset({"openid", OFFLINE})
#: RFC 6749 §3.3, within bounds.
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,500}")
#: Scopes beyond those that were asked, at most.
MOST = 100


@dataclass(frozen=True, slots=True)
class Judgement:
    """``lacking``: needed and not granted. ``less``, ``more``: than was asked, for the user to know."""

    granted: tuple[str, ...]
    less: tuple[str, ...]
    more: tuple[str, ...]
    lacking: tuple[str, ...]


def judge(provider: Provider, asked: Sequence[str], answer: str) -> Judgement:
    """Compare. ``answer``: the token answer's ``scope``; empty means as asked (RFC 6749 §5.1)."""
    granted = _said(asked, answer) if answer.split() else tuple(asked)
    return Judgement(
        granted=granted,
        less=tuple(s for s in asked if s not in granted and s not in _PROTOCOL),
        more=tuple(s for s in granted if s not in asked),
        lacking=tuple(s for s in provider.needs if s not in granted and s not in _PROTOCOL),
    )


def _said(asked: Sequence[str], answer: str) -> tuple[str, ...]:
    """The scopes in ``answer``, each once. What is none is dropped: it would reach pages, terminals and the ledger."""
    found = dict.fromkeys(_SPELLINGS.get(scope, scope) for scope in answer.split() if _SCOPE.fullmatch(scope))
    beyond = frozenset([scope for scope in found if scope not in asked][MOST:])
    return tuple(scope for scope in found if scope not in beyond)


def lasting(provider: Provider, asked: Sequence[str]) -> bool:
    """Whether a permission was asked for that outlives the browser's visit: then a refresh token must come."""
    return OFFLINE in asked or provider.parameters.get("access_type") == "offline"


def explained(provider: Provider, scopes: Sequence[str]) -> list[str]:
    """Each scope in plain words, where the operator's table has them."""
    return [provider.explains.get(scope, scope) for scope in scopes]
